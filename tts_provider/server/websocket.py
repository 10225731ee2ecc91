"""The seam to trio-websocket: all that the rest of the server knows of WebSockets.

trio-websocket 0.12.2 is used through `wrap_server_stream` only, with these of its habits kept from everybody else:

* Its reader stops while messages wait, and then answers no ping and sees no close. So a task of ours always reads.
* A cancelled send leaves half a frame. `GuardedStream` gives the connection up then.
* Closing waits for the peer without limit, and burns its whole limit if the connection's nursery is cancelled. So `close` has a
  deadline, and the caller cancels the session inside the nursery, never the nursery.
* A message costs it 35 microseconds, most of them in locks and copies. So messages are framed here, and many go in one write;
  it writes only control frames, whole ones, through the same stream.
* A ping that comes while we close makes its reader raise `SpokeWhileClosing`. The listener takes that for what it is: no fault.
* A ping is never woken when the connection closes. So `answers_ping` is called in the session's scope.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, wrap_server_stream
from wsproto.utilities import LocalProtocolError as SpokeWhileClosing

from tts_provider.server.streams import GuardedStream

__all__ = ["Closed", "SpokeWhileClosing", "WebSocket"]

RECEIVE_BYTES = 65_536
"""Per read; the library's 4 KiB cost three times the CPU on large messages."""
QUEUED_MESSAGES = 16
"""Messages between the library's reader and ours."""


TEXT, BINARY = 0x81, 0x82
"""First byte of an unfragmented message (RFC 6455, section 5.2); a server does not mask."""
SHORT, LONG = struct.Struct("!BBH"), struct.Struct("!BBQ")


class Closed(Exception):
    """The connection is gone, whoever ended it."""


class WebSocket:
    """One open WebSocket connection of a client."""

    def __init__(self, connection: WebSocketConnection, stream: GuardedStream) -> None:
        self._connection = connection
        self._stream = stream

    @classmethod
    async def accept(
        cls,
        nursery: trio.Nursery,
        stream: GuardedStream,
        *,
        max_message_bytes: int,
        subprotocol: str | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> WebSocket:
        """Answer the upgrade request that waits in `stream`, with `headers` besides; `nursery` gets the library's reader.

        Raises:
            Closed: the client went away, or asked for something that is no WebSocket.
        """
        try:
            request: WebSocketRequest = await wrap_server_stream(
                nursery,
                stream,
                max_message_size=max_message_bytes,
                message_queue_size=QUEUED_MESSAGES,
                receive_buffer_size=RECEIVE_BYTES,
            )
            return cls(await request.accept(subprotocol=subprotocol, extra_headers=list(headers)), stream)
        except (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Closed from error

    async def receive(self) -> str | bytes:
        """The next message.

        Raises:
            Closed: there is none.
        """
        try:
            return await self._connection.get_message()
        except (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Closed from error

    @property
    def unsent(self) -> bool:
        """Whether a part of what `send_now` took is to be sent by the next `send`, even by one of no messages."""
        return self._stream.unsent

    def send_now(self, messages: list[str | bytes]) -> bool:
        """Send `messages` together if that needs no waiting and while nothing else is being sent; whether it was done."""
        return not self._connection.closed and self._stream.send_now(_framed(messages))

    async def send(self, messages: list[str | bytes]) -> None:
        """Send `messages` in order and, where they are small, together.

        Raises:
            Closed: the connection is gone, or the client took nothing for too long.
        """
        if self._connection.closed:
            raise Closed
        try:
            await self._stream.send_all(_framed(messages))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Closed from error

    async def answers_ping(self, timeout_s: float) -> bool:
        """Whether the client answers a ping within `timeout_s`.

        One that reads slowly answers late without being dead: while a write waits, its own deadline counts.
        """
        if self._stream.writing_since is not None:
            return True
        with trio.move_on_after(timeout_s):
            try:
                await self._connection.ping()
            except (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
                return False
            return True
        return self._stream.writing_since is not None

    async def close(self, code: int, reason: str, timeout_s: float) -> None:
        """Close with the handshake if the client plays along within `timeout_s`; the socket is closed by the listener after."""
        with trio.move_on_after(timeout_s, shield=True):
            with suppress(ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                await self._connection.aclose(code, reason)


def _framed(messages: list[str | bytes]) -> bytes:
    """The frames that carry `messages`, one each."""
    parts: list[bytes] = []
    for message in messages:
        first, payload = (TEXT, message.encode()) if isinstance(message, str) else (BINARY, message)
        size = len(payload)
        if size < 126:
            parts.append(bytes((first, size)))
        else:
            parts.append(SHORT.pack(first, 126, size) if size < 65_536 else LONG.pack(first, 127, size))
        parts.append(payload)
    return b"".join(parts)
