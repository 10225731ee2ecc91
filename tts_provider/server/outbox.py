"""What waits to be sent on one connection: bounded, in order, fair among requests, and forgetful of what was cancelled."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from tts_provider.server.websocket import Closed

__all__ = ["Outbox", "Peer"]

MAX_MESSAGES: Final = 12
"""Messages that wait before a request must: with frames of 100 ms, 1.2 s of audio, however many requests share them. The
longest blocks of engines have a second."""
MAX_REPLIES: Final = 64
"""Answers to commands that may wait besides. A client that sends more without reading an answer is dropped."""
BATCH_BYTES: Final = 65_536
"""Sent in one system call at most."""
ALONE_S: Final = 0.02
"""What comes so long after the last is sent at once. What comes faster goes out together: then it is the number of system calls
that counts, else that of task switches."""
PUTS_AT_A_TIME: Final = 4
"""Messages that requests may add before others have their turn: a switch of tasks costs as much as the rest of a `put`."""


class Peer(Protocol):
    """The client's end: a WebSocket, or a stream of another protocol's messages."""

    @property
    def unsent(self) -> bool:
        """Whether a part of what `send_now` took is to be sent by the next `send`, even by one of no messages."""

    def send_now(self, messages: list[str | bytes]) -> bool:
        """Send `messages` together if that needs no waiting and while nothing else is being sent; whether it was done."""

    async def send(self, messages: list[str | bytes]) -> None:
        """Send `messages` in order and, where they are small, together.

        Raises:
            Closed: the connection is gone, or the client took nothing for too long.
        """


@dataclass(frozen=True, slots=True, eq=False)
class _Item:
    message: str | bytes
    owner: object
    """The request it belongs to; None for the answer to a command."""
    taken: trio.Event | None = None


class Outbox:
    """The only way to the client. `run` sends; requests `put`, the reader `reply`s."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._items: deque[_Item] = deque()
        self._replies = 0
        self._filled = trio.Event()
        self._room = trio.Semaphore(MAX_MESSAGES)
        self._puts = 0
        """Since others last had their turn."""
        self._put_at = -math.inf
        """When the last one was."""
        self._stopping = False
        self._stopped = trio.Event()

    async def put(self, message: str | bytes, owner: object) -> None:
        """Add a message of the request `owner`; waits while the client is slow, first come first served."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._puts += 1
        if self._puts < PUTS_AT_A_TIME and self.put_now([message], owner):
            return
        self._puts = 0
        await self._room.acquire()
        self._items.append(_Item(message, owner))
        self._filled.set()

    def put_now(self, messages: list[str | bytes], owner: object) -> int:
        """Add messages of the request `owner`, from the first on, while there is room for them; how many there was room for."""
        messages = messages[:MAX_MESSAGES]
        now = trio.current_time()
        alone, self._put_at = now >= self._put_at + ALONE_S, now
        if alone and not self._items and self._peer.send_now(messages):
            if self._peer.unsent:
                self._filled.set()
            return len(messages)
        count = min(len(messages), self._room.value)
        for message in messages[:count]:
            self._room.acquire_nowait()
            self._items.append(_Item(message, owner))
        if count:
            self._filled.set()
        return count

    async def put_large(self, message: bytes, owner: object) -> None:
        """Add a message of many frames' size and wait until it is being sent, so that only one such waits at a time."""
        await self._room.acquire()
        taken = trio.Event()
        self._items.append(_Item(message, owner, taken))
        self._filled.set()
        await taken.wait()

    def reply(self, message: str | bytes) -> None:
        """Add the answer to a command without waiting.

        Raises:
            Closed: the client sends commands and reads no answers.
        """
        if self._replies >= MAX_REPLIES:
            raise Closed
        self._replies += 1
        self._items.append(_Item(message, None))
        self._filled.set()

    def discard(self, owner: object) -> None:
        """Forget every message of `owner` that was not sent."""
        for item in [item for item in self._items if item.owner is owner]:
            self._items.remove(item)
            self._room.release()

    async def run(self) -> None:
        """Send until `stop` or cancelled. Cancel it only with the connection: half a message may have gone.

        Raises:
            Closed: the connection is gone.
        """
        try:
            while not (self._stopping and not self._items and not self._peer.unsent):
                if self._items or self._peer.unsent:
                    await self._peer.send(self._take())
                else:
                    self._filled = trio.Event()
                    await self._filled.wait()
        finally:
            self._stopped.set()

    def _take(self) -> list[str | bytes]:
        batch: list[str | bytes] = []
        size = 0
        while self._items and (not batch or size + len(self._items[0].message) <= BATCH_BYTES):
            item = self._items.popleft()
            batch.append(item.message)
            size += len(item.message)
            if item.taken is not None:
                item.taken.set()
            if item.owner is None:
                self._replies -= 1
            else:
                self._room.release()
        return batch

    async def stop(self, timeout_s: float) -> bool:
        """Send what there is and end `run`; False when that takes longer than `timeout_s`."""
        self._stopping = True
        self._filled.set()
        with trio.move_on_after(timeout_s):
            await self._stopped.wait()
        return self._stopped.is_set()
