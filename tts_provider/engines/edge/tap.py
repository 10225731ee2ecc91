"""The stream below trio-websocket, where the service's messages are taken out before they reach it.

For reasons told in `frames`, and for another: when the peer hangs up during the handshake, trio-websocket 0.12 waits for ever;
the tap sees it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from tts_provider.engines.edge.frames import BrokenFrames, FrameSplitter

__all__ = ["RECEIVE_BYTES", "Goodbye", "Lost", "Tap"]

RECEIVE_BYTES: Final = 65_536
"""Read at once; a turn that comes in one go is read in a few steps."""
MAX_UNREAD_BYTES: Final = 1 << 20
"""Messages that nobody took yet, beyond which reading stops."""
MAX_ANSWER_BYTES: Final = 65_536
"""Of an answer to the handshake, body included."""


class Lost(Exception):
    """The connection ended without a goodbye."""


class Goodbye(Exception):
    """The service closed the connection properly."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Tap(trio.abc.Stream):
    """The stream below trio-websocket. After the handshake it keeps the messages and lets only control frames pass."""

    def __init__(self, transport: trio.abc.Stream, opening: trio.CancelScope, when_over: Callable[[], None]) -> None:
        self._transport = transport
        self._opening = opening
        self._when_over = when_over
        self._splitter: FrameSplitter | None = None
        self._answer_bytes = 0
        self._messages: list[bytes | str] = []
        self._unread = 0
        self._wanted = True
        self._arrived: trio.Event | None = None
        self._room: trio.Event | None = None
        self._outgoing = b""
        self.corked = False
        """Whether what is sent waits for what is sent next, to leave in one packet with it."""
        self.pause_s = 0.0
        """How long to let messages gather before the next reading."""
        self.over: Exception | None = None
        """Why nothing more will come; None while something may."""

    def start(self) -> None:
        """The handshake is done: from here on there are frames."""
        self._splitter = FrameSplitter()

    def forget(self) -> None:
        """Nobody will take messages any more: drop them, so that the goodbye is reached."""
        self._wanted = False
        self.pause_s = 0.0
        self._messages.clear()
        self._make_room()

    async def take(self) -> list[bytes | str]:
        """All messages that have come, at least one."""
        while not self._messages:
            if self.over is not None:
                raise self.over
            self._arrived = trio.Event()
            await self._arrived.wait()
        messages, self._messages = self._messages, []
        self._make_room()
        return messages

    def end(self, reason: Exception) -> None:
        """Nothing more will come."""
        if self.over is None:
            self.over = reason
            self._when_over()
        if self._splitter is None:
            self._opening.cancel()
        self._notify()

    def _notify(self) -> None:
        if self._arrived is not None:
            self._arrived.set()
            self._arrived = None

    def _make_room(self) -> None:
        self._unread = 0
        if self._room is not None:
            self._room.set()
            self._room = None

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while True:
            try:
                data = await self._transport.receive_some(RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.end(Lost())
                raise
            if not data:
                self.end(Lost())
                return b""
            if self._splitter is None:
                self._answer_bytes += len(data)
                if self._answer_bytes > MAX_ANSWER_BYTES:
                    raise trio.BrokenResourceError("the answer to the handshake does not end")
                return bytes(data)
            try:
                messages, control = self._splitter.feed(bytes(data))
            except BrokenFrames as error:
                self.end(error)
                raise trio.BrokenResourceError("no WebSocket frames") from error
            if messages and self._wanted:
                self._messages += messages
                self._unread += len(data)
                self._notify()
            if self._splitter.close_code is not None:
                self.end(Goodbye(self._splitter.close_code))
            if control:
                return control
            if self._unread > MAX_UNREAD_BYTES:
                self._room = trio.Event()
                await self._room.wait()
            if self.pause_s and self.over is None:
                await trio.sleep(self.pause_s)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._outgoing += data
        if not self.corked:
            outgoing, self._outgoing = self._outgoing, b""
            await self._transport.send_all(outgoing)

    async def wait_send_all_might_not_block(self) -> None:
        await self._transport.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        self.end(Lost())
        await self._transport.aclose()
