"""A byte stream that cannot hold its connection up: stalled writes end it, small writes join, bytes can be given back."""

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
    * Between `hold` and `release` writes are only collected; the next one carries all of them in one system call, which is most
      of what a small frame costs.
    """

    def __init__(self, stream: Stream, stall_s: float) -> None:
        self._stream = stream
        self._stall_s = stall_s
        self._given_back = b""
        self._held: bytearray | None = None
        self._joined = b""
        """What was held, to go out before the next write."""
        self._broken = False
        self.writing_since: float | None = None
        """When the write that is waiting began, on Trio's clock; None when none is."""

    def give_back(self, data: bytes) -> None:
        """Have `data` read again."""
        self._given_back = data + self._given_back

    def hold(self) -> None:
        """Collect writes until `release`."""
        if self._held is None:
            self._held = bytearray()

    def release(self) -> None:
        """Have the next write carry what was collected."""
        self._joined = bytes(self._held or b"")
        self._held = None

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._given_back:
            await trio.lowlevel.checkpoint()
            size = max_bytes or len(self._given_back)
            data, self._given_back = self._given_back[:size], self._given_back[size:]
            return data
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._broken:
            raise trio.BrokenResourceError("The connection was given up.")
        if self._held is not None:
            self._held += data
            return
        if self._joined:
            data, self._joined = self._joined + bytes(data), b""
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
