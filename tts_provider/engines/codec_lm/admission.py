"""Who gets a slot, and in which order: a fixed pool, lowest number first, and a bounded line of those who wait."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from tts_provider.engines.base import QueueReport
from tts_provider.errors import Overloaded, TTSError

__all__ = ["SlotPool"]

FIRST_HOLD_GUESS: Final = 5.0
"""s that a slot is held, until the first real figures are in; about two sentences."""
HOLD_SMOOTHING: Final = 0.2
"""Share of the newest hold in the running mean: some five requests of memory."""
RETRY_RANGE_MS: Final = (500, 60_000)
"""Bounds of `retry_after_ms`: below half a second a retry only adds load, above a minute the guess means nothing."""


class _Waiter:
    """One place in the line."""

    def __init__(self, queued: QueueReport | None) -> None:
        self.queued = queued
        self.called = trio.Event()
        self.slot: int | None = None
        self.error: TTSError | None = None


class SlotPool:
    """Slots handed out in the order of asking; a freed one goes straight to the first in line."""

    def __init__(self, slots: int, queue_limit: int) -> None:
        self._slots = slots
        self._queue_limit = queue_limit
        self._free = list(range(slots))
        self._line: deque[_Waiter] = deque()
        self._since: dict[int, float] = {}
        self._mean_hold = FIRST_HOLD_GUESS
        self._closed: Callable[[], TTSError] | None = None

    @property
    def free(self) -> int:
        """Slots that nobody holds."""
        return len(self._free)

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return len(self._line)

    async def acquire(self, queued: QueueReport | None, *, wait: bool) -> int:
        """Wait for a slot and take it; release it with `release`.

        Raises:
            Overloaded: the line is full; or `wait` is false and no slot is free.
            TTSError: the pool was closed.
        """
        await trio.lowlevel.checkpoint()
        if self._closed is not None:
            raise self._closed()
        if self._free:
            return self._take(heapq.heappop(self._free))
        if not wait or len(self._line) >= self._queue_limit:
            raise self._overloaded()
        waiter = _Waiter(queued)
        self._line.append(waiter)
        try:
            if queued is not None:
                queued(len(self._line))
            await waiter.called.wait()
        except BaseException:
            if waiter.slot is not None:  # called and cancelled in the same instant
                self.release(waiter.slot)
            elif waiter in self._line:
                place = self._line.index(waiter)
                self._line.remove(waiter)
                self._tell_positions(place)
            raise
        if waiter.error is not None:
            raise waiter.error
        assert waiter.slot is not None
        return waiter.slot

    def release(self, slot: int) -> None:
        """Give `slot` to the first in line, or back to the pool."""
        held = trio.current_time() - self._since.pop(slot)
        self._mean_hold += HOLD_SMOOTHING * (held - self._mean_hold)
        if not self._line:
            heapq.heappush(self._free, slot)
            return
        waiter = self._line.popleft()
        waiter.slot = self._take(slot)
        waiter.called.set()
        self._tell_positions(0)

    def close(self, error: Callable[[], TTSError]) -> None:
        """Refuse everybody until `reopen`, those in line first, with what `error` makes."""
        self._closed = error
        while self._line:
            waiter = self._line.popleft()
            waiter.error = error()
            waiter.called.set()

    def reopen(self) -> None:
        """Hand out slots again."""
        self._closed = None

    def _take(self, slot: int) -> int:
        self._since[slot] = trio.current_time()
        return slot

    def _tell_positions(self, first: int) -> None:
        for position, waiter in enumerate(self._line):
            if position >= first and waiter.queued is not None:
                waiter.queued(position + 1)

    def _overloaded(self) -> Overloaded:
        low, high = RETRY_RANGE_MS
        expected_ms = round(1000 * self._mean_hold * (len(self._line) + 1) / self._slots)
        return Overloaded(
            f"All {self._slots} slots of the engine are taken and {len(self._line)} requests wait for one. Try again later.",
            retry_after_ms=min(max(expected_ms, low), high),
        )
