"""Text to audio, one turn at a time: asked for, received, tried again where that is safe, checked, decoded and handed over."""

from __future__ import annotations

import random
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final

import trio

from tts_provider.engines.base import Sink
from tts_provider.engines.edge import service
from tts_provider.engines.edge.connections import Connections
from tts_provider.engines.edge.deadlines import Deadlines
from tts_provider.engines.edge.failures import TurnFailed
from tts_provider.engines.edge.frames import BrokenFrames
from tts_provider.engines.edge.marks import WordLocator
from tts_provider.engines.edge.mp3 import SAMPLE_RATE, TAIL_BYTES, DecodingError, Mp3Decoder, ends_in_silence
from tts_provider.engines.edge.precedence import Precedence
from tts_provider.engines.edge.protocol import ProtocolError, TurnReader
from tts_provider.engines.edge.slots import TurnSlots
from tts_provider.engines.edge.tap import Goodbye, Lost
from tts_provider.engines.edge.text import speakable
from tts_provider.engines.edge.turn import Turn
from tts_provider.engines.edge.wire import Connection
from tts_provider.errors import NoAudio, Overloaded, SynthesisFailed, SynthesisTimeout, TTSError

__all__ = ["Order", "TurnMaker"]

RETRIES: Final = 2
PAUSE_S: Final = 0.2
"""Longest pause before the first retry; twice that before the second. The real one is drawn between nothing and this."""
AGREEMENT_S: Final = 0.1
"""By how much the audio may be shorter than its words or its bytes promise before it counts as cut off."""
HEARD_S: Final = 0.25
"""Of audio, before which a request counts as unheard: it may begin with silence, which nobody is sent."""
FIRST_SOUND_S: Final = 0.15
"""Of audio, before any is decoded: turns begin with 0.17 to 0.19 s of silence, so that nobody waits for it."""
FIRST_BLOCK_S: Final = 0.25
"""Longest first block: nobody shall wait for the decoding of more."""
BLOCK_S: Final = 1.0
"""Longest block of audio that is handed over at once."""
GATHER_S: Final = 0.002
"""How long messages may gather before they are read, for each turn that is under way: ten cost little more than one."""
CROWD: Final = 5
"""Turns under way, below which nobody waits."""
GATHER_AT_MOST_S: Final = 0.1
GATHER_AFTER_S: Final = 0.25
"""Of audio, before messages may gather: there is sound by then."""
REQUEST_REFUSED: Final = 1007
"""Close code with which the service refuses what it cannot read; another try would end the same."""


@dataclass(frozen=True, slots=True)
class Order:
    """What one turn shall say."""

    voice: str
    """Full name of a listed voice."""
    speed: float
    text: str
    """Cleaned, not yet escaped."""
    offset: int
    """Where `text` begins in the chunk, in code points."""
    start_s: float
    """How much of the chunk's audio came before."""
    first: bool
    """Whether the request has not been heard at all yet."""


class TurnMaker:
    """Makes turns for all sessions of an engine."""

    def __init__(self, connections: Connections, slots: TurnSlots, deadlines: Deadlines) -> None:
        self._connections = connections
        self._slots = slots
        self._deadlines = deadlines
        self._precedence = Precedence()

    async def speak(self, order: Order, sink: Sink, *, encoded: bool) -> float:
        """Say `order` into `sink`; returns how many seconds of audio were pushed.

        Reception runs beside the pushing and is never held up by it.

        Raises:
            TTSError: it could not be said, or not to its end.
        """
        turn = Turn()
        pushed_s = 0.0
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fetch, order, turn)
            try:
                with self._precedence.first(turn) if order.first else nullcontext():
                    pushed_s = await (_push_encoded(turn, sink) if encoded else self._push_decoded(turn, sink))
            except Exception as error:  # taken out of the nursery by hand, for that would wrap it in a group
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return pushed_s

    async def _fetch(self, order: Order, turn: Turn) -> None:
        """Receive a turn into `turn`, which learns of every failure."""
        try:
            async with self._slots.slot(first=order.first, timeout_s=self._deadlines.slot_s):
                await self._fetch_with_retries(order, turn)
            turn.complete()
        except TurnFailed as failed:
            turn.fail(failed.error)
        except TTSError as error:
            turn.fail(error)
        except trio.TooSlowError:
            turn.fail(Overloaded("Too many requests are being spoken through Edge at the moment."))

    async def _fetch_with_retries(self, order: Order, turn: Turn) -> None:
        deadline = trio.current_time() + self._deadlines.first_audio_s
        idle = self._connections.idle()
        retries = 0
        while True:
            try:
                return await self._attempt(order, turn, idle, deadline)
            except TurnFailed as failed:
                if turn.touched:
                    raise
                if idle is not None and isinstance(failed.__cause__, (Lost, Goodbye)):
                    pause_s = 0.0  # it had died while it waited for work, which does not count
                else:
                    pause_s = random.uniform(0, PAUSE_S * 2**retries)
                    if not failed.again or retries == RETRIES or trio.current_time() + pause_s >= deadline:
                        raise
                    retries += 1
            turn.restart()
            idle = None
            await trio.sleep(pause_s)

    async def _attempt(self, order: Order, turn: Turn, connection: Connection | None, deadline: float) -> None:
        """Receive a turn over `connection`, or a new one, to its end; the first audio must be there before `deadline`."""
        limit = min(deadline, trio.current_time() + self._deadlines.attempt_s)
        with trio.move_on_at(limit) as patience:
            if connection is None:
                connection = await self._connections.open()
            try:
                await self._converse(order, turn, connection, patience)
            except BaseException:
                connection.abort()
                raise
            connection.release()
        if patience.cancelled_caught:
            if connection is None:
                what = "did not accept a connection in time"
            else:
                what = "stopped in the middle of the audio" if turn.size else "sent no audio in time"
            raise TurnFailed(SynthesisTimeout(f"Edge's speech service {what}."), again=True)

    async def _converse(self, order: Order, turn: Turn, connection: Connection, patience: trio.CancelScope) -> None:
        """Ask for a turn and receive it; once audio comes, `patience` is the one for the next message."""
        reader = TurnReader()
        locator = WordLocator(order.text, order.offset, order.start_s)
        words_end_s = 0.0
        tail = b""
        ended = False
        try:
            speech = service.speech_message(order.voice, order.speed, service.escaped(order.text))
            await connection.send(service.config_message(), speech)
            while not ended:
                progress = reader.read(await connection.receive())
                marks = [mark for mark in map(locator.locate, progress.boundaries) if mark is not None]
                words_end_s = max(words_end_s, *(boundary.end_s for boundary in progress.boundaries), 0.0)
                turn.put(progress.audio, marks)
                tail = (tail + progress.audio)[-TAIL_BYTES:]
                ended = progress.ended
                if turn.seconds >= GATHER_AFTER_S and self._slots.taken >= CROWD:
                    connection.gather(min(self._slots.taken * GATHER_S, GATHER_AT_MOST_S))
                if turn.size:
                    patience.deadline = trio.current_time() + self._deadlines.gap_s
        except (ProtocolError, BrokenFrames) as error:
            raise TurnFailed(SynthesisFailed(f"Edge's speech service sent {error}."), again=False) from error
        except SynthesisFailed as error:
            raise TurnFailed(error, again=False) from error
        except Lost as error:
            message = "The connection to Edge's speech service was lost before the end of the audio."
            raise TurnFailed(SynthesisFailed(message), again=True) from error
        except Goodbye as error:
            message = f"Edge's speech service closed the connection before the end of the audio (code {error.code})."
            raise TurnFailed(SynthesisFailed(message), again=error.code != REQUEST_REFUSED) from error
        if turn.format is None:
            raise TurnFailed(NoAudio("Edge's speech service sent no audio for this text."), again=True)
        # The service can end a turn early as if that were its end. Then words are promised that were never heard, or words of
        # the text are neither promised nor is there the silence in which every whole turn ends.
        if turn.seconds + AGREEMENT_S < words_end_s or (speakable(locator.rest) and not ends_in_silence(tail, order.speed)):
            raise TurnFailed(SynthesisFailed("Edge's speech service ended the audio before the end of the text."), again=True)

    async def _push_decoded(self, turn: Turn, sink: Sink) -> float:
        """Hand a turn over as samples; returns its length in seconds.

        The first samples go out at once. Then the blocks grow with the lead over a listener who plays them as they come, up to
        half of it: decoding and pushing much at a time is what makes the engine cheap, and nobody waits for it.
        """
        decoder = Mp3Decoder()
        samples_pushed = 0
        began_at: float | None = None
        while True:
            pushed_s = samples_pushed / SAMPLE_RATE
            wanted_s = _wanted_s(began_at, pushed_s) if samples_pushed else FIRST_SOUND_S
            piece = await turn.take(wanted_s, BLOCK_S if samples_pushed else FIRST_BLOCK_S)
            if piece.marks:
                await sink.words(piece.marks)
            await self._precedence.give_way(turn)
            try:
                samples = decoder.decode(piece.mp3, last=piece.last)
            except DecodingError as error:
                raise SynthesisFailed("Edge's speech service sent audio that cannot be decoded.") from error
            if began_at is None:
                began_at = trio.current_time()
            samples_pushed += len(samples)
            await sink.audio(samples)
            if samples_pushed >= HEARD_S * SAMPLE_RATE:
                self._precedence.heard(turn)
            if piece.last:
                break
        if samples_pushed / SAMPLE_RATE + AGREEMENT_S < turn.seconds:
            raise SynthesisFailed("Edge's speech service sent audio of which a part cannot be decoded.")
        return samples_pushed / SAMPLE_RATE


async def _push_encoded(turn: Turn, sink: Sink) -> float:
    """Hand a turn over as the MP3 that it is; returns its length in seconds."""
    pushed_s = 0.0
    began_at: float | None = None
    while True:
        piece = await turn.take(_wanted_s(began_at, pushed_s), BLOCK_S)
        if piece.marks:
            await sink.words(piece.marks)
        assert turn.format is not None
        seconds = turn.format.seconds(len(piece.mp3))
        if began_at is None:
            began_at = trio.current_time()
        pushed_s += seconds
        if piece.mp3:
            await sink.encoded(piece.mp3, seconds)
        if piece.last:
            return pushed_s


def _wanted_s(began_at: float | None, pushed_s: float) -> float:
    """How much audio to gather before the next block."""
    if began_at is None:
        return 0.0
    lead_s = pushed_s - (trio.current_time() - began_at)
    return min(max(lead_s / 2, 0.0), BLOCK_S)
