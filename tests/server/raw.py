"""Clients that speak bytes, for what no library would send."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import trio

from tests.server.frames import CLOSE, upgrade

__all__ = ["RawClient", "raw_client", "upgraded"]

WAIT_S = 30.0
"""For anything that the server is sure to do."""


@dataclass
class RawClient:
    """A TCP connection, and what of the answer has not been looked at."""

    stream: trio.SocketStream
    unread: bytes = b""

    async def send(self, data: bytes) -> None:
        """Send `data`, or as much of it as the server takes before it closes."""
        with suppress(trio.BrokenResourceError):
            await self.stream.send_all(data)

    async def read_until(self, mark: bytes) -> bytes:
        """All up to and with `mark`."""
        while mark not in self.unread:
            with trio.fail_after(WAIT_S):
                data = await self.stream.receive_some()
            assert data, f"the server closed after {self.unread[-200:]!r}"
            self.unread += data
        end = self.unread.index(mark) + len(mark)
        found, self.unread = self.unread[:end], self.unread[end:]
        return found

    async def rest(self, timeout_s: float = WAIT_S) -> bytes:
        """All that still comes until the server closes, however it does that."""
        with trio.fail_after(timeout_s):
            try:
                while data := await self.stream.receive_some():
                    self.unread += data  # kept if this is cancelled
            except trio.BrokenResourceError:
                pass
        found, self.unread = self.unread, b""
        return found

    async def closing(self, timeout_s: float = WAIT_S) -> tuple[int | None, str]:
        """The code and reason of the close frame at the end of what comes; None without one.

        Only for a server that sends short messages before: the frames are read one by one.
        """
        data = await self.rest(timeout_s)
        while len(data) >= 2:
            opcode, length, head = data[0] & 0x0F, data[1] & 0x7F, 2
            if length > 125:
                head = 4 if length == 126 else 10
                length = int.from_bytes(data[2:head], "big")
            payload, data = data[head : head + length], data[head + length :]
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big"), payload[2:].decode()
        return None, ""

    def reset(self) -> None:
        """Close with a reset, as a machine that has lost its memory does."""
        self.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.stream.socket.close()


@asynccontextmanager
async def raw_client(port: int) -> AsyncIterator[RawClient]:
    """A connection to the loopback, closed at the end."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        yield RawClient(stream)


@asynccontextmanager
async def upgraded(port: int, *headers: bytes, first: bytes = b"") -> AsyncIterator[RawClient]:
    """The same after the WebSocket handshake; `first` goes in one packet with the request."""
    async with raw_client(port) as client:
        await client.send(upgrade(*headers) + first)
        answer = await client.read_until(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101"), answer
        yield client
