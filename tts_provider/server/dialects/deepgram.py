"""Deepgram's speech, ``/v1/speak``: a WebSocket that takes text in pieces, and a POST. docs/deepgram.md is its description.

Text between two flushes is a *segment*, and one utterance. Segments take turns:

    Speak ──▶ the open segment, begun if need be
    Flush ──▶ the segment is complete; Flushed follows its last byte
    Clear ──▶ all segments so far are cancelled and what they had not sent is forgotten; Cleared follows
    Close ──▶ what there is is spoken, then the connection closes
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tts_provider import __version__
from tts_provider.errors import InvalidRequest, InvalidSampleRate, TTSError, UnsupportedFormat, UnsupportedMessage
from tts_provider.messages import DEFAULT_SAMPLE_RATE
from tts_provider.server.comfort import Patience
from tts_provider.server.http import error_headers
from tts_provider.server.http_audio import AudioAnswer
from tts_provider.server.http_json import JSONResponse
from tts_provider.server.reading import SPEED_RANGE, Reader, Speed
from tts_provider.server.service import SpeechService
from tts_provider.server.session import Session
from tts_provider.server.turns import Turns
from tts_provider.server.voices import substitution
from tts_provider.streaming.events import Started
from tts_provider.streaming.text import TextSource

__all__ = ["DeepgramDialect", "deepgram_routes"]

PATIENCE_S: Final = 8.0
"""Without sound before a waiting client is told that all is well; clients give up after 10 s."""
SAMPLE_RATES: Final = (8_000, 16_000, 24_000, 32_000, 48_000)
"""Hz, of what has no container."""
TELEPHONE_RATE: Final = 8_000
"""Hz of mulaw and alaw where none is asked for."""

Forms = Mapping[str, Mapping[str, str]]
"""Our format for each encoding and each container that it can have, the usual one first."""
BARE: Final[Forms] = {"linear16": {"none": "pcm"}, "mulaw": {"none": "mulaw"}, "alaw": {"none": "alaw"}}
"""What a WebSocket can carry."""
FILES: Final[Forms] = {"mp3": {"none": "mp3"}, "opus": {"ogg": "opus"}, "flac": {"none": "flac"}, "aac": {"none": "aac"}}
POST_FORMS: Final[Forms] = {**FILES, **BARE, "linear16": {"none": "pcm", "wav": "wav"}}

WANTED: Final = {
    "text": "must be a string: the text to speak",
    "url": "is not supported: send the text itself",
    "callback": "is not supported: the audio is in the answer",
    "sample_rate": f"must be one of {', '.join(map(str, SAMPLE_RATES))}",
    "speed": SPEED_RANGE,
}

T = TypeVar("T")


class _Query(msgspec.Struct):
    model: str = ""
    encoding: str = ""
    container: str = ""
    sample_rate: int = 0
    speed: Speed = 1.0
    callback: None = None


class _Body(msgspec.Struct):
    text: str
    url: None = None


class _Message(msgspec.Struct):
    type: str
    text: str | None = None


_QUERY: Final = Reader(_Query, WANTED, whole="The query makes no sense.")
_BODY: Final = Reader(_Body, WANTED, whole="The body must be a JSON object.")
_MESSAGE: Final = Reader(_Message, WANTED, whole='Messages are objects such as {"type": "Speak", "text": "Hello."}.')


class _Target:
    """Who shall speak, and in what form, as a query says it."""

    def __init__(self, query: str, service: SpeechService, forms: Forms) -> None:
        """
        Args:
            query: without its question mark. Unknown fields are ignored.
            forms: what may be asked for; the first is the default.

        Raises:
            RequestError: a field is wrong; the error names it.
        """
        asked = _QUERY.query(query)
        encoding, containers = _choose("encoding", asked.encoding, forms)
        _, self.format = _choose("container", asked.container, containers)
        sample_rate = asked.sample_rate or (TELEPHONE_RATE if encoding in ("mulaw", "alaw") else DEFAULT_SAMPLE_RATE)
        if encoding in BARE and sample_rate not in SAMPLE_RATES:
            raise InvalidSampleRate(f"'sample_rate' {WANTED['sample_rate']}.", field="sample_rate")
        foreign = asked.model.lower().startswith("aura")  # Deepgram's own voices
        self.parameters = replace(
            service.voices.named("" if foreign else asked.model), sample_rate=sample_rate, format=self.format, speed=asked.speed
        )
        self.name = asked.model or service.catalog.default
        self.uuid = str(uuid.uuid5(uuid.NAMESPACE_DNS, self.name))
        self.warning = substitution(self.name, service.catalog.default) if foreign else None


def _choose(field: str, asked: str, choices: Mapping[str, T]) -> tuple[str, T]:
    value = asked.lower() or next(iter(choices))
    if value not in choices:
        raise UnsupportedFormat(f"'{field}' must be one of {', '.join(choices)}.", field=field)
    return value, choices[value]


class DeepgramDialect:
    """One WebSocket that speaks like Deepgram. `run` serves it."""

    def __init__(self, service: SpeechService, session: Session, query: str, request_id: str) -> None:
        """`query`: the URL's, without its question mark. `request_id`: what the client was told in the handshake."""
        self._service = service
        self._session = session
        self._query = query
        self._request_id = request_id
        self._target: _Target
        self._turns = Turns[TextSource](session, service.settings.max_queued_requests, self._answer)
        self._open: TextSource | None = None
        """The segment that takes text."""
        self._patience = Patience(PATIENCE_S, self._reassure)
        self._sequence = itertools.count()
        self._warned: set[str] = set()

    async def run(self) -> None:
        """Speak with the client until it leaves, or until something goes wrong, which it is told."""
        try:
            self._target = _Target(self._query, self._service, BARE)
            name, uuid = self._target.name, self._target.uuid
            self._tell("Metadata", request_id=self._request_id, model_name=name, model_version=__version__, model_uuid=uuid)
            self._warn(self._target.warning, "MODEL_SUBSTITUTED")
            await self._session.converse(self._obey, self._turns.run, self._patience.run)
        except TTSError as error:
            self._service.metrics.told(error)
            self._tell("Error", description=error.message, err_msg=error.message, code=error.code.upper())
            self._session.fail(error)

    # --- What the server says ---

    def _tell(self, type: str, **fields: str | int) -> None:
        self._session.outbox.reply(msgspec.json.encode({"type": type, **fields}).decode())

    def _warn(self, warning: str | None, code: str, *, again: bool = False) -> None:
        """Warn, once or again, with the fields that Deepgram documents and the one that livekit reads."""
        if warning is not None and (again or warning not in self._warned):
            self._warned.add(warning)
            self._tell("Warning", description=warning, warn_msg=warning, code=code)

    async def _reassure(self) -> None:
        """Tell a client that waits for a slow engine that it does not wait in vain."""
        if self._turns.current is not None and self._turns.current.ended:
            self._warn("No sound yet: the engine is loading or busy.", "SLOW", again=True)

    # --- What the client says ---

    def _obey(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            raise UnsupportedMessage("Messages are JSON in text messages; a binary message came.")
        request = _MESSAGE.json(message)
        match request.type:
            case "KeepAlive":
                pass
            case "Clear":
                self._open = None
                self._turns.clear(lambda: self._tell("Cleared", sequence_id=next(self._sequence)))
            case _ if self._turns.finishing:
                pass
            case "Speak":
                if request.text is None:
                    raise InvalidRequest(f"'text' {WANTED['text']}.", field="text")
                self._segment().append(request.text)
            case "Flush":
                self._complete(self._segment())  # an empty one too, as clients wait for the answer
            case "Close":
                if self._open is not None:
                    self._complete(self._open)
                self._turns.finish()
            case _:
                sentence = "Ignored a message: its type must be Speak, Flush, Clear, Close or KeepAlive."
                self._warn(sentence, "UNKNOWN_MESSAGE")

    def _segment(self) -> TextSource:
        """The open segment."""
        if self._open is None:
            self._open = self._service.text_source()
            self._turns.add(self._open)
        return self._open

    def _complete(self, segment: TextSource) -> None:
        segment.end()
        self._open = None
        if segment is self._turns.current:  # the client waits from now on
            self._patience.restart()

    # --- Speaking ---

    async def _answer(self, segment: TextSource) -> None:
        async def send(audio: bytes) -> None:
            await self._session.outbox.put(audio, segment)
            self._patience.restart()

        def note(started: Started) -> None:
            for warning in started.choice.warnings:
                self._warn(warning, "IGNORED")

        if await segment.wait_speakable():
            parameters, warning = await self._service.voices.settle(self._target.name, self._target.parameters)
            self._warn(warning, "MODEL_SUBSTITUTED")
            await self._service.speak(parameters, self._target.format, segment, send, on_start=note, client=self._session)
        self._tell("Flushed", sequence_id=next(self._sequence))


def deepgram_routes(service: SpeechService, path: str) -> list[Route]:
    """The route of the POST to `path`. Its audio is sent while it is made; its errors are in Deepgram's form."""

    async def speak(request: Request) -> Response:
        request_id = str(uuid.uuid4())

        def refuse(error: TTSError) -> Response:
            service.metrics.told(error)
            body = {"err_code": error.code.upper(), "err_msg": error.message, "request_id": request_id}
            headers = {"dg-request-id": request_id, **error_headers(error)}
            return JSONResponse(body, status_code=error.http_status, headers=headers)

        try:
            text = service.text_source(_BODY.json(await request.body()).text)
            target = _Target(request.url.query, service, POST_FORMS)
            parameters, _ = await service.voices.settle(target.name, target.parameters)
        except TTSError as error:
            return refuse(error)
        headers = {"dg-request-id": request_id, "dg-model-uuid": target.uuid}
        return AudioAnswer(service, parameters, text, headers=headers, refuse=refuse)

    return [Route(path, speak, methods=["POST"])]
