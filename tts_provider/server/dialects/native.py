"""The native dialect: JSON requests in; JSON replies and binary audio out. docs/protocol.md is its description.

A connection begins in order: requests are answered one after the other, frames untagged, which is what clients of the replaced
server expect. After ``hello`` requests run side by side and each binary message begins with its stream number.

The states of a request, and who moves it:

    queued ──its turn──▶ running ──spoken──▶ done          success, and the file where one was asked for
       │                    ├──failed──▶ done              error; what was sent before is good
       └─────cancel─────────┴──────────▶ done              cancelled; what was not sent yet never is
"""

from __future__ import annotations

import itertools
import struct
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
import trio

from tts_provider import messages as wire
from tts_provider.errors import Busy, Draining, InvalidRequest, TTSError, UnsupportedMessage
from tts_provider.server.dialects.native_answers import Answer, describe_server, voice_entries
from tts_provider.server.failures import faults_as_errors
from tts_provider.server.rate import TokenBucket
from tts_provider.server.service import SpeechService
from tts_provider.server.session import UNSUPPORTED, Session
from tts_provider.streaming.text import TextSource

__all__ = ["NativeDialect"]

MAX_BINARY_MESSAGES: Final = 3
"""Binary messages from a client before it is taken for something else than a client."""
MAX_COMMANDS: Final = 16
"""`voices` and `preload` commands waiting for an answer on one connection."""
STREAM_NUMBER: Final = struct.Struct(">I")


class _Request:
    """One request of the connection, from its message to its last byte."""

    def __init__(self, parameters: wire.SpeechParameters, text: TextSource | None, stream: int) -> None:
        self.id = parameters.request_id or uuid.uuid4().hex
        self.parameters = parameters
        self.text = text
        self.stream = stream
        """Number that tags its binary messages after `hello`."""
        self.error: TTSError | None = None
        """What was wrong with it from the start."""
        self.received_at = trio.current_time()
        self.scope = trio.CancelScope()
        """Round all of its work."""

    @property
    def open(self) -> bool:
        """Whether text may still be appended."""
        return self.text is not None and not self.text.ended


class NativeDialect:
    """One connection that speaks the native dialect. `run` serves it."""

    def __init__(self, service: SpeechService, session: Session) -> None:
        self._service = service
        self._session = session
        self._outbox = session.outbox
        self._multiplexed = False
        self._requests: dict[str, _Request] = {}
        """Queued and running, oldest first."""
        self._queue: deque[_Request] = deque()
        self._queued = trio.Event()
        self._numbers = itertools.count(1)
        self._commands = 0
        self._commands_left = TokenBucket(service.settings.max_commands_per_s, trio.current_time())
        self._binary_messages = 0
        self._nursery: trio.Nursery

    async def run(self) -> None:
        """Read for ever, so that a disconnect or a cancel is seen at once, while requests are answered beside.

        Raises:
            Closed: the client left; everything it had asked for is cancelled.
        """
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._answer_in_order)
            while True:
                message = await self._session.receive()
                if isinstance(message, str):
                    self._read(message)
                else:
                    self._refuse_binary()

    def _read(self, message: str) -> None:
        try:
            request = wire.parse_request(message)
        except TTSError as error:
            self._add_failed(error, wire.request_id_of(message))
            return
        try:
            self._obey(request)
        except TTSError as error:
            self._fail(error, _id_of(request))

    def _refuse_binary(self) -> None:
        self._binary_messages += 1
        if self._binary_messages > MAX_BINARY_MESSAGES:
            self._session.end(UNSUPPORTED, "binary messages")
        self._fail(UnsupportedMessage("Requests are JSON in text messages; a binary message came."), None)

    def _fail(self, error: TTSError, request_id: str | None) -> None:
        self._service.metrics.told(error)
        self._outbox.reply(wire.encode(wire.Failure.of(error, request_id)))

    # --- Commands ---

    def _obey(self, request: wire.Request) -> None:
        match request:
            case wire.Speak(text, parameters):
                self._add(parameters, text)
            case wire.Begin(parameters):
                self._add(parameters, None)
            case wire.Append(text, request_id):
                self._open_text(request_id).append(text)
            case wire.Flush(request_id):
                self._open_text(request_id).flush()
            case wire.End(request_id):
                self._open_text(request_id).end()
            case wire.Cancel(request_id):
                self._cancel(request_id)
            case wire.Hello():
                self._multiplex()
            case wire.Info() | wire.Voices() | wire.Preload() | wire.Hello() if not self._commands_left.take(
                trio.current_time()
            ):
                limit = self._service.settings.max_commands_per_s
                raise Busy(f"At most {limit} commands may come a second.")
            case wire.Info():
                self._outbox.reply(wire.encode(describe_server(self._service)))
            case wire.Voices(model, lang):
                self._command(lambda: self._list_voices(model, lang))
            case wire.Preload(model):
                self._command(lambda: self._preload(model))

    def _open_text(self, request_id: str | None) -> TextSource:
        """The text of the request that `append`, `flush` or `end` means: the last one begun, unless it is named."""
        candidates = self._requests.values() if request_id is None else [self._requests.get(request_id)]
        found = [request for request in candidates if request is not None and request.open]
        if not found or (text := found[-1].text) is None:
            raise InvalidRequest("No request is open for text. Send 'begin' first.", field="request_id")
        return text

    def _cancel(self, request_id: str | None) -> None:
        """Cancel the named request, or the oldest."""
        request = self._requests.get(request_id) if request_id else next(iter(self._requests.values()), None)
        if request is None:
            raise InvalidRequest("There is no such request to cancel; it may have ended.", field="request_id")
        request.scope.cancel(reason="cancelled by the client")

    def _multiplex(self) -> None:
        if self._requests:
            raise InvalidRequest("'hello' must come before the first request, or when all have ended.", field="command")
        self._multiplexed = True
        self._outbox.reply(
            wire.encode(
                wire.Greeting(
                    server_version=describe_server(self._service).server_version,
                    version=wire.PROTOCOL_VERSION,
                    capabilities=["stream", "append", "cancel", "multiplex", "words", "voices", "preload"],
                    limits=self._service.limits,
                )
            )
        )

    def _command(self, answer: Callable[[], Awaitable[wire.Reply]]) -> None:
        """Answer a command that takes time beside everything else."""
        if self._commands >= MAX_COMMANDS:
            raise Busy(f"At most {MAX_COMMANDS} commands may wait on one connection.")
        self._commands += 1
        self._session.request_begins()
        self._nursery.start_soon(self._answer_command, answer)

    async def _answer_command(self, answer: Callable[[], Awaitable[wire.Reply]]) -> None:
        try:
            reply = await answer()
        except TTSError as error:
            self._service.metrics.told(error)
            reply = wire.Failure.of(error)
        finally:
            self._commands -= 1
            self._session.request_ends()
        self._outbox.reply(wire.encode(reply))

    async def _list_voices(self, model: str | None, lang: str | None) -> wire.Reply:
        if model is None:
            return wire.VoiceList(voices=voice_entries(await self._service.voices.all_listed(), lang))
        name = self._service.catalog.find(model).name
        async with self._service.catalog.use(name) as engine:
            return wire.VoiceList(voices=voice_entries([(name, voice) for voice in engine.voices()], lang))

    async def _preload(self, model: str | None) -> wire.Reply:
        name = self._service.catalog.find(model).name
        await self._service.catalog.preload(name)
        return wire.Preloaded(model=name, ready=True)

    # --- Requests ---

    def _add(self, parameters: wire.SpeechParameters, text: str | None) -> None:
        """Take a request on, or refuse it in its place."""
        try:
            if self._service.draining:
                raise Draining("The server is going away and takes no new requests.")
            source = self._service.text_source(text)
        except TTSError as error:
            self._add_failed(error, parameters.request_id, parameters)
        else:
            self._enqueue(_Request(parameters, source, next(self._numbers)))

    def _add_failed(self, error: TTSError, request_id: str | None, parameters: wire.SpeechParameters | None = None) -> None:
        """Answer a request that failed before it began, after those that came before it."""
        if self._multiplexed or not self._requests:
            self._fail(_told_to(parameters, error), request_id)
            return
        request = _Request(parameters or wire.SpeechParameters(request_id=request_id), None, next(self._numbers))
        request.error = _told_to(parameters, error)
        self._enqueue(request)

    def _enqueue(self, request: _Request) -> None:
        if request.id in self._requests:
            raise InvalidRequest("'request_id' is in use by a request that has not ended.", field="request_id")
        limit = self._service.settings.max_streams if self._multiplexed else self._service.settings.max_queued_requests + 1
        if len(self._requests) >= limit:
            raise Busy(f"At most {limit} requests may be under way on one connection.")
        self._requests[request.id] = request
        self._session.request_begins()
        if self._multiplexed:
            self._nursery.start_soon(self._answer, request)
        else:
            self._queue.append(request)
            self._queued.set()

    async def _answer_in_order(self) -> None:
        while True:
            while self._queue:
                await self._answer(self._queue.popleft())
            self._queued = trio.Event()
            await self._queued.wait()

    async def _answer(self, request: _Request) -> None:
        """Answer one request, however it ends."""
        reply: wire.Reply | None = None
        with structlog.contextvars.bound_contextvars(request=request.id):
            try:
                with faults_as_errors(), request.scope:
                    await self._speak(request)
            except TTSError as error:
                self._service.metrics.told(error)
                reply = wire.Failure.of(_told_to(request.parameters, error), request.id)
            if request.scope.cancelled_caught:
                self._outbox.discard(request)
                reply = wire.Cancelled(request_id=request.id)
            # Gone from here on, so that a cancel that comes now is told that it is too late.
            del self._requests[request.id]
            try:
                if reply is not None:
                    await self._outbox.put(wire.encode(reply), request)
            finally:
                self._session.request_ends()

    async def _speak(self, request: _Request) -> None:
        if request.error is not None or request.text is None:
            raise request.error or InvalidRequest("The request has no text.")
        tag = STREAM_NUMBER.pack(request.stream) if self._multiplexed else b""
        answer = Answer(
            outbox=self._outbox,
            owner=request,
            request_id=request.id,
            parameters=request.parameters,
            stream=request.stream if self._multiplexed else None,
            tag=tag,
            received_at=request.received_at,
        )
        await answer.give(self._service, request.text)


def _id_of(request: wire.Request) -> str | None:
    """The id that the client gave the request, or named in a command."""
    match request:
        case wire.Speak(_, parameters) | wire.Begin(parameters):
            return parameters.request_id
        case wire.Append(_, request_id):
            return request_id
        case wire.Flush(request_id) | wire.End(request_id) | wire.Cancel(request_id):
            return request_id
        case _:
            return None


def _told_to(parameters: wire.SpeechParameters | None, error: TTSError) -> TTSError:
    """`error` in the words that a client of the replaced server knows, when it speaks like one and asked for speech."""
    if parameters is not None and not parameters.stream:
        error.message = f"Failed to generate speech: {error.message}"
    return error
