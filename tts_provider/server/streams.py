"""A byte stream that cannot hold its connection up: stalled writes end it, writes do not mix, bytes can be given back."""

from __future__ import annotations

import os
from collections.abc import Callable

import trio
from trio.abc import Stream

from tts_provider.server.frame_meter import Breach, FrameMeter, ends_with_close

__all__ = ["GuardedStream"]

SLICE_BYTES = 65_536
"""Written under one deadline. A slow reader is one that takes no slice in time, however long the message is."""
FORGET_BYTES = 65_536
FORGET_PAUSE_S = 0.005
"""Between reads of what is forgotten after a breach: 13 MB a second, so that forgetting a flood costs next to nothing."""


class GuardedStream(Stream):
    """Wraps the socket of one client.

    * Reads first return what was `given_back`: the bytes that the head's parser took too many of.
    * Frames wait for `begin_frames`, and are metered from their first byte on. After a breach nothing is passed on any more.
    * A write that makes no progress for `stall_s` closes the socket and raises `trio.BrokenResourceError`. So does a cancelled
      one: half a frame is on the wire, and nothing sensible can follow it.
    * Writes of several tasks follow one another, each of them whole.
    * `send_now` writes what the kernel takes without waiting: a task that waits for a write loses its turn even if it need not.
    """

    def __init__(self, stream: Stream, stall_s: float) -> None:
        self._stream = stream
        self._stall_s = stall_s
        self._given_back = b""
        self._early_frames = b""
        self._meter: FrameMeter | None = None
        self._breached: Callable[[Breach], None] | None = None
        self._frames_begin: trio.Event | None = None
        self._broken = False
        self._writing = trio.StrictFIFOLock()
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None
        self._unsent = b""
        """The rest of what `send_now` took."""
        self.writing_since: float | None = None
        """When the write that is waiting began, on Trio's clock; None when none is."""

    def give_back(self, data: bytes) -> None:
        """Have `data` read again."""
        self._given_back = data + self._given_back

    def await_frames(self, early: bytes) -> None:
        """Have reads wait for `begin_frames`, once what was given back is read. `early` is what came of the frames already."""
        self._early_frames = early
        self._frames_begin = trio.Event()

    def begin_frames(self, meter: FrameMeter, breached: Callable[[Breach], None]) -> None:
        """Read on, and meter it; `breached` is called once, and must see to it that the connection is closed."""
        self._meter, self._breached = meter, breached
        if self._frames_begin is not None:
            self._frames_begin.set()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._given_back:
            await trio.lowlevel.checkpoint()
            size = max_bytes or len(self._given_back)
            data, self._given_back = self._given_back[:size], self._given_back[size:]
            return data
        if self._frames_begin is None:
            return await self._stream.receive_some(max_bytes)
        if not self._frames_begin.is_set():
            await self._frames_begin.wait()
        early, self._early_frames = self._early_frames, b""
        frames = early or await self._stream.receive_some(max_bytes)
        if self._meter is not None and (breach := self._meter.feed(frames)) is not None and self._breached is not None:
            self._breached(breach)
            await self._forget()
            return b""
        return frames

    async def _forget(self) -> None:
        """Read until the client closes. Closing on unread bytes would reset the connection, and the reason be lost."""
        data = await self._stream.receive_some(FORGET_BYTES)
        while data and not ends_with_close(data):
            await trio.sleep(FORGET_PAUSE_S)
            data = await self._stream.receive_some(FORGET_BYTES)

    @property
    def unsent(self) -> bool:
        """Whether a part of what `send_now` took goes out with the next `send_all`, be that of nothing."""
        return bool(self._unsent)

    def send_now(self, data: bytes | bytearray | memoryview) -> bool:
        """Write `data` if nothing else is being written and the kernel takes at least its beginning; whether that was so."""
        if self._socket is None or self._broken or self._unsent or self._writing.locked():
            return False
        try:
            count = os.write(self._socket.fileno(), data)
        except OSError:  # BlockingIOError among them; one that matters will be met again by `send_all`
            return False
        self._unsent = bytes(data[count:])
        return True

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if len(data) <= SLICE_BYTES and self.send_now(data):
            if not self._unsent:
                return
            data = b""
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
        if self._unsent:
            data, self._unsent = self._unsent + bytes(data), b""
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
