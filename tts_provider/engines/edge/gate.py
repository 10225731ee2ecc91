"""The circuit breaker before the service: after a refusal that concerns everyone, nobody asks for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

from tts_provider.errors import TTSError

__all__ = ["Gate"]

LONGEST_S: Final = 300.0
"""However long the service asks to be left alone; blocks of about five minutes were seen."""


class Gate:
    """Open at first. `shut` closes it for a while; then one attempt is let through, and its success opens it again."""

    def __init__(self) -> None:
        self._refusal: TTSError | None = None
        self._until = 0.0
        self._probing = False

    @property
    def shut(self) -> bool:
        """Whether attempts are refused now."""
        return self._refusal is not None and (self._probing or trio.current_time() < self._until)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Enclose one attempt; leaving without an exception means that the service let us in.

        Raises:
            TTSError: the refusal with which the gate was shut, saying how long it will stay so.
        """
        if self._refusal is None:
            yield
            return
        if self.shut:
            raise self._refused(self._refusal)
        self._probing = True
        try:
            yield
        finally:
            self._probing = False
        self._refusal = None

    def close(self, refusal: TTSError, seconds: float) -> None:
        """Refuse all attempts with `refusal` for some seconds."""
        self._refusal = refusal
        self._until = trio.current_time() + min(max(seconds, 0.0), LONGEST_S)

    def _refused(self, refusal: TTSError) -> TTSError:
        wait_s = max(0.0, self._until - trio.current_time())
        return type(refusal)(refusal.message, retry_after_ms=round(wait_s * 1000), retryable=refusal.retryable)
