"""The accept loop: one port for WebSocket and HTTP, and a barrier that keeps every fault inside its connection.

`trio_websocket.serve_websocket` is never used: an exception in its handler or its reader ends the whole process, and one byte
in a handshake's header is enough for that. Here h11 reads the head first; an upgrade is rebuilt from what h11 understood and
given to trio-websocket, anything else is answered as HTTP, and whatever goes wrong ends that connection only.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import h11
import structlog
import trio

from tts_provider.server import http
from tts_provider.server.streams import GuardedStream
from tts_provider.server.websocket import Closed
from tts_provider.settings import Settings

__all__ = ["Connection", "Listener"]

MAX_HEAD_BYTES: Final = 16_384
BACKLOG: Final = 1_024
"""Connections that the kernel holds until they are accepted."""
READ_BYTES: Final = 8_192

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Connection:
    """An accepted connection whose upgrade request has been read and checked."""

    stream: GuardedStream
    path: str
    headers: list[tuple[bytes, bytes]]
    """Names in lower case; ASCII only."""


@dataclass(slots=True)
class _Head:
    connection: h11.Connection
    request: h11.Request


@dataclass(slots=True)
class Listener:
    """Accepts connections and hands the WebSocket ones to `session`."""

    settings: Settings
    session: Callable[[Connection], Awaitable[None]]
    """Serves one WebSocket connection until it ends. It may raise anything."""
    ready: Callable[[], bool]
    """Whether the server can take work."""
    connections: int = 0
    """Open now."""
    faults: int = 0
    """Connections that ended in an error of ours."""
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def run(self, listeners: list[trio.SocketListener], handler_nursery: trio.Nursery) -> None:
        """Accept until cancelled; connections live in `handler_nursery` and go on then."""
        await trio.serve_listeners(self._handle, listeners, handler_nursery=handler_nursery)

    async def _handle(self, socket: trio.SocketStream) -> None:
        """The barrier: nothing but cancellation gets past it, and the socket is closed whatever happens."""
        self.connections += 1
        stream = GuardedStream(socket, self.settings.send_stall_s)
        try:
            with structlog.contextvars.bound_contextvars(connection=next(self._ids)):
                await self._serve(stream)
        except* (Closed, trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass  # the client went away, in one of its many ways
        except* Exception:
            self.faults += 1
            log.exception("connection.fault")
        finally:
            self.connections -= 1
            await trio.aclose_forcefully(stream)

    async def _serve(self, stream: GuardedStream) -> None:
        head: _Head | None = None
        with trio.move_on_after(self.settings.handshake_s):
            head = await self._read_head(stream)
        if head is None:
            return
        if self.connections > self.settings.max_connections:
            headers = [(b"retry-after", b"1"), (b"connection", b"close")]
            await self._refuse(stream, head.connection, 503, "Too many connections.", headers)
        elif _asks_for_websocket(head.request):
            stream.give_back(_rebuild(head.request) + head.connection.trailing_data[0])
            await self.session(Connection(stream, head.request.target.decode("ascii"), list(head.request.headers)))
        else:
            with trio.move_on_after(self.settings.send_stall_s):
                await http.respond(stream, head.connection, head.request, self.ready)

    async def _read_head(self, stream: GuardedStream) -> _Head | None:
        """The first request's head, or None if the client left or sent something else, which was answered then."""
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError as error:
                await self._refuse(stream, connection, error.error_status_hint, "This is no HTTP request.")
                return None
            if event is h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some(READ_BYTES)))
            elif isinstance(event, h11.Request):
                if _is_ascii(event):
                    return _Head(connection, event)
                await self._refuse(stream, connection, 400, "Headers must be ASCII.")
                return None
            else:
                return None

    async def _refuse(
        self,
        stream: GuardedStream,
        connection: h11.Connection,
        status: int,
        message: str,
        headers: list[tuple[bytes, bytes]] | None = None,
    ) -> None:
        if connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            body = {"status": "error", "message": message}
            await http.send_response(stream, connection, status, headers or [(b"connection", b"close")], body)


def _is_ascii(request: h11.Request) -> bool:
    return request.target.isascii() and all(name.isascii() and value.isascii() for name, value in request.headers)


def _asks_for_websocket(request: h11.Request) -> bool:
    return any(name == b"upgrade" and value.lower() == b"websocket" for name, value in request.headers)


def _rebuild(request: h11.Request) -> bytes:
    """The head as h11 understood it. Stricter than passing on what came."""
    lines = [b"%s %s HTTP/%s" % (request.method, request.target, request.http_version)]
    lines += [b"%s: %s" % (name, value) for name, value in request.headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"
