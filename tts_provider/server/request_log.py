"""One line in the log for each request that was begun, when it ends; and what it tells of a text without telling the text."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import structlog
import trio

from tts_provider.errors import TTSError
from tts_provider.server.metrics import Meter
from tts_provider.streaming.text import TextSource

__all__ = ["TracedText", "log_request"]

HASH_BYTES: Final = 6
_HASH_KEY: Final = secrets.token_bytes(16)
"""Of this process only: equal texts have equal hashes, and nobody can try out afterwards what a short text was."""

log = structlog.get_logger(__name__)


class TracedText(TextSource):
    """Text that can be spoken of in the log."""

    def __init__(self, max_chars: int, *, keep: bool = False) -> None:
        """`keep`: log the text itself too."""
        super().__init__(max_chars)
        self._chars = 0
        self._hash = hashlib.blake2b(key=_HASH_KEY, digest_size=HASH_BYTES)
        self._kept: list[str] | None = [] if keep else None

    def append(self, text: str) -> None:
        super().append(text)
        self._chars += len(text)
        self._hash.update(text.encode("utf-8", "surrogatepass"))
        if self._kept is not None:
            self._kept.append(text)

    @property
    def trace(self) -> dict[str, str | int]:
        """Its length in code points and its hash, and the text where it is kept."""
        kept = {} if self._kept is None else {"text": "".join(self._kept)}
        return {"chars": self._chars, "text_hash": self._hash.hexdigest(), **kept}


@contextmanager
def log_request(text: TextSource, meter: Meter, **about: Any) -> Iterator[dict[str, Any]]:
    """Log, when the block ends, how a request went.

    Yields:
        The line's further fields, to be added to.
    """
    outcome = "cancelled"
    try:
        yield about
        outcome = "done"
    except TTSError as error:
        outcome = error.code
        raise
    except Exception:
        outcome = "internal"
        raise
    finally:
        if isinstance(text, TracedText):
            about |= text.trace
        if meter.first_audio_at is not None:
            about["first_audio_ms"] = _ms(meter.first_audio_at - meter.received_at)
        log.info(
            "request.end",
            outcome=outcome,
            audio_s=round(meter.audio_s, 3),
            total_ms=_ms(trio.current_time() - meter.received_at),
            **about,
        )


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)
