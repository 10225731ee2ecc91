"""Many listeners in one process: sockets and epoll, because a client that shares the machine must cost less than the server.

A frame costs about 10 us here. Each listener notes how late each frame came, and plays what it gets: from its first frame and
a small buffer on, a second of audio a second.
"""

from __future__ import annotations

import base64
import json
import os
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Final

from benchmarks.load_server import BLOCK_S, FRAME_BYTES

__all__ = ["Listener", "Listening", "connect", "disconnect", "listen"]

PLAY_AFTER_S: Final = 0.1
"""A player's buffer: it begins to play so long after its first frame."""
LONGEST_READ: Final = 65_536
TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9
LEAD_S: Final = 0.5
"""From a request to its first block."""
GOLDEN: Final = 0.618_034
"""Multiples of it, less their whole part, are spread evenly however many they are."""
ANSWER_S: Final = 20.0
AFTER_END_S: Final = 20.0
"""For what a server that fell behind still sends; then the step is given up."""


class Listener:
    """One client's end of one stream."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.lateness: list[float] = []
        """Seconds of each frame, from the moment at which its last sample was made."""
        self.underruns = 0
        self.error: str | None = None
        self.done = False
        self._pending = b""
        self._start = 0.0
        self._plays_until: float | None = None
        """When what was received will have been played."""
        self._bytes = 0

    def ask(self, start: float, blocks: int) -> None:
        """Ask for a stream that begins at `start`."""
        self._start, self.done, self._plays_until, self._bytes = start, False, None, 0
        request = {"text": "A tone.", "stream": True, "final_wav": False, "extra_params": {"start": start, "blocks": blocks}}
        self._send(TEXT, json.dumps(request).encode())

    def _send(self, opcode: int, payload: bytes) -> None:
        length = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
        self.socket.send(bytes([0x80 | opcode]) + length + bytes(4) + payload)

    def read(self) -> None:
        """Take what came."""
        try:
            data = self.socket.recv(LONGEST_READ)
        except OSError as error:
            data, self.error = b"", str(error)
        now = time.perf_counter()
        if not data:
            self.done, self.error = True, self.error or "the server closed"
            return
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
            if opcode == BINARY:
                self._heard(size, now)
            else:
                self._told(opcode, data[begin:end])
            position = end
        self._pending = data[position:]

    def _heard(self, size: int, now: float) -> None:
        self._bytes += size
        self.lateness.append(now - self._start - (self._bytes - 1) // FRAME_BYTES * BLOCK_S)
        if self._plays_until is None:
            self._plays_until = now + PLAY_AFTER_S
        elif now > self._plays_until:
            self.underruns += 1
            self._plays_until = now
        self._plays_until += size / FRAME_BYTES * BLOCK_S

    def _told(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self._send(10, payload)
        elif opcode == CLOSE:
            self.done, self.error = True, f"closed with {int.from_bytes(payload[:2], 'big')}"
        elif b'"success"' in payload:
            self.done = True
        elif b'"error"' in payload:
            self.done, self.error = True, payload.decode()


def connect(port: int) -> Listener:
    """A new connection, its handshake done."""
    connected = socket.create_connection(("127.0.0.1", port), ANSWER_S)
    key = base64.b64encode(os.urandom(16)).decode()
    connected.sendall(
        f"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    answer = b""
    while b"\r\n\r\n" not in answer:
        if not (data := connected.recv(LONGEST_READ)):
            break
        answer += data
    if not answer.startswith(b"HTTP/1.1 101"):
        raise ConnectionError(answer[:80].decode(errors="replace"))
    connected.setblocking(False)
    return Listener(connected)


def disconnect(listeners: list[Listener]) -> None:
    """Leave without a word."""
    for listener in listeners:
        listener.socket.close()


@dataclass
class Listening:
    """What many listeners heard."""

    lateness: list[float] = field(default_factory=list)
    """Seconds of every frame, in no order."""
    underruns: int = 0
    errors: list[str] = field(default_factory=list)


def listen(
    listeners: list[Listener], seconds: float, *, over_s: float = 0.0, at: Sequence[tuple[float, Callable[[], None]]] = ()
) -> Listening:
    """Have each of `listeners` hear a stream of so many seconds, their blocks spread evenly over `BLOCK_S`.

    Args:
        over_s: seconds over which the streams begin, one after another, and so end.
        at: what to call, each so many seconds after the first block of all.
    """
    start = time.perf_counter() + LEAD_S
    calls: list[tuple[float, Callable[[], object]]] = [(start + after, call) for after, call in at]
    for number, listener in enumerate(listeners):
        begin = start + over_s * number / len(listeners) + BLOCK_S * (number * GOLDEN % 1)
        calls.append((begin - LEAD_S, partial(listener.ask, begin, round(seconds / BLOCK_S))))
    calls.sort(key=itemgetter(0))
    open_ = len(listeners)
    with closing(selectors.DefaultSelector()) as selector:
        for listener in listeners:
            selector.register(listener.socket, selectors.EVENT_READ, listener)
        while open_ and (now := time.perf_counter()) < start + over_s + seconds + AFTER_END_S:
            while calls and now >= calls[0][0]:
                calls.pop(0)[1]()
            for key, _ in selector.select(min(0.05, max(0.0, calls[0][0] - now)) if calls else 0.05):
                one: Listener = key.data
                one.read()
                if one.done:
                    selector.unregister(one.socket)
                    open_ -= 1
    for listener in listeners:
        if not listener.done:
            listener.error = "it did not end"
    return Listening(
        [late for listener in listeners for late in listener.lateness],
        sum(listener.underruns for listener in listeners),
        [listener.error for listener in listeners if listener.error],
    )
