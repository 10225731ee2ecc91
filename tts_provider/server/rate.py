"""How often something may happen: a bucket of tokens that refills with time."""

from __future__ import annotations

from typing import Final

__all__ = ["TokenBucket"]

BURST_S: Final = 2.0
"""What may come at once, in seconds of the rate: a client that was held up may catch up."""
UNLIMITED: Final = 1e12


class TokenBucket:
    """Holds up to two seconds of `rate`. Time is the caller's, in seconds of any monotonic clock."""

    def __init__(self, rate: float, now: float) -> None:
        """`rate`: tokens a second; 0 is without limit."""
        self._rate = rate or UNLIMITED
        self._now = now
        self.tokens = self._rate * BURST_S
        """Left; the owner takes them."""

    def refill(self, now: float) -> None:
        """Add what `now` has brought since the last time."""
        self.tokens = min(self._rate * BURST_S, self.tokens + (now - self._now) * self._rate)
        self._now = now

    def take(self, now: float) -> bool:
        """Take one token; False when there is none."""
        self.refill(now)
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True
