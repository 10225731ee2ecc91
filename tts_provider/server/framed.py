"""Messages on a plain stream, for protocols that are no WebSocket: the same seam to a session as `websocket` has.

A message is a line, and as many bytes after it as the line says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from tts_provider.errors import InvalidRequest
from tts_provider.server.streams import GuardedStream
from tts_provider.server.websocket import Closed

__all__ = ["FramedStream"]

MAX_LINE_BYTES: Final = 65_536
"""What asyncio's readers take for a line, and so what clients written with them expect of others."""
READ_BYTES: Final = 65_536


class FramedStream:
    """The messages of one connection. `receive` may be cancelled and called again; `send` may not."""

    def __init__(self, stream: GuardedStream, body_length: Callable[[bytes], int], max_body_bytes: int) -> None:
        """
        Args:
            body_length: how many bytes follow a line. It raises a `TTSError` for a line that begins no message.
        """
        self._stream = stream
        self._body_length = body_length
        self._max_body_bytes = max_body_bytes
        self._buffer = bytearray()

    async def receive(self) -> bytes:
        """The client's next message, with its line.

        Raises:
            Closed: there is none.
            TTSError: what came is no message, or too long a one; nothing sensible can follow it.
        """
        await trio.lowlevel.checkpoint()  # a buffer full of small messages must not hold up everybody else
        while (end := self._buffer.find(b"\n", 0, MAX_LINE_BYTES + 1)) < 0:
            if len(self._buffer) > MAX_LINE_BYTES:
                raise InvalidRequest(f"The line that begins a message must have at most {MAX_LINE_BYTES} bytes.")
            await self._fill()
        length = self._body_length(bytes(self._buffer[:end]))
        if not 0 <= length <= self._max_body_bytes:
            raise InvalidRequest(f"What follows a line must have from 0 to {self._max_body_bytes} bytes.")
        end += 1 + length
        while len(self._buffer) < end:
            await self._fill()
        message = bytes(self._buffer[:end])
        del self._buffer[:end]
        return message

    async def _fill(self) -> None:
        try:
            received = await self._stream.receive_some(READ_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Closed from error
        if not received:
            raise Closed
        self._buffer += received

    @property
    def unsent(self) -> bool:
        """Whether a part of what `send_now` took is to be sent by the next `send`, even by one of no messages."""
        return self._stream.unsent

    def send_now(self, messages: list[str | bytes]) -> bool:
        """Send encoded messages together if that needs no waiting and while nothing else is being sent; whether it was done."""
        return self._stream.send_now(_joined(messages))

    async def send(self, messages: list[str | bytes]) -> None:
        """Send encoded messages in order.

        Raises:
            Closed: the connection is gone, or the client took nothing for too long.
        """
        try:
            await self._stream.send_all(_joined(messages))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Closed from error

    async def answers_ping(self, timeout_s: float) -> bool:
        """True: such a protocol has no ping for the server to send."""
        return True

    async def close(self, code: int, reason: str, timeout_s: float) -> None:
        """Do nothing: there is nothing to say, and the listener closes the socket."""


def _joined(messages: list[str | bytes]) -> bytes:
    return b"".join([part.encode() if isinstance(part, str) else part for part in messages])
