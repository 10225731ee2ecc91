"""Deepgram's speech over a WebSocket, ``/v1/speak``: text in pieces in; audio and acknowledgements out. docs/deepgram.md.

Text between two flushes is a *segment*, and one utterance. Segments are spoken in order; what was said before a ``Clear`` is a
*turn*, and ends with it:

    Speak ──▶ segment of the current turn (opened if need be)
    Flush ──▶ the segment is complete; Flushed follows its last byte
    Clear ──▶ the turn is cancelled, what it had not sent is forgotten, Cleared follows; a new turn begins at once
    Close ──▶ what there is is spoken, then the connection closes
"""

from __future__ import annotations

import itertools
import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import Final

import trio

from tts_provider import __version__
from tts_provider.errors import Busy, EmptyText, RequestError, TTSError
from tts_provider.server.dialects.deepgram_messages import encode, parse_message
from tts_provider.server.dialects.deepgram_query import Target, parse_query, settle_voice
from tts_provider.server.service import SpeechService
from tts_provider.server.session import NORMAL, POLICY, Session
from tts_provider.server.websocket import Closed
from tts_provider.streaming.events import AudioFrame, Event, Started
from tts_provider.streaming.text import TextSource, is_speakable

__all__ = ["DeepgramDialect"]

PATIENCE_S: Final = 8.0
"""Without sound before a waiting client is told that all is well; clients give up after 10 s."""
MAX_CLEARS: Final = 16
"""`Clear`s under way. A client that sends more faster than an engine stops is dropped."""
INTERNAL_ERROR: Final = 1011
"""Close code of RFC 6455 for what went wrong on this side; what Deepgram closes with then."""


@dataclass(slots=True)
class _Segment:
    """Text up to a flush."""

    text: TextSource
    speakable: bool = False
    """Whether anything in it has a sound so far."""


@dataclass(slots=True, eq=False)
class _Turn:
    """What is said until a `Clear`; stands for all of it in the outbox."""

    segments: deque[_Segment] = field(default_factory=deque)
    """Not yet spoken to the end, oldest first."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    """Round all of its speaking."""
    changed: trio.Event = field(default_factory=trio.Event)

    @property
    def open(self) -> _Segment | None:
        """The segment that takes text."""
        return self.segments[-1] if self.segments and not self.segments[-1].text.ended else None


class DeepgramDialect:
    """One connection that speaks like Deepgram. `run` serves it."""

    def __init__(self, service: SpeechService, session: Session, query: str) -> None:
        """`query`: the URL's, without its question mark."""
        self._service = service
        self._session = session
        self._outbox = session.outbox
        self._query = query
        self._target: Target
        self._turns = deque([_Turn()])
        """The current one last; before it those that a `Clear` is ending."""
        self._closing = False
        self._sequence = itertools.count()
        self._sound_at = trio.current_time()
        """When the client last heard something, or began to wait."""
        self._warned: set[str] = set()

    async def run(self) -> None:
        """Read for ever, so that a disconnect or a `Clear` is seen at once, while segments are spoken beside.

        Raises:
            Closed: the client left; everything it had asked for is cancelled.
        """
        try:
            self._target = parse_query(self._query, self._service, streaming=True)
            self._tell(
                "Metadata",
                request_id=str(uuid.uuid4()),
                model_name=self._target.name,
                model_version=__version__,
                model_uuid=self._target.uuid,
            )
            self._warn(self._target.warning, "MODEL_SUBSTITUTED")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._answer)
                nursery.start_soon(self._reassure)
                while True:
                    self._obey(await self._session.receive())
        except* TTSError as group:
            error = group.exceptions[0]
            assert isinstance(error, TTSError)
            self._fail(error)

    # --- What the server says ---

    def _tell(self, type: str, **fields: str | int) -> None:
        self._outbox.reply(encode(type, **fields))

    def _warn(self, warning: str | None, code: str) -> None:
        """Tell each warning once, with the fields that Deepgram documents and the one that livekit reads."""
        if warning is not None and warning not in self._warned:
            self._warned.add(warning)
            self._tell("Warning", description=warning, warn_msg=warning, code=code)

    def _fail(self, error: TTSError) -> None:
        self._tell("Error", description=error.message, err_msg=error.message, code=error.code.upper())
        code = error.close_code or (POLICY if isinstance(error, RequestError) else INTERNAL_ERROR)
        self._session.end(code, error.code)

    # --- What the client says ---

    def _obey(self, message: str | bytes) -> None:
        request = parse_message(message)
        match request.type:
            case "KeepAlive":
                pass
            case "Speak" if not self._closing:
                self._speak(request.text or "")
            case "Flush" if not self._closing:
                self._flush()
            case "Clear":
                self._clear()
            case "Close":
                self._close()
            case _ if not self._closing:
                self._warn("Ignored a message: its type must be Speak, Flush, Clear, Close or KeepAlive.", "UNKNOWN_MESSAGE")

    def _speak(self, text: str) -> None:
        segment = self._turns[-1].open or self._open_segment()
        segment.text.append(text)
        if is_speakable(text):
            segment.speakable = True
            self._turns[-1].changed.set()

    def _open_segment(self) -> _Segment:
        turn = self._turns[-1]
        limit = self._service.settings.max_queued_requests + 1
        if len(turn.segments) >= limit:
            raise Busy(f"At most {limit} flushes may wait on one connection.")
        segment = _Segment(self._service.text_source())
        turn.segments.append(segment)
        self._session.request_begins()
        return segment

    def _flush(self) -> None:
        """Complete the segment; an empty one is answered too, as clients wait for that."""
        segment = self._turns[-1].open or self._open_segment()
        segment.text.end()
        if segment is self._turns[-1].segments[0]:  # the client waits from now on
            self._sound_at = trio.current_time()
        self._turns[-1].changed.set()

    def _clear(self) -> None:
        if len(self._turns) > MAX_CLEARS:
            raise Closed
        self._turns[-1].scope.cancel(reason="cleared by the client")
        self._turns.append(_Turn())

    def _close(self) -> None:
        self._closing = True
        if (segment := self._turns[-1].open) is not None:
            segment.text.end()
        self._turns[-1].changed.set()

    # --- Speaking ---

    async def _answer(self) -> None:
        """Speak the turns, one after the other."""
        while True:
            turn = self._turns[0]
            with turn.scope:
                await self._answer_turn(turn)
            # Only a `Clear` leads here. The turn's task has stopped, so that nothing of it can follow.
            self._outbox.discard(turn)
            for _ in turn.segments:
                self._session.request_ends()
            self._turns.popleft()
            self._tell("Cleared", sequence_id=next(self._sequence))

    async def _answer_turn(self, turn: _Turn) -> None:
        while True:
            while turn.segments and (turn.segments[0].text.ended or turn.segments[0].speakable):
                segment = turn.segments[0]
                if segment.speakable:
                    await self._say(turn, segment)
                await self._outbox.put(encode("Flushed", sequence_id=next(self._sequence)), turn)
                turn.segments.popleft()
                self._session.request_ends()
            if self._closing and not turn.segments:
                self._session.end(NORMAL, "closed by the client")
            turn.changed = trio.Event()
            await turn.changed.wait()

    async def _say(self, turn: _Turn, segment: _Segment) -> None:
        async def deliver(event: Event) -> None:
            if isinstance(event, AudioFrame):
                await self._outbox.put(event.data, turn)
                self._sound_at = trio.current_time()
            elif isinstance(event, Started):
                for warning in event.choice.warnings:
                    self._warn(warning, "IGNORED")

        try:
            self._target = await settle_voice(self._target, self._service)
            self._warn(self._target.warning, "MODEL_SUBSTITUTED")
            parameters = self._target.parameters
            async with self._service.utterance(parameters, parameters.format or "pcm", segment.text) as speech:
                await speech.run(deliver)
        except EmptyText:
            pass  # nothing but blanks and punctuation; Flushed answers that

    async def _reassure(self) -> None:
        """Tell a client that waits for a slow engine that it does not wait in vain."""
        while True:
            await trio.sleep_until(self._sound_at + PATIENCE_S)
            if trio.current_time() >= self._sound_at + PATIENCE_S:
                self._sound_at = trio.current_time()
                segments = self._turns[-1].segments
                if segments and segments[0].text.ended:
                    warning = "No sound yet: the engine is loading or busy."
                    self._tell("Warning", description=warning, warn_msg=warning, code="SLOW")
