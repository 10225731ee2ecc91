"""What can go wrong on the client's side.

TTSClientError
├── NotConnected        no connect() before, or none that succeeded   (also a ConnectionError)
├── ConnectFailed       nobody answers there, or refuses              (also a ConnectionError)
├── ConnectionLost      the server went away in the middle            (also a ConnectionError)
├── ServerTimeout       nothing came for `timeout` seconds            (also a TimeoutError)
├── UnexpectedReply     what came is no reply of this protocol
└── TTSServerError      the server's error reply; the connection stays usable
"""

from __future__ import annotations

from tts_provider.messages import Failure

__all__ = [
    "ConnectFailed",
    "ConnectionLost",
    "NotConnected",
    "ServerTimeout",
    "TTSClientError",
    "TTSServerError",
    "UnexpectedReply",
]


class TTSClientError(Exception):
    """The root of the tree. Only its leaves are raised."""


class NotConnected(TTSClientError, ConnectionError):
    """The client was asked for something without being connected."""


class ConnectFailed(TTSClientError, ConnectionError):
    """No connection could be made."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status with which the server refused, such as 401 for a key that it does not know; None when it said nothing."""


class ConnectionLost(TTSClientError, ConnectionError):
    """The connection ended before the answer did."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        """The WebSocket close code; None when the connection broke without one."""


class ServerTimeout(TTSClientError, TimeoutError):
    """The server said and took nothing for `timeout` seconds; the connection was dropped."""


class UnexpectedReply(TTSClientError):
    """The server said something that does not belong there; the connection was dropped."""


class TTSServerError(TTSClientError):
    """The server's error reply."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.message = failure.message
        """A sentence: what was wrong, and what would be right."""
        self.code = failure.code
        """Stable identifier, such as ``unknown_model``; `tts_provider.errors` lists them."""
        self.retryable = failure.retryable
        """Whether the same request may succeed later."""
        self.field = failure.field
        """The request's field at fault, by its name on the wire."""
        self.retry_after_ms = failure.retry_after_ms
        """Milliseconds to wait before another try, when the server has an opinion."""
        self.request_id = failure.request_id
