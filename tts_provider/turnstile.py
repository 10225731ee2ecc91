"""One after another through a narrow place, where many would go at once."""

from __future__ import annotations

from collections import deque
from typing import Final

import trio

__all__ = ["Turnstile"]

ROUND_S: Final = 0.005
"""A round of the event loop that takes longer lets more than one through, so that who waits is not held up by other work."""


class Turnstile:
    """Lets one task through with each round of the event loop, in the order in which they came.

    In a round the loop lets every task that can go on make a step. Of fifty requests that come at the same moment none is
    answered before all fifty have made each of their steps, so that all wait as long as the last; one after another, half of
    them have their answer in half of that time, and the last no later. Who comes alone waits one round.
    """

    def __init__(self) -> None:
        self._waiting: deque[trio.Event] = deque()
        self._inside = 0
        """Tasks that were let in and make their step in this round."""

    async def pass_through(self) -> None:
        """Wait for those who came before."""
        if self._inside:
            turn = trio.Event()
            self._waiting.append(turn)
            try:
                await turn.wait()
            except trio.Cancelled:
                if turn.is_set():
                    self._leave(0.0)
                else:
                    self._waiting.remove(turn)
                raise
        else:
            self._inside = 1
        began = trio.current_time()
        try:
            await trio.lowlevel.checkpoint()
        finally:
            self._leave(trio.current_time() - began)

    def _leave(self, round_s: float) -> None:
        self._inside -= 1
        if self._inside:
            return
        self._inside = min(1 + int(round_s / ROUND_S), len(self._waiting))
        for _ in range(self._inside):
            self._waiting.popleft().set()
