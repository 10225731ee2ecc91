"""Requests that have not been heard yet go first, where many speak at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tts_provider.engines.edge.turn import Turn
from tts_provider.turnstile import Turnstile

__all__ = ["Precedence"]


class Precedence:
    """Shared by all turns of an engine.

    With fifty turns that each have a second of audio to decode, one that is a few steps from its first sound would wait several
    times for all of that. So, while there is such a turn, they work one after another, and those that have not been heard in a
    row of their own.
    """

    def __init__(self) -> None:
        self._unheard: set[Turn] = set()
        self._hurried = Turnstile()
        self._others = Turnstile()

    @contextmanager
    def first(self, turn: Turn) -> Iterator[None]:
        """Let `turn`, a request's first, go first while the block runs or until it is `heard`."""
        self._unheard.add(turn)
        try:
            yield
        finally:
            self._unheard.discard(turn)

    def heard(self, turn: Turn) -> None:
        """Note that `turn` is no more in a hurry than others."""
        self._unheard.discard(turn)

    async def give_way(self, turn: Turn) -> None:
        """Wait until `turn` may do work that others have to wait for."""
        if self._unheard:
            await (self._hurried if turn in self._unheard else self._others).pass_through()
