"""A byte stream that cannot hold its connection up: stalled writes end it, writes do not mix, bytes can be given back."""

from __future__ import annotations

import trio
from trio.abc import Stream

__all__ = ["GuardedStream"]

SLICE_BYTES = 65_536
"""Written under one deadline. A slow reader is one that takes no slice in time, however long the message is."""


class GuardedStream(Stream):
    """Wraps the socket of one client.

    * Reads first return what was `given_back`: the bytes that the head's parser took too many of.
    * A write that makes no progress for `stall_s` closes the socket and raises `trio.BrokenResourceError`. So does a cancelled
      one: half a frame is on the wire, and nothing sensible can follow it.
    * Writes of several tasks follow one another, each of them whole.
    """

    def __init__(self, stream: Stream, stall_s: float) -> None:
        self._stream = stream
        self._stall_s = stall_s
        self._given_back = b""
        self._broken = False
        self._writing = trio.StrictFIFOLock()
        self.writing_since: float | None = None
        """When the write that is waiting began, on Trio's clock; None when none is."""

    def give_back(self, data: bytes) -> None:
        """Have `data` read again."""
        self._given_back = data + self._given_back

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._given_back:
            await trio.lowlevel.checkpoint()
            size = max_bytes or len(self._given_back)
            data, self._given_back = self._given_back[:size], self._given_back[size:]
            return data
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._writing.locked():
            await self._writing.acquire()
        else:  # without the switch of tasks that `acquire` always makes
            self._writing.acquire_nowait()
        try:
            await self._send_whole(data)
        finally:
            self._writing.release()

    async def _send_whole(self, data: bytes | bytearray | memoryview) -> None:
        if self._broken:
            raise trio.BrokenResourceError("The connection was given up.")
        sent = False
        self.writing_since = trio.current_time()
        try:
            await self._send_in_slices(data)
            sent = True
        finally:
            self.writing_since = None
            if not sent:
                self._broken = True
                await trio.aclose_forcefully(self._stream)

    async def _send_in_slices(self, data: bytes | bytearray | memoryview) -> None:
        for start in range(0, len(data), SLICE_BYTES):
            piece = data if len(data) <= SLICE_BYTES else memoryview(data)[start : start + SLICE_BYTES]
            with trio.move_on_after(self._stall_s) as deadline:
                await self._stream.send_all(piece)
            if deadline.cancelled_caught:
                raise trio.BrokenResourceError(f"The client took nothing for {self._stall_s:.0f} seconds.")

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        self._broken = True
        await self._stream.aclose()
