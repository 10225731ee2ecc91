"""Wyoming, Home Assistant's protocol for voices. docs/wyoming.md is its description.

An event is a line of JSON, then as many bytes of JSON and of payload as the line says. The `wyoming` package reads and writes
these with asyncio only; its events are used as they are.

    {"type": "synthesize", "version": "1.7.2", "data_length": 17}\\n{"text": "Hello"}

Home Assistant decides what is right here. It reads until the first ``audio-stop``, or until ``synthesize-stopped`` when it
streams, and heeds no ``error``: so an exchange ends with exactly one of them, whatever happened, or with the connection. A text
that is streamed comes a second time as a whole ``synthesize`` for servers that cannot stream; that copy is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event, Eventable
from wyoming.info import Attribution, Info, TtsProgram, TtsVoice
from wyoming.ping import Pong
from wyoming.tts import SynthesizeStopped
from wyoming.version import __version__ as WYOMING_VERSION

from tts_provider import __version__
from tts_provider.engines.base import Voice
from tts_provider.errors import InvalidJSON, InvalidRequest, TTSError
from tts_provider.messages import MAX_NAME, SpeechParameters
from tts_provider.server.comfort import comforted
from tts_provider.server.failures import faults_as_errors
from tts_provider.server.framed import FramedStream
from tts_provider.server.listener import Serve
from tts_provider.server.reading import NAME_LENGTH, Name, Reader
from tts_provider.server.service import SpeechService
from tts_provider.server.session import Session, Sessions
from tts_provider.server.streams import GuardedStream
from tts_provider.server.turns import Turns
from tts_provider.server.voices import Described
from tts_provider.streaming.text import TextSource

__all__ = ["serve_wyoming"]

WIDTH: Final = 2
"""Bytes of a sample."""
CHANNELS: Final = 1
NO_EVENT: Final = "This is no Wyoming event."
WANTED: Final = {
    "payload_length": "must be 0, as no event that asks for speech carries a payload",
    "text": "must be a string: the text to speak",
    "text_format": "must be 'text'",
    "voice": "must be an object",
    "name": NAME_LENGTH,
    "language": NAME_LENGTH,
    "speaker": "must be a number such as '0'",
}


class _Header(msgspec.Struct):
    type: str
    data: dict[str, Any] | None = None
    data_length: int | None = None
    payload_length: Literal[0] | None = None


class _Voice(msgspec.Struct):
    name: Name | None = None
    language: Name | None = None
    speaker: Name | None = None


class _Request(msgspec.Struct):
    voice: _Voice | None = None
    text_format: Literal["text"] | None = None


class _Text(msgspec.Struct):
    text: str


_HEADER: Final = Reader(_Header, WANTED, whole=NO_EVENT, whole_kind=InvalidJSON)
_DATA: Final = Reader(dict[str, Any], WANTED, whole=NO_EVENT, whole_kind=InvalidJSON)
_REQUEST: Final = Reader(_Request, WANTED, whole=NO_EVENT)
_TEXT: Final = Reader(_Text, WANTED, whole=NO_EVENT)


def _data_length(line: bytes) -> int:
    return _HEADER.json(line).data_length or 0


def _parse(message: bytes) -> Event:
    line, _, data = message.partition(b"\n")
    header = _HEADER.json(line)
    return Event(header.type, {**(header.data or {}), **(_DATA.json(data) if data else {})})


def _encode(message: Eventable) -> bytes:
    event = message.event()
    data = msgspec.json.encode(event.data) if event.data else b""
    payload = event.payload or b""
    lengths = {"data_length": len(data), "payload_length": len(payload)}
    header = {"type": event.type, "version": WYOMING_VERSION, **{name: length for name, length in lengths.items() if length}}
    return msgspec.json.encode(header) + b"\n" + data + payload


def _describe(voices: Mapping[str, Sequence[Voice]]) -> bytes:
    """The server as one program, as Home Assistant uses only the first."""
    program = TtsProgram(
        name="tts-provider",
        attribution=Attribution("tts-provider", ""),
        installed=True,
        description="Self-hosted text-to-speech",
        version=__version__,
        voices=[
            TtsVoice(
                name=f"{engine}:{voice.id}",
                attribution=Attribution(engine, ""),
                installed=True,
                description=f"{voice.name} ({engine})",
                version=None,
                languages=[voice.language],
            )
            for engine, own in voices.items()
            for voice in own
        ],
        supports_synthesize_streaming=True,
    )
    return _encode(Info(tts=[program]))


def serve_wyoming(service: SpeechService, sessions: Sessions) -> Serve:
    """What serves a connection of the port. Clients are let in when the voices are known: Home Assistant asks for them once."""
    info = Described(service.voices, _describe)

    async def serve(stream: GuardedStream) -> None:
        await service.voices.warm.wait()
        transport = FramedStream(stream, _data_length, service.settings.max_message_bytes)
        await sessions.serve_framed(transport, lambda session: _Conversation(service, session, info.get).run())

    return serve


@dataclass(frozen=True, slots=True, eq=False)
class _Exchange:
    """One request. All of its audio has one format."""

    text: TextSource
    parameters: SpeechParameters
    streaming: bool


class _Conversation:
    """One connection. `run` serves it."""

    def __init__(self, service: SpeechService, session: Session, info: Callable[[], bytes]) -> None:
        self._service = service
        self._session = session
        self._info = info
        self._turns = Turns[_Exchange](session, service.settings.max_queued_requests, self._answer)
        self._writing: TextSource | None = None
        """What is being streamed: from ``synthesize-start`` to ``synthesize-stop``, though it may have failed."""

    async def run(self) -> None:
        """Speak with the client until it leaves or says what is no event."""
        try:
            await self._session.converse(self._obey, self._turns.run)
        except TTSError as error:
            self._service.metrics.told(error)
            self._reply(Error(text=error.message, code=error.code))
            self._session.fail(error)

    def _reply(self, message: Eventable) -> None:
        self._session.outbox.reply(_encode(message))

    def _obey(self, message: str | bytes) -> None:
        assert isinstance(message, bytes)
        event = _parse(message)
        match event.type:
            case "describe":
                self._session.outbox.reply(self._info())
            case "ping":
                text = event.data.get("text")
                self._reply(Pong(text if isinstance(text, str) and len(text) <= MAX_NAME else None))
            case "synthesize" if self._writing is None:
                self._begin(event, streaming=False)
            case "synthesize-start":
                if self._writing is not None:
                    raise InvalidRequest("'synthesize-stop' must end one text before the next begins.")
                self._writing = self._begin(event, streaming=True)
            case "synthesize-chunk" | "synthesize-stop" if self._writing is not None:
                self._write(self._writing, event)
            case _:
                pass  # the whole copy of a streamed text, or an event for another kind of service
        self._session.text_waits(self._writing is not None)

    def _begin(self, event: Event, *, streaming: bool) -> TextSource:
        text, parameters = self._service.text_source(), SpeechParameters()
        try:
            voice = _REQUEST.object(event.data).voice or _Voice()
            parameters = self._service.voices.named(voice.name or "", lang=voice.language, speaker=voice.speaker)
            if not streaming:
                text = self._service.text_source(_TEXT.object(event.data).text)
        except TTSError as error:
            text.fail(error)
        self._turns.add(_Exchange(text, parameters, streaming))
        return text

    def _write(self, text: TextSource, event: Event) -> None:
        try:
            if event.type == "synthesize-stop":
                self._writing = None
                text.end()
            else:
                text.append(_TEXT.object(event.data).text)
        except TTSError as error:
            text.fail(error)

    async def _answer(self, exchange: _Exchange) -> None:
        """Speak, and end the exchange whatever became of it."""
        rate = exchange.parameters.sample_rate
        sent_s: float | None = None  # before ``audio-start``

        async def put(message: Eventable) -> None:
            await self._session.outbox.put(_encode(message), exchange)

        async def send(samples: bytes) -> None:
            nonlocal sent_s
            if sent_s is None:
                await put(AudioStart(rate, WIDTH, CHANNELS, timestamp=0))
                sent_s = 0.0
            await put(AudioChunk(rate, WIDTH, CHANNELS, samples, timestamp=round(1000 * sent_s)))
            sent_s += len(samples) / (WIDTH * CHANNELS * rate)

        try:
            with faults_as_errors():
                async with comforted(send, rate, self._service.settings.wyoming_silence_after_s) as send_speech:
                    await self._service.speak(exchange.parameters, "pcm", exchange.text, send_speech, client=self._session)
        except TTSError as error:
            self._service.metrics.told(error)
            await put(Error(text=error.message, code=error.code))
            if not exchange.streaming:  # with a proper end, half a text would be taken for the whole, and kept
                self._session.fail(error)
                return
        if sent_s is not None:
            await put(AudioStop(timestamp=round(1000 * sent_s)))
        if exchange.streaming:
            await put(SynthesizeStopped())
