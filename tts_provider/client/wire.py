"""What a client asks for, and replies as it reads them: `tts_provider.messages` from the other side."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, TypedDict, TypeVar

import msgspec

from tts_provider.client.errors import TTSServerError, UnexpectedReply
from tts_provider.messages import (
    Cancelled,
    Failure,
    Preloaded,
    Queued,
    Reply,
    Sentence,
    ServerInfo,
    Streaming,
    Success,
    VoiceList,
    Words,
)

__all__ = ["INFO", "PRELOADED", "SPEECH", "VOICES", "RequestOptions", "SpeechReply", "decode"]

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
