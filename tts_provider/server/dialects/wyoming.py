"""Wyoming, Home Assistant's protocol for voices. docs/wyoming.md is its description.

Home Assistant decides what is right here. It reads until the first ``audio-stop``, or until ``synthesize-stopped`` when it
streams, and heeds no ``error``: so an exchange ends with exactly one of them, whatever happened, or with the connection. A text
that is streamed comes a second time as a whole ``synthesize`` for servers that cannot stream; that copy is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

import structlog
import trio
from wyoming.event import Event
from wyoming.ping import Pong

from tts_provider.errors import Busy, InvalidRequest, TTSError
from tts_provider.messages import MAX_NAME
from tts_provider.server.dialects.wyoming_answers import SILENCE_S, Exchange, failure
from tts_provider.server.dialects.wyoming_frames import EventStream, encode
from tts_provider.server.dialects.wyoming_voices import Voices
from tts_provider.server.outbox import Outbox
from tts_provider.server.service import SpeechService
from tts_provider.server.streams import GuardedStream

__all__ = ["WyomingDialect"]

WARM_UP_S: Final = 3.0
"""For the light engines to load before the first client is let in: Home Assistant asks for the voices once."""
FINISH_S: Final = 2.0
"""For what waits to be sent when a connection ends."""

log = structlog.get_logger(__name__)


class WyomingDialect:
    """All Wyoming connections of a server."""

    def __init__(self, service: SpeechService) -> None:
        self._service = service
        self._voices = Voices(service.catalog)
        self._warm = trio.Event()
        self._conversations: set[_Conversation] = set()
        self._empty = trio.Event()

    async def warm_up(self) -> None:
        """Load the engines that load in no time, so that their voices are known; then let clients in."""
        try:
            with trio.move_on_after(WARM_UP_S):
                for entry in self._service.catalog.entries:
                    if entry.light and not entry.unavailable():
                        await self._load(entry.name)
        finally:
            self._warm.set()

    async def _load(self, engine: str) -> None:
        try:
            await self._service.catalog.preload(engine)
        except TTSError as error:
            log.warning("voices.unavailable", engine=engine, error=error.message)

    async def serve(self, stream: GuardedStream) -> None:
        """Serve one connection.

        Raises:
            Closed: the client left; everything it had asked for is cancelled.
        """
        conversation = _Conversation(self._service, self._voices, stream)
        self._conversations.add(conversation)
        try:
            await self._warm.wait()
            await conversation.run()
        finally:
            self._conversations.discard(conversation)
            if not self._conversations:
                self._empty.set()

    async def drain(self, grace_s: float) -> None:
        """End idle connections, the others as they fall idle, and after `grace_s` all."""
        self._empty = trio.Event()
        for conversation in self._conversations:
            conversation.end_if_idle()
        with trio.move_on_after(grace_s):
            if self._conversations:
                await self._empty.wait()
        for conversation in self._conversations:
            conversation.end()


def _text(data: Mapping[str, Any]) -> str:
    if not isinstance(text := data.get("text"), str):
        raise InvalidRequest("'text' must be a string: the text to speak.", field="text")
    return text


class _Conversation:
    """One connection."""

    def __init__(self, service: SpeechService, voices: Voices, stream: GuardedStream) -> None:
        self._service = service
        self._voices = voices
        self._events = EventStream(stream, service.settings.max_message_bytes)
        self._outbox = Outbox(self._events)
        self._scope = trio.CancelScope()
        self._exchanges: deque[Exchange] = deque()
        """The first is being answered."""
        self._writing: Exchange | None = None
        """Whose text is being streamed: from ``synthesize-start`` to ``synthesize-stop``, though it may have failed."""
        self._added = trio.Event()

    async def run(self) -> None:
        """Read for ever, so that a disconnect is seen at once, while requests are answered beside."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._outbox.run)
            with self._scope:
                async with trio.open_nursery() as work:
                    work.start_soon(self._answer_in_order)
                    if self._service.settings.wyoming_silence_after_s:
                        work.start_soon(self._keep_company)
                    await self._read()
                    work.cancel_scope.cancel()
            await self._outbox.stop(FINISH_S)
            nursery.cancel_scope.cancel()

    def end(self) -> None:
        self._scope.cancel(reason="ended")

    def end_if_idle(self) -> None:
        if not self._exchanges:
            self.end()

    async def _read(self) -> None:
        """Read until the client says what is no event, or nothing for too long: with no request, or amid a text."""
        while not self._scope.cancel_called:
            with trio.move_on_after(self._service.settings.idle_s) as idle:
                try:
                    event = await self._events.receive()
                except TTSError as error:
                    self._outbox.reply(failure(error))
                    return
                self._take(event)
            if idle.cancelled_caught and (self._writing is not None or not self._exchanges):
                return

    def _take(self, event: Event) -> None:
        match event.type:
            case "describe":
                self._outbox.reply(encode(self._voices.describe().event()))
            case "ping":
                text = event.data.get("text")
                self._outbox.reply(encode(Pong(text if isinstance(text, str) and len(text) <= MAX_NAME else None).event()))
            case "synthesize" if self._writing is None:
                self._add(event, streaming=False)
            case "synthesize-start" if self._writing is None:
                self._writing = self._add(event, streaming=True)
            case "synthesize-start":
                self._outbox.reply(failure(InvalidRequest("'synthesize-stop' must end one text before the next begins.")))
                self.end()
            case "synthesize-chunk" | "synthesize-stop" if self._writing is not None:
                self._write(self._writing, event)
            case _:
                pass  # the whole copy of a streamed text, or an event for another kind of service

    def _add(self, event: Event, *, streaming: bool) -> Exchange:
        exchange = Exchange(self._outbox, streaming=streaming)
        try:
            if len(self._exchanges) > self._service.settings.max_queued_requests:
                raise Busy("Too many requests wait on this connection.")
            if event.data.get("text_format") not in (None, "text"):
                raise InvalidRequest("'text_format' must be 'text'.", field="text_format")
            exchange.parameters = self._voices.parameters(event.data.get("voice") or {})
            exchange.text = self._service.text_source(None if streaming else _text(event.data))
        except TTSError as error:
            exchange.fail(error)
            if isinstance(error, Busy):
                self._outbox.reply(failure(error))
                self.end()
        self._exchanges.append(exchange)
        self._added.set()
        return exchange

    def _write(self, exchange: Exchange, event: Event) -> None:
        if event.type == "synthesize-stop":
            self._writing = None
        if exchange.error is not None or exchange.text is None:
            return
        try:
            if self._writing is None:
                exchange.text.end()
            else:
                exchange.text.append(_text(event.data))
        except TTSError as error:
            exchange.fail(error)

    async def _answer_in_order(self) -> None:
        while True:
            while self._exchanges:
                if not await self._exchanges[0].answer(self._service):
                    self.end()
                self._exchanges.popleft()
            if self._service.draining:
                self.end()
            self._added = trio.Event()
            await self._added.wait()

    async def _keep_company(self) -> None:
        while True:
            await trio.sleep(SILENCE_S)
            if self._exchanges:
                await self._exchanges[0].keep_company(self._service.settings.wyoming_silence_after_s)
