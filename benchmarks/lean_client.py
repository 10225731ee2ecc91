"""A WebSocket client that costs next to nothing: a client that shares the machine must cost less than the server it measures.

A frame costs about 10 us here, with trio-websocket 150. Frames of the server are unmasked; ours carry a mask of zeros.
"""

from __future__ import annotations

import base64
import os
import selectors
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Final

__all__ = ["BINARY", "CLOSE", "PING", "TEXT", "LeanClient", "watch"]

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
LONGEST_READ: Final = 65_536
ANSWER_S: Final = 20.0


class LeanClient:
    """One open connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), ANSWER_S)
        self._pending = b""
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            if not (data := self.socket.recv(LONGEST_READ)):
                break
            answer += data
        if not answer.startswith(b"HTTP/1.1 101"):
            raise ConnectionError(answer[:80].decode(errors="replace"))
        self.socket.setblocking(False)

    def send(self, opcode: int, payload: bytes) -> None:
        """Send a frame of less than 64 KiB."""
        length = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
        frame = bytes([0x80 | opcode]) + length + bytes(4) + payload
        if self.socket.send(frame) < len(frame):
            raise ConnectionError("the server takes no request")

    def read(self) -> Iterator[tuple[int, int, bytes]]:
        """The frames that came: opcode, length of the payload, and the payload, which is left out of binary ones.

        Raises:
            OSError: the server is gone.
        """
        data = self.socket.recv(LONGEST_READ)
        if not data:
            raise ConnectionError("the server closed")
        if self._pending:
            data = self._pending + data
        position = 0
        while len(data) - position >= 2:
            size, begin = data[position + 1], position + 2
            if size == 126:
                size, begin = int.from_bytes(data[position + 2 : position + 4], "big"), position + 4
            elif size == 127:
                size, begin = int.from_bytes(data[position + 2 : position + 10], "big"), position + 10
            end = begin + size
            if end > len(data):
                break
            opcode = data[position] & 15
            yield opcode, size, b"" if opcode == BINARY else data[begin:end]
            if opcode == PING:
                self.send(PONG, data[begin:end])
            position = end
        self._pending = data[position:]


def watch(clients: Sequence[LeanClient], read: Callable[[int], bool], pause: Callable[[], float | None]) -> None:
    """Call `read` with the number of each client for which something came, until it has returned True for all.

    Args:
        pause: called before each wait; returns how many seconds to wait at most, or None to give up.
    """
    open_ = len(clients)
    with closing(selectors.DefaultSelector()) as selector:
        for number, client in enumerate(clients):
            selector.register(client.socket, selectors.EVENT_READ, number)
        while open_ and (wait_s := pause()) is not None:
            for key, _ in selector.select(wait_s):
                if read(key.data):
                    selector.unregister(key.fileobj)
                    open_ -= 1
