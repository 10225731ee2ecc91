"""What the tests of bad input share: the numbering of their rows, what an answer must never hold, a client that frames by hand.

Each row is a bad input and the answer that it should get. `test_rows` checks that none is missing.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from _pytest.mark import ParameterSet

from tests.conftest import Json, RunningServer, Wire

__all__ = ["HANDSHAKE", "RESET", "Raw", "assert_clean", "assert_serves", "exchange", "masked", "raw_client", "refused", "row"]

LEAKS = re.compile(r"Traceback|File \"|\.py\b|site-packages|/etc/|/usr/|/root|/home|/tmp|/var|\bline \d|0x[0-9a-f]{8}|canary")
"""Signs of the server's insides in an answer; `canary` is what tests use for a secret."""

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that makes closing a reset."""

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def row(number: int, name: str, *values: Any) -> ParameterSet:
    """A case of row `number`, whose id tells so."""
    return pytest.param(*values, id=f"row-{number}-{name}", marks=pytest.mark.row(number))


def assert_clean(reply: Json) -> None:
    """The reply tells nothing of the server's insides, and that much only."""
    text = json.dumps(reply)
    assert not LEAKS.search(text), text
    assert len(text) < 4_000


async def refused(client: Wire, request: Json | str | bytes, code: str, field: str | None = None, hint: str = "") -> Json:
    """Have `request` refused with `code`, whole and clean, on a connection that is usable afterwards; the reply."""
    reply = await client.ask(request)
    assert (reply["status"], reply["code"]) == ("error", code), reply
    if field is not None:
        assert reply["field"] == field
    assert hint in reply["message"]
    assert reply["retryable"] is False
    assert_clean(reply)
    await assert_usable(client)
    return reply


async def assert_usable(client: Wire) -> None:
    """The connection still brings speech."""
    success, audio = await client.legacy({"text": "Hi."})
    assert audio.startswith(b"RIFF")
    assert success["format"] == "wav"


async def assert_serves(server: RunningServer) -> None:
    """The server still serves others."""
    async with server.connect() as client:
        await assert_usable(client)


async def exchange(server: RunningServer, request: bytes) -> bytes:
    """Send raw bytes and read until the server closes."""
    async with await trio.open_tcp_stream(server.address.host, server.address.port) as stream:
        await stream.send_all(request)
        answer = b""
        with trio.fail_after(60):
            while data := await stream.receive_some():
                answer += data
    return answer


@dataclass
class Raw:
    """A WebSocket client that makes its own frames and understands the server's."""

    stream: trio.SocketStream
    _buffer: bytes = field(default=b"")

    async def frame(self, opcode: int, payload: bytes, *, fin: bool = True) -> None:
        """Send one frame, masked with zeros."""
        await self.stream.send_all(masked(opcode, payload, fin=fin))

    async def receive(self) -> tuple[int, bytes] | None:
        """The server's next frame: opcode and payload; None when there is no more."""
        with trio.fail_after(60):
            head = await self._read(2)
            if head is None:
                return None
            length = head[1]
            if length >= 126:
                extended = await self._read(2 if length == 126 else 8)
                if extended is None:
                    return None
                length = int.from_bytes(extended, "big")
            payload = await self._read(length)
        return None if payload is None else (head[0] & 15, payload)

    async def _read(self, count: int) -> bytes | None:
        while len(self._buffer) < count:
            try:
                data = await self.stream.receive_some()
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            self._buffer += data
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    async def close_code(self) -> int | None:
        """The code in the server's close frame; None when the connection ends without one."""
        while (received := await self.receive()) is not None:
            opcode, payload = received
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big")
        return None

    async def reset(self) -> None:
        """Leave with a reset."""
        self.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, RESET)
        await trio.aclose_forcefully(self.stream)


def masked(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """A client's frame, masked with zeros."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65_536:
        length = bytes([0x80 | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([0x80 | 127]) + size.to_bytes(8, "big")
    return bytes([0x80 * fin | opcode]) + length + bytes(4) + payload


@asynccontextmanager
async def raw_client(server: RunningServer, *, receive_buffer: int | None = None) -> AsyncIterator[Raw]:
    """A connection after its handshake. `receive_buffer`: bytes that the kernel takes for it, about."""
    with trio.socket.socket() as socket:
        if receive_buffer is not None:
            socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, receive_buffer)
        await socket.connect((server.address.host, server.address.port))
        stream = trio.SocketStream(socket)
        await stream.send_all(HANDSHAKE)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await stream.receive_some()
        assert answer.startswith(b"HTTP/1.1 101"), answer
        yield Raw(stream, answer.partition(b"\r\n\r\n")[2])
