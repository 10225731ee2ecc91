"""The bound on turns that are asked of the service at the same time, by all requests together."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

__all__ = ["TurnSlots"]


class TurnSlots:
    """`total` turns at once; who waits is served in order, but a request's first turn before any later one.

    So nobody's first audio waits behind what others fetch ahead.
    """

    def __init__(self, total: int) -> None:
        if total < 1:
            raise ValueError(f"expected at least one turn at a time, not {total}")
        self._total = total
        self._free = total
        self._first: deque[trio.Event] = deque()
        self._later: deque[trio.Event] = deque()

    @property
    def taken(self) -> int:
        """How many turns are under way."""
        return self._total - self._free

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._first) + len(self._later)

    @asynccontextmanager
    async def slot(self, *, first: bool, timeout_s: float) -> AsyncIterator[None]:
        """Hold a slot; `first` says that the request has not been heard at all yet.

        Raises:
            trio.TooSlowError: there was none in time.
        """
        with trio.fail_after(timeout_s):
            await self._acquire(self._first if first else self._later)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, queue: deque[trio.Event]) -> None:
        if self._free:
            self._free -= 1
            return
        turn = trio.Event()
        queue.append(turn)
        try:
            await turn.wait()
        except trio.Cancelled:
            if turn.is_set():
                self._release()  # it was handed to us in the moment in which we left
            else:
                queue.remove(turn)
            raise

    def _release(self) -> None:
        for queue in (self._first, self._later):
            if queue:
                queue.popleft().set()
                return
        self._free += 1
