"""The core: one request from its text to its audio.

Three things go on at once. A client fills the text (`TextSource`); engine calls speak pieces of it, each into its own lane,
ahead of the listener but no further than the bounds below; and `Utterance.run` empties the lanes in order, hands each event to
the dialect and waits for it. A slow listener thus holds up its own engine calls and nothing else. Everything happens inside
`run`: cancelling it stops the engine, and nothing outlives it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, TypeVarTuple, Unpack

import numpy as np
import structlog
import trio

from tts_provider.engines.base import Engine, QueueReport, Session, SpeechChunk, SpeechOptions, VoiceChoice
from tts_provider.errors import EmptyText, NoAudio, SynthesisFailed, SynthesisTimeout, TTSError
from tts_provider.streaming.characters import weigh
from tts_provider.streaming.chunker import Chunker
from tts_provider.streaming.events import AudioFrame, Event, Started
from tts_provider.streaming.lane import Encoded, Hear, Lane, LaneItem, Rendered
from tts_provider.streaming.renderer import RAW_FORMATS, Renderer, Unit
from tts_provider.streaming.text import PieceReader, TextPiece, TextSource, is_speakable

__all__ = ["Deliver", "DeliverNow", "Output", "Summary", "Utterance"]

LOOK_AHEAD_S: Final = 10.0
"""Seconds of audio that wait for the listener before no further piece of text is begun."""
FIRST_ALONE_S: Final = 0.2
"""Between the first piece and the preparation of the second: where many begin together, nobody's first call waits until
everybody's second piece has been cut. No listener can tell, for the first piece plays longer than that."""
FIRST_AUDIO_S: Final = 30.0
"""Until the first audio of a piece. Engines have shorter deadlines of their own; this one ends an engine that hangs."""
TEXT_SILENCE_S: Final = 120.0
"""Without new text after the first piece, and the text is taken for complete: what speaks it may be one of few."""
NEXT_AUDIO_S: Final = 20.0
"""Between two blocks of a piece."""
LOOKS: Final = 5
"""In the time of either, for what came meanwhile: to read the clock at each block costs more. So 20 s may become 24."""
MAX_SECONDS_FIXED: Final = 30.0
MAX_SECONDS_PER_WEIGHT: Final = 0.6
"""Audio that a piece may have at most: 30 s, and four times the slowest ordinary speech (7 characters a second)."""
MIN_SECONDS_PER_LETTER: Final = 0.008
"""Audio that a piece must have at least, its silences included: eight times as fast as ordinary speech. Less is a piece that
was cut off."""

Deliver = Callable[[Event], Awaitable[None]]
"""Takes one event; waits while the client is slow."""
DeliverNow = Callable[[list[Event]], int]
"""Takes events, from the first on, while that can be done without waiting; how many it took."""

Arguments = TypeVarTuple("Arguments")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Output:
    """What a client wants to receive."""

    format: str
    """One of `containers.FORMATS`."""
    sample_rate: int
    """Hz."""
    tap: Callable[[bytes], None] | None = None
    """Given all s16le samples as they are made, whatever the format; for a whole WAV beside the stream."""
    encoders: trio.CapacityLimiter | None = None
    """Threads for encoding, shared by all utterances: 50 streams of MP3 take half a core, which the event loop has not to
    spare. None encodes where it is called."""


@dataclass(frozen=True, slots=True)
class Summary:
    """An utterance that was spoken to its end. Times are seconds on Trio's clock."""

    samples: int
    """At the output's rate; 0 when the engine's own encoded audio was passed on."""
    length_bytes: int
    """Bytes of the output's format."""
    duration_ms: float
    sentences: int
    asked_at: float
    """When it asked the engine for a place: there was something to say."""
    session_at: float
    """When the engine gave it a place."""
    first_audio_at: float
    """When the first frame was handed to the dialect."""


class Utterance:
    """One request: its voice, its options, its text.

    `run` once; it returns when all is spoken.
    """

    def __init__(self, engine: Engine, choice: VoiceChoice, options: SpeechOptions, output: Output, text: TextSource) -> None:
        self.choice = choice
        self.output = output
        self.speaking = ""
        """The piece of text that is being heard, or was heard last; the one that is to blame for a failure."""
        self._engine = engine
        self._abilities = engine.capabilities
        if not options.words and self._abilities.max_group_weight:
            # The sentences of a group are found by their words.
            options = replace(options, words=True)
            self._words_wanted = False
        else:
            self._words_wanted = options.words
        if output.format in self._abilities.encodings and output.sample_rate == self._abilities.sample_rate and not output.tap:
            options = replace(options, encoding=output.format)
        self._encoders = output.encoders if output.format not in RAW_FORMATS and not options.encoding else None
        self._options = options
        self._text = text
        self._pieces = PieceReader(text, Chunker(choice.lang, max_weight=self._abilities.max_chunk_weight))
        self._renderer = Renderer(
            engine_rate=self._abilities.sample_rate,
            output_rate=output.sample_rate,
            format=output.format,
            lang=choice.lang,
            word_timings=self._abilities.word_timings,
            words=self._words_wanted,
            tap=output.tap,
        )
        self._lanes: list[Lane] = []
        """Those that are heard or will be, in order."""
        self._turns: deque[tuple[Unit, Lane]] = deque()
        """Those whose turn has not come."""
        self._calls = 0
        """To the engine, under way."""
        self._all_called = False
        """Whether the last piece of the text has gone to the engine."""
        self._called = trio.Event()
        """Set when there is a new turn, or will be none."""
        self._moved = trio.Event()
        """Set when there may be room for another call."""
        self._first_audio_at: float | None = None
        self._units = 0

    @property
    def engine(self) -> str:
        """Canonical name of the engine that speaks."""
        return self._engine.name

    @property
    def heard(self) -> bool:
        """Whether audio was handed to the dialect."""
        return self._first_audio_at is not None

    async def run(self, deliver: Deliver, *, now: DeliverNow | None = None, queued: QueueReport | None = None) -> Summary:
        """Speak the whole text, handing each event to `deliver`; `queued` hears of the wait for a place.

        What `now` takes of the events is not given to `deliver`. It is asked where nothing comes before an event, often in the
        task of the engine's call.

        While the text's first piece is being written no place is taken.

        Raises:
            EngineError: the engine failed; what was delivered before is good.
            EmptyText: the text ended without anything that can be spoken.
        """
        await deliver(Started(self._engine.name, self.choice))
        first = await self._next_unit()
        if first is None:
            raise EmptyText("Text cannot be empty")
        asked_at = trio.current_time()
        try:
            async with self._engine.session(self.choice, self._options, queued) as session:
                session_at = trio.current_time()
                async with trio.open_nursery() as calls:
                    self._call(calls, session, first)
                    if self._pieces.exhausted:
                        self._all_called = True
                    else:
                        calls.start_soon(self._call_on, calls, session)
                    await self._play(deliver, now)
            await self._hand_over(await self._off_the_loop(self._renderer.finish), deliver)
        except ExceptionGroup as group:
            known = _first_known(group)
            if known is None:
                raise
            raise known from group
        if self._first_audio_at is None:
            raise NoAudio("The engine made no sound for this text.")
        return Summary(
            samples=self._renderer.samples,
            length_bytes=self._renderer.bytes,
            duration_ms=self._renderer.duration_ms,
            sentences=self._renderer.sentences,
            asked_at=asked_at,
            session_at=session_at,
            first_audio_at=self._first_audio_at,
        )

    # --- Text to engine ---

    def _call(self, calls: trio.Nursery, session: Session, unit: Unit) -> None:
        """Have the engine speak `unit`, into a lane of its own."""
        lane = Lane(self._abilities.sample_rate, self._longest_s(unit), encoded=self._options.encoding is not None)
        self._lanes.append(lane)
        self._turns.append((unit, lane))
        self._called.set()
        self._calls += 1
        calls.start_soon(self._say, session, unit, lane)

    async def _say(self, session: Session, unit: Unit, lane: Lane) -> None:
        try:
            await session.say(unit.chunk, lane)
        except Exception as error:
            lane.close(_as_engine_error(error))
        else:
            lane.close()
        finally:
            self._calls -= 1
            self._moved.set()

    async def _call_on(self, calls: trio.Nursery, session: Session) -> None:
        """Have the engine speak the rest of the text, unit by unit, as far ahead as the bounds allow."""
        if self._abilities.parallel_chunks > 1:
            await trio.sleep(FIRST_ALONE_S)
        while True:
            while not self._has_room():
                self._moved = trio.Event()
                await self._moved.wait()
            with trio.move_on_after(TEXT_SILENCE_S) as patience:
                unit = await self._next_unit()
            if patience.cancelled_caught:
                self._text.end()
                unit = await self._next_unit()
            if unit is None:
                break
            self._call(calls, session, unit)
        self._all_called = True
        self._called.set()

    def _has_room(self) -> bool:
        """Whether the engine can speak another unit, and the listener will be glad of it."""
        places = self._abilities.parallel_chunks
        return self._calls < places and len(self._turns) < places and sum(lane.seconds for lane in self._lanes) < LOOK_AHEAD_S

    async def _next_unit(self) -> Unit | None:
        """The next piece that can be spoken, with the short ones after it where the engine wants them together."""
        while (piece := await self._pieces.next()) is not None:
            if is_speakable(piece.text):
                break
        else:
            return None
        pieces = [piece]
        if self._units:  # the first piece goes alone: nothing may delay the first audio
            pieces += self._companions(piece)
        unit = Unit(SpeechChunk("".join(piece.text for piece in pieces), pieces[0].start, self._units), tuple(pieces))
        self._units += 1
        return unit

    def _companions(self, piece: TextPiece) -> list[TextPiece]:
        """Pieces that follow `piece` at once and fit into one call together with it."""
        room = self._abilities.max_group_weight - weigh(piece.text)
        found: list[TextPiece] = []
        while room > 0 and (following := self._pieces.next_ready()) is not None:
            room -= weigh(following.text)
            if room < 0 or not is_speakable(following.text):
                self._pieces.put_back(following)
                break
            found.append(following)
        return found

    def _longest_s(self, unit: Unit) -> float:
        return MAX_SECONDS_FIXED + MAX_SECONDS_PER_WEIGHT * weigh(unit.chunk.text) / self._options.speed

    def _shortest_s(self, unit: Unit) -> float:
        return MIN_SECONDS_PER_LETTER * sum(map(str.isalnum, unit.chunk.text)) / max(1.0, self._options.speed)

    # --- Engine to listener ---

    async def _play(self, deliver: Deliver, now: DeliverNow | None) -> None:
        hear: Hear | None = None
        if now is not None and self._encoders is None:

            def hear(item: LaneItem) -> list[Event]:
                return self._hand_over_now(self._render(item), now)

        while (turn := await self._next_turn()) is not None:
            unit, lane = turn
            lane.play(hear)
            self._renderer.begin_unit(unit)
            self.speaking = unit.chunk.text
            while (item := await self._take(lane)) is not None:
                self._moved.set()
                await self._hand_over(await self._off_the_loop(self._render, item), deliver, now)
            del self._lanes[0]
            self._moved.set()
            await self._end_unit(unit, lane, deliver)

    async def _next_turn(self) -> tuple[Unit, Lane] | None:
        """What is to be heard next; None after the last."""
        while not self._turns:
            if self._all_called:
                return None
            self._called = trio.Event()
            await self._called.wait()
        self._moved.set()
        return self._turns.popleft()

    async def _take(self, lane: Lane) -> LaneItem | None:
        """The next item of the lane that is heard; None after the last.

        Raises:
            SynthesisTimeout: the engine makes nothing.
        """
        if lane.seconds:
            return await lane.take()
        pushed_s = lane.pushed_s
        limit_s = NEXT_AUDIO_S if pushed_s else FIRST_AUDIO_S
        silent_s = 0.0
        while silent_s < limit_s:
            with trio.move_on_after(limit_s / LOOKS):
                return await lane.take()
            silent_s += limit_s / LOOKS
            if lane.pushed_s > pushed_s:  # what was heard without our help counts
                pushed_s, limit_s, silent_s = lane.pushed_s, NEXT_AUDIO_S, 0.0
        raise SynthesisTimeout(f"The engine made no audio for {limit_s:.0f} seconds.")

    async def _end_unit(self, unit: Unit, lane: Lane, deliver: Deliver) -> None:
        await self._hand_over(await self._off_the_loop(self._renderer.end_unit), deliver)
        if not self._renderer.sounded:
            raise NoAudio(f"The engine made no sound for {_place(unit)}.")
        if lane.pushed_s < self._shortest_s(unit):
            raise SynthesisFailed(f"The engine made only {lane.pushed_s:.2f} s of audio for {_place(unit)}.")

    async def _off_the_loop(self, render: Callable[[Unpack[Arguments]], list[Event]], *args: *Arguments) -> list[Event]:
        """What `render` makes of `args`; in a thread when it encodes."""
        if self._encoders is None:
            return render(*args)
        return await trio.to_thread.run_sync(render, *args, limiter=self._encoders)

    def _render(self, item: LaneItem) -> list[Event]:
        if isinstance(item, np.ndarray):
            return self._renderer.audio(item)
        if isinstance(item, Encoded):
            return self._renderer.encoded(item.data, item.seconds)
        if isinstance(item, Rendered):
            return item.events
        return self._renderer.words(item)

    async def _hand_over(self, events: list[Event], deliver: Deliver, now: DeliverNow | None = None) -> None:
        """Deliver what one step led to: one event, then as many as can go with it without waiting, and so on."""
        if self._first_audio_at is None:
            self._note_first(events)
        while events:
            await deliver(events[0])
            events = events[1:]
            if now is not None and events:
                events = events[now(events) :]

    def _hand_over_now(self, events: list[Event], now: DeliverNow) -> list[Event]:
        """Deliver what can be delivered without waiting; returns the rest."""
        if not events:
            return events
        if self._first_audio_at is None:
            self._note_first(events)
        return events[now(events) :]

    def _note_first(self, events: list[Event]) -> None:
        if any(isinstance(event, AudioFrame) for event in events):
            self._first_audio_at = trio.current_time()


def _place(unit: Unit) -> str:
    return f"characters {unit.chunk.start} to {unit.chunk.end} of the text"


def _as_engine_error(error: Exception) -> TTSError:
    """`error` as one the client may see: nurseries wrap errors in groups, and engines may have bugs."""
    known = _first_known(error)
    if known is not None:
        return known
    log.error("engine.bug", exc_info=error)
    failure = SynthesisFailed("The engine failed.")
    failure.__cause__ = error
    return failure


def _first_known(error: BaseException) -> TTSError | None:
    if isinstance(error, TTSError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((known for inner in error.exceptions if (known := _first_known(inner)) is not None), None)
    return None
