"""Requests as the client writes them, and replies as it reads them: `tts_provider.messages` from the other side."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Any, Final, TypedDict, TypeVar

import msgspec

from tts_provider.client.errors import TTSServerError, UnexpectedReply
from tts_provider.messages import (
    Append,
    Begin,
    Cancel,
    Cancelled,
    End,
    Failure,
    Flush,
    Hello,
    Info,
    Preload,
    Preloaded,
    Queued,
    Reply,
    Request,
    Sentence,
    ServerInfo,
    Speak,
    SpeechParameters,
    Streaming,
    Success,
    VoiceList,
    Voices,
    Words,
)

__all__ = ["INFO", "PRELOADED", "SPEECH", "VOICES", "RequestOptions", "SpeechReply", "decode", "encode_request"]

QUOTED: Final = 100
"""Characters of an unexpected reply that an error shows."""

SpeechReply = Queued | Streaming | Sentence | Words | Success | Cancelled
"""What a request for speech is answered, but for the failure."""

NO_CODE: Final = "internal"
"""The code of an error reply that has none, as the replaced server's."""


class _BareFailure(Reply, tag="error"):
    message: str


class RequestOptions(TypedDict, total=False):
    """How a text shall be spoken; each is optional."""

    model: str | None
    """Engine: ``edge``, ``espeak``, ``sesame``, ``zonos``; the server's default when None."""
    voice: str | None
    """The engine's own name for a voice, as `TTSClient.voices` lists them; wins over `speaker`."""
    speaker: int
    """Unified speaker id: 0 primary, 1 secondary, 2 tertiary, 3 quaternary."""
    lang: str
    """IETF tag, such as ``en-US``."""
    sample_rate: int
    """Hz."""
    format: str | None
    """``wav`` (``pcm`` for a stream), ``pcm``, ``mp3``, ``opus`` or ``flac``."""
    speed: float
    """Rate relative to the voice's own, 0.25 to 4."""
    timestamps: bool
    """Whether a stream yields `Words`."""
    extra: Mapping[str, Any]
    """Options of one engine only."""


T = TypeVar("T")


def _or_failure(kinds: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kinds | Failure)


SPEECH: Final[msgspec.json.Decoder[SpeechReply]] = _or_failure(SpeechReply)
INFO: Final[msgspec.json.Decoder[ServerInfo]] = _or_failure(ServerInfo)
VOICES: Final[msgspec.json.Decoder[VoiceList]] = _or_failure(VoiceList)
PRELOADED: Final[msgspec.json.Decoder[Preloaded]] = _or_failure(Preloaded)
_BARE_FAILURE: Final = msgspec.json.Decoder(_BareFailure)


def decode(message: str | bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """The reply in `message`, one of those that `decoder` was made for.

    Raises:
        TTSServerError: it is the server's error reply.
        UnexpectedReply: it is none of them, or binary.
    """
    if isinstance(message, bytes):
        raise UnexpectedReply(f"The server sent {len(message)} bytes of audio where a reply was due.")
    try:
        reply: T | Failure = decoder.decode(message)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        with suppress(msgspec.DecodeError, UnicodeError, RecursionError):
            bare = _BARE_FAILURE.decode(message)
            raise TTSServerError(Failure(message=bare.message, code=NO_CODE, retryable=False)) from error
        raise UnexpectedReply(f"The server's reply is none of this protocol: {message[:QUOTED]!r}.") from error
    if isinstance(reply, Failure):
        raise TTSServerError(reply)
    return reply


def encode_request(request: Request) -> str:
    """The text message that carries `request`; what is at its default is left out."""
    match request:
        case Speak(text, parameters):
            written: dict[str, Any] = {"text": text} | _speech(parameters)
        case Begin(parameters):
            written = {"command": "begin"} | _speech(parameters)
        case Append(text, request_id):
            written = {"command": "append", "text": text, "request_id": request_id}
        case Flush(request_id):
            written = {"command": "flush", "request_id": request_id}
        case End(request_id):
            written = {"command": "end", "request_id": request_id}
        case Cancel(request_id):
            written = {"command": "cancel", "request_id": request_id}
        case Hello(version):
            written = {"command": "hello", "version": version}
        case Info():
            written = {"command": "info"}
        case Voices(model, lang):
            written = {"command": "voices", "model": model, "lang": lang}
        case Preload(model):
            written = {"command": "preload", "model": model}
    return msgspec.json.encode({name: value for name, value in written.items() if value is not None}).decode()


_DEFAULTS: Final = SpeechParameters()
_WIRE_NAMES: Final = {"extra": "extra_params"}
_NOT_SENT: Final = ("warnings",)


def _speech(parameters: SpeechParameters) -> dict[str, Any]:
    return {
        _WIRE_NAMES.get(name, name): getattr(parameters, name)
        for name in (field.name for field in fields(SpeechParameters) if field.name not in _NOT_SENT)
        if getattr(parameters, name) != getattr(_DEFAULTS, name)
    }
