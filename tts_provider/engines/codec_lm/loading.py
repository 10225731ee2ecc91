"""Run a blocking load in a thread: progress comes out of it from any thread, and a cancel goes into it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import trio

from tts_provider.engines.base import ProgressReport

__all__ = ["LoadCancelled", "load_in_thread"]


class LoadCancelled(BaseException):
    """Raised by the report inside a load that is no longer wanted.

    Not an `Exception`: a load is full of code that survives exceptions, and must not survive this one.
    """


async def load_in_thread(
    load: Callable[[ProgressReport], None], report: ProgressReport, *, limiter: trio.CapacityLimiter
) -> None:
    """Call ``load(report)`` in a thread and wait for it.

    Cancelling makes the next call of `report` inside the load raise, whichever thread it comes from, and then waits for the
    load to come back: a thread that holds a device is never abandoned.
    """
    token = trio.lowlevel.current_trio_token()
    unwanted = threading.Event()
    failure: Exception | None = None

    def report_from_thread(share: float | None, doing: str) -> None:
        if unwanted.is_set():
            raise LoadCancelled
        token.run_sync_soon(report, share, doing)

    async def pass_on_cancel() -> None:
        try:
            await trio.sleep_forever()
        finally:
            unwanted.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pass_on_cancel)
        try:
            await trio.to_thread.run_sync(load, report_from_thread, limiter=limiter)
        except LoadCancelled:
            await trio.lowlevel.checkpoint_if_cancelled()
        except Exception as error:  # told outside the nursery, so that no group is wrapped around it
            failure = error
        nursery.cancel_scope.cancel(reason="the load is over")
    if failure is not None:
        raise failure
