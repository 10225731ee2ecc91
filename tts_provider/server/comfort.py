"""Company for a client that waits for a slow engine: a word now and then, or silence for a listener who would hang up."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

__all__ = ["Patience", "comforted"]

SILENCE_S: Final = 0.1
"""Length of one piece of silence."""
SAMPLE_BYTES: Final = 2

Send = Callable[[bytes], Awaitable[None]]


class Patience:
    """A client's patience: `run` calls `remind` whenever nothing was heard for `after_s`."""

    def __init__(self, after_s: float, remind: Callable[[], Awaitable[None]]) -> None:
        self._after_s = after_s
        self._remind = remind
        self.since = trio.current_time()
        """When the client last heard something, or began to wait, on Trio's clock; later when it has yet to hear things."""

    def restart(self) -> None:
        """Note that the client hears something, or begins to wait."""
        self.since = trio.current_time()

    async def run(self) -> None:
        """Remind until cancelled."""
        while True:
            await trio.sleep_until(self.since + self._after_s)
            if trio.current_time() >= self.since + self._after_s:  # nothing came meanwhile
                self.restart()
                await self._remind()


@asynccontextmanager
async def comforted(send: Send, sample_rate: int, after_s: float) -> AsyncIterator[Send]:
    """A `send` for speech (s16le, mono, at `sample_rate` Hz), beside which silence is sent while the block runs.

    Silence begins when the listener has heard all there was for `after_s` seconds, and goes on without gaps until there is
    speech. 0 sends none.
    """
    sending = trio.Lock()  # speech and silence take turns

    async def put(samples: bytes) -> None:
        await send(samples)
        patience.since = max(patience.since, trio.current_time()) + len(samples) / (SAMPLE_BYTES * sample_rate)

    async def speak(samples: bytes) -> None:
        async with sending:
            await put(samples)

    async def keep_company() -> None:
        silence = bytes(SAMPLE_BYTES * round(SILENCE_S * sample_rate))
        while True:
            async with sending:
                if trio.current_time() < patience.since:  # speech came meanwhile
                    return
                await put(silence)
            await trio.sleep_until(patience.since)

    patience = Patience(after_s or math.inf, keep_company)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(patience.run)
        try:
            yield speak
        except Exception as error:  # it would leave the nursery in a group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
