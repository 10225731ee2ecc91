"""The requests of one connection that take turns: answered one after the other, in the order in which they came.

queue ──its turn──▶ answered ──▶ done
  │                    └──clear──▶ cancelled, and what it had not sent is forgotten
  └──────clear─────────▶ forgotten
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

from tts_provider.errors import Busy
from tts_provider.server.session import NORMAL, Session

__all__ = ["Turns"]

Request = TypeVar("Request")


class Turns(Generic[Request]):
    """The queue of a connection. `run` answers; the reader adds and clears. A request owns its messages in the outbox."""

    def __init__(self, session: Session, limit: int, answer: Callable[[Request], Awaitable[None]]) -> None:
        """`limit`: requests that may wait besides the one that is being answered by `answer`."""
        self._session = session
        self._limit = limit
        self._answer = answer
        self._waiting: deque[Request] = deque()
        self._scope = trio.CancelScope()
        """Round the current answer."""
        self._cleared: deque[Callable[[], None]] = deque()
        self._changed = trio.Event()
        self.finishing = False
        """Whether nothing more will come."""
        self.current: Request | None = None
        """What is being answered."""

    def add(self, request: Request) -> None:
        """Have `request` answered in its turn. The session is not idle, and a drain waits, until that is done.

        Raises:
            Busy: too many wait.
        """
        if len(self._waiting) + (self.current is not None) > self._limit:
            raise Busy(f"At most {self._limit} requests may wait on one connection.")
        self._session.request_begins()
        self._waiting.append(request)
        self._changed.set()

    def clear(self, then: Callable[[], None]) -> None:
        """Cancel all requests so far. `then` is called when they have stopped, and before any later one is answered.

        Raises:
            Busy: the client clears faster than an engine stops.
        """
        if len(self._cleared) > self._limit:
            raise Busy(f"At most {self._limit} requests to clear may wait on one connection.")
        while self._waiting:
            self._waiting.popleft()
            self._session.request_ends()
        if self.current is None:
            then()
        else:
            self._cleared.append(then)
            self._scope.cancel(reason="cleared by the client")

    def finish(self) -> None:
        """Have `run` end the session once everything is answered."""
        self.finishing = True
        self._changed.set()

    async def run(self) -> None:
        """Answer until cancelled. What an answer raises ends it."""
        while True:
            while self._waiting:
                await self._take_turn(self._waiting.popleft())
            if self.finishing:
                self._session.end(NORMAL, "closed by the client")
            self._changed = trio.Event()
            await self._changed.wait()

    async def _take_turn(self, request: Request) -> None:
        self.current = request
        with trio.CancelScope() as self._scope:
            await self._answer(request)
        if self._scope.cancel_called:  # its task has stopped, so that nothing of it can follow
            self._session.outbox.discard(request)
        self.current = None
        while self._cleared:
            self._cleared.popleft()()
        self._session.request_ends()
