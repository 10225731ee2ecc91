"""Many listeners in one process. Each notes how late each frame came, and plays what it gets: from its first frame and a small
buffer on, a second of audio a second.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Final

from benchmarks.lean_client import BINARY, CLOSE, TEXT, LeanClient, watch
from benchmarks.load_server import BLOCK_S, FRAME_BYTES

__all__ = ["Listener", "Listening", "disconnect", "listen"]

PLAY_AFTER_S: Final = 0.1
"""A player's buffer: it begins to play so long after its first frame."""
LEAD_S: Final = 0.5
"""From a request to its first block."""
GOLDEN: Final = 0.618_034
"""Multiples of it, less their whole part, are spread evenly however many they are."""
AFTER_END_S: Final = 20.0
"""For what a server that fell behind still sends; then the step is given up."""


class Listener:
    """One client's end of one stream."""

    def __init__(self, port: int) -> None:
        self.client = LeanClient(port)
        self.lateness: list[float] = []
        """Seconds of each frame, from the moment at which its last sample was made."""
        self.underruns = 0
        self.error: str | None = None
        self.done = False
        self._start = 0.0
        self._plays_until: float | None = None
        """When what was received will have been played."""
        self._bytes = 0

    def ask(self, start: float, blocks: int) -> None:
        """Ask for a stream that begins at `start`."""
        self._start, self.done, self._plays_until, self._bytes = start, False, None, 0
        request = {"text": "A tone.", "stream": True, "final_wav": False, "extra_params": {"start": start, "blocks": blocks}}
        self.client.send(TEXT, json.dumps(request).encode())

    def read(self) -> bool:
        """Take what came; whether the stream has ended."""
        try:
            for opcode, size, payload in self.client.read():
                if opcode == BINARY:
                    self._heard(size, time.perf_counter())
                else:
                    self._told(opcode, payload)
        except OSError as error:
            self.done, self.error = True, str(error)
        return self.done

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
        if opcode == CLOSE:
            self.done, self.error = True, f"closed with {int.from_bytes(payload[:2], 'big')}"
        elif b'"success"' in payload:
            self.done = True
        elif b'"error"' in payload:
            self.done, self.error = True, payload.decode()


def disconnect(listeners: list[Listener]) -> None:
    """Leave without a word."""
    for listener in listeners:
        listener.client.socket.close()


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

    def pause() -> float | None:
        now = time.perf_counter()
        while calls and now >= calls[0][0]:
            calls.pop(0)[1]()
        if now >= start + over_s + seconds + AFTER_END_S:
            return None
        return min(0.05, max(0.0, calls[0][0] - now)) if calls else 0.05

    watch([listener.client for listener in listeners], lambda number: listeners[number].read(), pause)
    for listener in listeners:
        if not listener.done:
            listener.error = "it did not end"
    return Listening(
        [late for listener in listeners for late in listener.lateness],
        sum(listener.underruns for listener in listeners),
        [listener.error for listener in listeners if listener.error],
    )
