"""The seam to trio-websocket: all that the rest of the server knows of WebSockets.

trio-websocket 0.12.2 is used through `wrap_server_stream` only, with these of its habits kept from everybody else:

* Its reader stops while messages wait, and then answers no ping and sees no close. So a task of ours always reads.
* A cancelled send leaves half a frame. `GuardedStream` gives the connection up then.
* Closing waits for the peer without limit, and burns its whole limit if the connection's nursery is cancelled. So `close` has a
  deadline, and the caller cancels the session inside the nursery, never the nursery.
* A ping that comes while we close makes its reader raise `SpokeWhileClosing`. The listener takes that for what it is: no fault.
* A ping is never woken when the connection closes. So `keep_alive` runs in the session's scope.
"""

from __future__ import annotations

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


class Closed(Exception):
    """The connection is gone, whoever ended it."""


class WebSocket:
    """One open WebSocket connection of a client."""

    def __init__(self, connection: WebSocketConnection, stream: GuardedStream) -> None:
        self._connection = connection
        self._stream = stream

    @classmethod
    async def accept(
        cls, nursery: trio.Nursery, stream: GuardedStream, *, max_message_bytes: int, subprotocol: str | None = None
    ) -> WebSocket:
        """Answer the upgrade request that waits in `stream`; `nursery` gets the library's reader.

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
            return cls(await request.accept(subprotocol=subprotocol), stream)
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

    async def send(self, messages: list[str | bytes]) -> None:
        """Send `messages` in order and, where they are small, together.

        Raises:
            Closed: the connection is gone, or the client took nothing for too long.
        """
        try:
            if len(messages) > 1:
                self._stream.hold()
                for message in messages[:-1]:
                    await self._connection.send_message(message)
                self._stream.release()
            await self._connection.send_message(messages[-1])
        except (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Closed from error

    async def keep_alive(self, interval_s: float, timeout_s: float) -> None:
        """Ping every `interval_s`; return when one is not answered within `timeout_s`. Runs until then or cancelled.

        A client that reads slowly answers late without being dead: while a write waits, its own deadline counts.
        """
        while True:
            await trio.sleep(interval_s)
            if self._stream.writing_since is not None:
                continue
            with trio.move_on_after(timeout_s):
                try:
                    await self._connection.ping()
                except (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
                    return
                continue
            if self._stream.writing_since is None:
                return

    async def close(self, code: int, reason: str, timeout_s: float) -> None:
        """Close with the handshake if the client plays along within `timeout_s`; the socket is closed by the listener after."""
        self._stream.release()
        with trio.move_on_after(timeout_s, shield=True):
            with suppress(ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                await self._connection.aclose(code, reason)
