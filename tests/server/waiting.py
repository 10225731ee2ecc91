"""Waiting for what nobody announces."""

from __future__ import annotations

from collections.abc import Callable

import trio

__all__ = ["until"]


async def until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` is true; fail after five seconds."""
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110  # there is no event for it
            await trio.sleep(0.001)
