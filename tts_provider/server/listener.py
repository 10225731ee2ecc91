"""The accept loop: one port for WebSocket and HTTP, and a barrier that keeps every fault inside its connection.

`trio_websocket.serve_websocket` is never used: an exception in its handler or its reader ends the whole process, and one byte
in a handshake's header is enough for that. Here h11 reads the head first; an upgrade is rebuilt from what h11 understood and
given to trio-websocket, anything else is answered as HTTP, and whatever goes wrong ends that connection only.
"""

from __future__ import annotations

import itertools
import math
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import h11
import structlog
import trio

from tts_provider.errors import TTSError
from tts_provider.server.access import Access, choose_subprotocol
from tts_provider.server.http import send_error
from tts_provider.server.http_bridge import HttpBridge
from tts_provider.server.streams import GuardedStream
from tts_provider.server.tls import shake_hands
from tts_provider.server.websocket import Closed, SpokeWhileClosing
from tts_provider.settings import Settings

__all__ = ["Connection", "Listener", "Serve"]

MAX_HEAD_BYTES: Final = 16_384
BACKLOG: Final = 1_024
"""Connections that the kernel holds until they are accepted."""
READ_BYTES: Final = 8_192
KEEP_ALIVE_S: Final = 30.0
"""Until the next request on a connection: browsers and SDKs come back within seconds, proxies keep 60 s at most."""

log = structlog.get_logger(__name__)

Serve = Callable[[GuardedStream], Awaitable[None]]
"""Serves one connection until it ends. It may raise anything."""


@dataclass(slots=True)
class Connection:
    """An accepted connection whose upgrade request has been read and checked."""

    stream: GuardedStream
    path: str
    headers: list[tuple[bytes, bytes]]
    """Names in lower case; ASCII only."""

    @property
    def subprotocol(self) -> str | None:
        """The one to accept with."""
        return choose_subprotocol(self.headers)


@dataclass(slots=True)
class Listener:
    """Accepts connections and hands the WebSocket ones to `session`."""

    settings: Settings
    session: Callable[[Connection], Awaitable[None]]
    """Serves one WebSocket connection until it ends. It may raise anything."""
    http: HttpBridge
    """Answers everything else."""
    access: Access = field(default_factory=Access)
    """Whom both are for."""
    told: Callable[[TTSError], None] = lambda _: None
    """Hears of each error that a client is told of."""
    tls: ssl.SSLContext | None = None
    """What the port speaks TLS with; None for a plain one."""
    turns_away: Callable[[], float | None] = lambda: None
    """Seconds until a WebSocket that is asked for now could be of use; None when it can be at once."""
    connections: int = 0
    """Open now."""
    faults: int = 0
    """Connections that ended in an error of ours."""
    turned_away: int = 0
    """Connections refused because there were too many."""
    _waiting: set[trio.CancelScope] = field(default_factory=set)
    """Round the waits for the first byte of a request."""
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def run(self, listeners: list[trio.SocketListener], handler_nursery: trio.Nursery) -> None:
        """Accept until cancelled; connections live in `handler_nursery` and go on then."""
        await trio.serve_listeners(partial(self._handle, self._serve, self.tls), listeners, handler_nursery=handler_nursery)

    async def run_other(self, listeners: list[trio.SocketListener], serve: Serve, handler_nursery: trio.Nursery) -> None:
        """The same for another protocol on a port of its own, behind the same barrier and within the same limit."""

        async def within_limit(stream: GuardedStream) -> None:
            if self.connections > self.settings.max_connections:
                self.turned_away += 1
            else:
                await serve(stream)

        await trio.serve_listeners(partial(self._handle, within_limit, None), listeners, handler_nursery=handler_nursery)

    async def _handle(self, serve: Serve, tls: ssl.SSLContext | None, socket: trio.SocketStream) -> None:
        """The barrier: nothing but cancellation gets past it, and the socket is closed whatever happens."""
        self.connections += 1
        secured = None if tls is None else trio.SSLStream(socket, tls, server_side=True, https_compatible=True)
        stream = GuardedStream(secured or socket, self.settings.send_stall_s)
        try:
            with structlog.contextvars.bound_contextvars(connection=next(self._ids)):
                if secured is None or await shake_hands(secured, self.settings.handshake_s):
                    await serve(stream)
        except* (Closed, trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass  # the client went away, in one of its many ways
        except* SpokeWhileClosing:
            log.debug("connection.spoke_while_closing")
        except* Exception:
            self.faults += 1
            log.exception("connection.fault")
        finally:
            self.connections -= 1
            await trio.aclose_forcefully(stream)

    async def _serve(self, stream: GuardedStream) -> None:
        """Answer one request after the other, until one asks for a WebSocket."""
        connection = await self._serve_http(stream)
        if connection is not None:
            await self.session(connection)

    async def _serve_http(self, stream: GuardedStream) -> Connection | None:
        """Answer requests until the client goes, or asks for a WebSocket: the connection to go on with then.

        A method of its own so that what it needed is not kept as long as the WebSocket: an idle connection's memory counts.
        """
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        request = await self._next_request(stream, connection, self.settings.handshake_s)
        if request is not None and self.connections > self.settings.max_connections:
            self.turned_away += 1
            head_only = request.method == b"HEAD"
            await send_error(stream, connection, 503, "Too many connections.", head_only=head_only, retry_after_s=1)
            return None
        while request is not None:
            websocket = _asks_for_websocket(request)
            try:
                self.access.check(request, websocket=websocket)
            except TTSError as error:
                await self._refuse(stream, connection, request, error)
                return None
            if websocket:
                if (wait_s := self.turns_away()) is not None:
                    self.turned_away += 1
                    message = "Every engine is taken, and every queue is full."
                    await send_error(stream, connection, 503, message, retry_after_s=math.ceil(wait_s))
                    return None
                stream.give_back(_rebuild(request) + connection.trailing_data[0])
                return Connection(stream, request.target.decode("ascii"), list(request.headers))
            if not await self.http.answer(stream, connection, request):
                return None
            request = await self._next_request(stream, connection, KEEP_ALIVE_S)
        return None

    async def _refuse(self, stream: GuardedStream, connection: h11.Connection, request: h11.Request, error: TTSError) -> None:
        self.told(error)
        await send_error(
            stream,
            connection,
            error.http_status,
            error.message,
            head_only=request.method == b"HEAD",
            code=error.code,
            more_headers=self.access.refusal_headers(request, error),
        )

    async def _next_request(self, stream: GuardedStream, connection: h11.Connection, idle_s: float) -> h11.Request | None:
        """The next request's head, or None if none came in time or it was no good, which was answered then.

        Args:
            idle_s: for its first byte; the whole head then has `handshake_s`.
        """
        if not connection.trailing_data[0]:
            if self.http.draining:
                return None
            with trio.move_on_after(idle_s) as waiting:
                self._waiting.add(waiting)
                try:
                    connection.receive_data(bytes(await stream.receive_some(READ_BYTES)))
                finally:
                    self._waiting.discard(waiting)
            if waiting.cancelled_caught:
                return None
        with trio.move_on_after(self.settings.handshake_s):
            return await self._read_head(stream, connection)
        return None

    async def _read_head(self, stream: GuardedStream, connection: h11.Connection) -> h11.Request | None:
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError as error:
                await send_error(stream, connection, error.error_status_hint, "This is no HTTP request.")
                return None
            if event is h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some(READ_BYTES)))
            elif isinstance(event, h11.Request):
                if not event.http_version.startswith(b"1."):  # the first line of HTTP/2 looks like a request
                    await send_error(stream, connection, 400, "This server speaks HTTP/1.1.")
                    return None
                if _is_ascii(event):
                    return event
                await send_error(stream, connection, 400, "Headers must be ASCII.", head_only=event.method == b"HEAD")
                return None
            else:
                return None

    async def drain(self, grace_s: float) -> None:
        """Close connections that wait for a request, and give HTTP responses `grace_s` to end."""
        self.http.draining = True
        for waiting in self._waiting:
            waiting.cancel(reason="the server is going away")
        await self.http.drain(grace_s)


def _is_ascii(request: h11.Request) -> bool:
    return request.target.isascii() and all(name.isascii() and value.isascii() for name, value in request.headers)


def _asks_for_websocket(request: h11.Request) -> bool:
    return any(name == b"upgrade" and value.lower() == b"websocket" for name, value in request.headers)


def _rebuild(request: h11.Request) -> bytes:
    """The head as h11 understood it. Stricter than passing on what came."""
    lines = [b"%s %s HTTP/%s" % (request.method, request.target, request.http_version)]
    lines += [b"%s: %s" % (name, value) for name, value in request.headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"
