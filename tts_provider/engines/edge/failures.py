"""What went wrong between the engine and the service, before it is told to a client."""

from __future__ import annotations

from tts_provider.errors import EngineUnavailable, TTSError

__all__ = ["Forbidden", "TurnFailed"]


class TurnFailed(Exception):
    """An attempt at a turn failed. `error` is what the client hears if no other attempt is made or succeeds."""

    def __init__(self, error: TTSError, *, again: bool) -> None:
        super().__init__(error.message)
        self.error = error
        self.again = again
        """Whether another attempt may well succeed: the fault was in the connection, not in the request."""


class Forbidden(TurnFailed):
    """The service answered 403: this machine's clock is wrong, or edge-tts is too old."""

    def __init__(self, date: str | None) -> None:
        super().__init__(EngineUnavailable("Edge's speech service refuses this server (HTTP 403)."), again=False)
        self.date = date
        """The answer's Date header: the service's clock."""
