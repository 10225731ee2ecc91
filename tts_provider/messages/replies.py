"""What a client is answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from tts_provider.errors import TTSError


class Reply(msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="status"):
    """The base of all replies; ``status`` tells them apart."""


class Queued(Reply, tag="queued"):
    """The model is loading, or every place is taken."""

    message: str
    queue_position: int
    request_id: str | None = None
    progress: float | None = None
    """Share of the loading that is done, 0 to 1."""


class Streaming(Reply, tag="streaming"):
    """The first answer to a streaming request."""

    request_id: str
    model: str
    """The engine that was asked for."""
    voice: str
    lang: str
    sample_rate: int
    """Hz, of the audio that follows."""
    format: str
    channels: int
    warnings: Sequence[str]
    engine_used: str | None = None
    """The engine that speaks in place of `model`, which failed."""
    stream: int | None = None
    """The number before each of its binary messages, on a multiplexed connection."""


class Sentence(Reply, tag="sentence"):
    """The binary messages from here on speak this piece of the text."""

    request_id: str
    index: int
    text: str
    start_ms: float
    """Milliseconds of the request's audio before it."""


class Word(msgspec.Struct, kw_only=True):
    """One word, in the text and in the audio."""

    text: str
    offset: int
    """Code points of the request's text before it."""
    start_ms: float
    end_ms: float
    exact: bool
    """False for an estimate from the text's length."""


class Words(Reply, tag="words"):
    """Where words of a sentence are in the audio."""

    request_id: str
    index: int
    """The sentence's."""
    words: Sequence[Word]


class Timings(msgspec.Struct, kw_only=True):
    """Milliseconds since the request was read."""

    queue_ms: float
    """Until the engine was ready and had a place."""
    first_audio_ms: float
    total_ms: float


class Success(Reply, tag="success"):
    """The request is spoken. A whole file of `length_bytes` follows unless it was streamed with ``final_wav`` false."""

    length_bytes: int
    sample_rate: int
    format: str
    request_id: str | None = None
    duration_ms: float | None = None
    sentences: int | None = None
    timings: Timings | None = None
    model: str | None = None
    engine_used: str | None = None
    """As in `Streaming`."""
    voice: str | None = None
    lang: str | None = None
    warnings: Sequence[str] = ()
    stream: int | None = None
    """As in `Streaming`; for a request that was not streamed on a multiplexed connection."""


class Cancelled(Reply, tag="cancelled"):
    """The request was stopped; no byte of it follows."""

    request_id: str


class Failure(Reply, tag="error"):
    """The request failed, or was no request."""

    message: str
    code: str
    retryable: bool
    request_id: str | None = None
    field: str | None = None
    retry_after_ms: int | None = None

    @classmethod
    def of(cls, error: TTSError, request_id: str | None = None) -> Failure:
        return cls(
            message=error.message,
            code=error.code,
            retryable=error.retryable,
            request_id=request_id,
            field=error.field,
            retry_after_ms=error.retry_after_ms,
        )


class VoiceEntry(msgspec.Struct, kw_only=True):
    id: str
    name: str
    model: str
    lang: str
    gender: str | None = None


class VoiceList(Reply, tag="success"):
    """The answer to ``voices``."""

    voices: Sequence[VoiceEntry]


class Preloaded(Reply, tag="success"):
    """The answer to ``preload``, once the model is ready."""

    model: str
    ready: bool


class Greeting(Reply, tag="success"):
    """The answer to ``hello``; from here on the connection is multiplexed."""

    server_version: str
    version: int
    capabilities: Sequence[str]
    limits: Mapping[str, int | float]


class CurrentModel(msgspec.Struct, kw_only=True):
    name: str
    ready: bool
    sample_rate: int
    speakers: Mapping[str, str]


class ModelEntry(msgspec.Struct, kw_only=True):
    identifiers: Sequence[str]
    speakers: Mapping[str, str]
    sample_rate: int
    state: str
    """``unavailable``, ``unloaded``, ``loading``, ``ready``, or ``failing``: refused until a probe of the server succeeds."""
    detail: str | None = None
    """Why it is unavailable, and the command that changes that; or why it is failing."""
    slots: int | None = None
    """Requests that it speaks at once; None while it is not loaded."""
    slots_used: int = 0
    """Requests that it speaks now."""
    queue_length: int = 0
    """Requests that wait for a slot of it."""


class ServerInfo(Reply, tag="success"):
    """The answer to ``info``."""

    server_version: str
    current_model: CurrentModel
    available_models: Mapping[str, ModelEntry]
    queue_size: int
    model_loaded: bool
    speaker_mapping: Mapping[str, str]
    limits: Mapping[str, int | float]
    protocol_version: int


def encode(reply: Reply) -> str:
    """The text message that carries `reply`."""
    return _ENCODER.encode(reply).decode()


_ENCODER: Final = msgspec.json.Encoder()
