"""What can go wrong, told so that a client can act on it.

    TTSError
    ├── RequestError              the client's fault; the same request will fail again
    │   ├── InvalidJSON           invalid_json
    │   ├── InvalidRequest        invalid_request
    │   ├── InvalidText           invalid_text
    │   ├── EmptyText             empty_text
    │   ├── TextTooLong           text_too_long
    │   ├── UnknownCommand        unknown_command
    │   ├── UnknownModel          unknown_model
    │   ├── UnsupportedLanguage   unsupported_language
    │   ├── InvalidSpeaker        invalid_speaker       malformed
    │   ├── UnknownSpeaker        unknown_speaker       well formed, but not there
    │   ├── InvalidSampleRate     invalid_sample_rate
    │   ├── UnsupportedFormat     unsupported_format
    │   ├── UnsupportedMessage    unsupported_message
    │   ├── Unauthorized          unauthorized
    │   ├── Forbidden             forbidden             a web page from elsewhere
    │   └── Busy                  busy                  too many requests on this connection
    ├── ServerError               the server's state; another try may well succeed
    │   ├── Overloaded            overloaded
    │   ├── Draining              draining
    │   └── InternalError         internal
    └── EngineError               the engine's fault
        ├── EngineUnavailable     engine_unavailable    not installed, not loadable, or refusing everyone
        ├── SynthesisFailed       synthesis_failed
        ├── NoAudio               no_audio
        └── SynthesisTimeout      timeout

Each class knows its wire code, its HTTP status and whether trying again can help; an instance carries the sentence for the
client. The sentence says what was wrong and what would be right, and never holds a traceback, a path or a secret.

    raise UnknownModel("There is no model 'gpt'. Models: edge, espeak.", field="model")
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "Busy",
    "Draining",
    "EmptyText",
    "EngineError",
    "EngineUnavailable",
    "Forbidden",
    "InternalError",
    "InvalidJSON",
    "InvalidRequest",
    "InvalidSampleRate",
    "InvalidSpeaker",
    "InvalidText",
    "NoAudio",
    "Overloaded",
    "RequestError",
    "ServerError",
    "SynthesisFailed",
    "SynthesisTimeout",
    "TTSError",
    "TextTooLong",
    "Unauthorized",
    "UnknownCommand",
    "UnknownModel",
    "UnknownSpeaker",
    "UnsupportedFormat",
    "UnsupportedLanguage",
    "UnsupportedMessage",
]


class TTSError(Exception):
    """The root of the tree. Only its leaves are raised."""

    code: ClassVar[str] = "internal"
    """Stable identifier on the wire."""
    http_status: ClassVar[int] = 500
    """Status of an HTTP response that reports this error."""
    close_code: ClassVar[int | None] = None
    """WebSocket close code, for the errors that end a connection; None when it stays usable."""
    retryable: bool = False
    """Whether the same request may succeed later. An instance may know better than its class."""

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        retry_after_ms: int | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        """A sentence for the client."""
        self.field = field
        """The request's field at fault, by its name on the wire."""
        self.retry_after_ms = retry_after_ms
        """Milliseconds to wait before another try, when the server has an opinion."""
        if retryable is not None:
            self.retryable = retryable


class RequestError(TTSError):
    """The client's fault."""

    http_status = 400


class InvalidJSON(RequestError):
    code = "invalid_json"


class InvalidRequest(RequestError):
    code = "invalid_request"


class InvalidText(RequestError):
    code = "invalid_text"


class EmptyText(RequestError):
    code = "empty_text"


class TextTooLong(RequestError):
    code = "text_too_long"
    http_status = 413


class UnknownCommand(RequestError):
    code = "unknown_command"


class UnknownModel(RequestError):
    code = "unknown_model"
    http_status = 404


class UnsupportedLanguage(RequestError):
    code = "unsupported_language"


class InvalidSpeaker(RequestError):
    code = "invalid_speaker"


class UnknownSpeaker(RequestError):
    code = "unknown_speaker"
    http_status = 404


class InvalidSampleRate(RequestError):
    code = "invalid_sample_rate"


class UnsupportedFormat(RequestError):
    code = "unsupported_format"


class UnsupportedMessage(RequestError):
    code = "unsupported_message"
    close_code = 1003


class Unauthorized(RequestError):
    code = "unauthorized"
    http_status = 401
    close_code = 1008


class Forbidden(RequestError):
    code = "forbidden"
    http_status = 403
    close_code = 1008


class Busy(RequestError):
    code = "busy"
    http_status = 429
    retryable = True


class ServerError(TTSError):
    """The server's state."""

    http_status = 503
    retryable = True


class Overloaded(ServerError):
    code = "overloaded"
    close_code = 1013


class Draining(ServerError):
    code = "draining"
    close_code = 1001


class InternalError(ServerError):
    code = "internal"
    http_status = 500
    close_code = 1011
    retryable = False


class EngineError(TTSError):
    """The engine's fault. `retryable` false: the fault of this text or of what is installed, not of the engine's state."""

    http_status = 502
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        retry_after_ms: int | None = None,
        retryable: bool | None = None,
        everyone: bool = False,
    ) -> None:
        super().__init__(message, field=field, retry_after_ms=retry_after_ms, retryable=retryable)
        self.everyone = everyone
        """Whether the engine says that it can serve nobody now: one such error is enough to stop asking it."""


class EngineUnavailable(EngineError):
    code = "engine_unavailable"
    http_status = 503


class SynthesisFailed(EngineError):
    code = "synthesis_failed"


class NoAudio(EngineError):
    code = "no_audio"


class SynthesisTimeout(EngineError):
    code = "timeout"
    http_status = 504
