"""Frames as clients write them, byte by byte, good and bad."""

from __future__ import annotations

import struct

__all__ = ["BINARY", "CLOSE", "CONTINUATION", "PING", "PONG", "TEXT", "frame", "upgrade"]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

MASK = b"\x11\x22\x33\x44"


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    masked: bool = True,
    length: int | None = None,
    length_bytes: int | None = None,
) -> bytes:
    """One frame. `length` is what the header claims, `length_bytes` (0, 2 or 8) how long it is written; right by default."""
    claimed = len(payload) if length is None else length
    if length_bytes is None:
        length_bytes = 0 if claimed < 126 else 2 if claimed < 65_536 else 8
    short = {0: claimed, 2: 126, 8: 127}[length_bytes]
    head = bytes([0x80 * fin | reserved << 4 | opcode, 0x80 * masked | short])
    head += {0: b"", 2: struct.pack(">H", claimed % 2**16), 8: struct.pack(">Q", claimed % 2**64)}[length_bytes]
    if not masked:
        return head + payload
    size = len(payload)
    key = (MASK * (size // 4 + 1))[:size]
    return head + MASK + (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


def upgrade(*headers: bytes, path: bytes = b"/", version: bytes = b"13") -> bytes:
    """The head of a good upgrade request, with more `headers`."""
    lines = [
        b"GET %s HTTP/1.1" % path,
        b"Host: localhost",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Version: " + version,
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        *headers,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"
