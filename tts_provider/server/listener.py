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
from tts_provider.server.addresses import Addresses, peer_address
from tts_provider.server.http import send_error
from tts_provider.server.http_bridge import HttpBridge
from tts_provider.server.streams import GuardedStream
from tts_provider.server.tls import shake_hands
from tts_provider.server.upgrade import VERSION, asks_for_websocket, rebuild, upgrade_fault
from tts_provider.server.websocket import Closed, SpokeWhileClosing
from tts_provider.settings import Settings, SettingsError

__all__ = ["Connection", "Listener", "Serve"]

MAX_HEAD_BYTES: Final = 16_384
BACKLOG: Final = 1_024
"""Connections that the kernel holds until they are accepted."""
READ_BYTES: Final = 8_192
MAX_TOLD: Final = 64
"""Connections over a limit that are told so. Even that takes a descriptor and seconds; what comes beyond is closed at once."""
RETRY_AFTER_S: Final = 1
KEEP_ALIVE_S: Final = 30.0
"""Until the next request on a connection: browsers and SDKs come back within seconds, proxies keep 60 s at most."""

log = structlog.get_logger(__name__)

Serve = Callable[[GuardedStream], Awaitable[None]]
"""Serves one connection until it ends. It may raise anything."""

Refusal = tuple[int, str]
"""Why a connection gets no place: an HTTP status and a message."""

_Serve = Callable[[GuardedStream, Refusal | None], Awaitable[None]]


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
    _refused: int = 0
    """Of those that are open now: they take no place."""
    _addresses: Addresses = field(init=False)
    _waiting: set[trio.CancelScope] = field(default_factory=set)
    """Round the waits for the first byte of a request."""
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        try:
            self._addresses = Addresses(self.settings.max_connections_per_address, self.settings.uncounted_addresses)
        except ValueError as error:
            raise SettingsError(f"uncounted_addresses must be networks: {error}.") from error

    async def run(self, listeners: list[trio.SocketListener], handler_nursery: trio.Nursery) -> None:
        """Accept until cancelled; connections live in `handler_nursery` and go on then."""
        await trio.serve_listeners(partial(self._handle, self._serve, self.tls), listeners, handler_nursery=handler_nursery)

    async def run_other(self, listeners: list[trio.SocketListener], serve: Serve, handler_nursery: trio.Nursery) -> None:
        """The same for another protocol on a port of its own, behind the same barrier and within the same limit."""

        async def within_limit(stream: GuardedStream, refusal: Refusal | None) -> None:
            if refusal is None:
                await serve(stream)

        await trio.serve_listeners(partial(self._handle, within_limit, None), listeners, handler_nursery=handler_nursery)

    async def _handle(self, serve: _Serve, tls: ssl.SSLContext | None, socket: trio.SocketStream) -> None:
        """The barrier: nothing but cancellation gets past it, and the socket is closed whatever happens."""
        self.connections += 1
        address = peer_address(socket)
        refusal = self._admit(address)
        secured = None if tls is None else trio.SSLStream(socket, tls, server_side=True, https_compatible=True)
        stream = GuardedStream(secured or socket, self.settings.send_stall_s)
        try:
            if refusal is None or self._refused <= MAX_TOLD:
                with structlog.contextvars.bound_contextvars(connection=next(self._ids)):
                    if secured is None or await shake_hands(secured, self.settings.handshake_s):
                        await serve(stream, refusal)
        except* (Closed, trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass  # the client went away, in one of its many ways
        except* SpokeWhileClosing:
            log.debug("connection.spoke_while_closing")
        except* Exception:
            self.faults += 1
            log.exception("connection.fault")
        finally:
            self.connections -= 1
            if refusal is None:
                self._addresses.leave(address)
            else:
                self._refused -= 1
            await trio.aclose_forcefully(stream)

    def _admit(self, address: str | None) -> Refusal | None:
        """Give a new connection its place; why there is none otherwise."""
        refusal = None
        if self.connections - self._refused > self.settings.max_connections:
            refusal = 503, "Too many connections."
        elif not self._addresses.enter(address):
            refusal = 429, "Too many connections from your address."
        if refusal is not None:
            self.turned_away += 1
            self._refused += 1
        return refusal

    async def _serve(self, stream: GuardedStream, refusal: Refusal | None) -> None:
        """Answer one request after the other, until one asks for a WebSocket; the first with `refusal`, if there is one."""
        connection = await self._serve_http(stream, refusal)
        if connection is not None:
            await self.session(connection)

    async def _serve_http(self, stream: GuardedStream, refusal: Refusal | None) -> Connection | None:
        """Answer requests until the client goes, or asks for a WebSocket: the connection to go on with then.

        A method of its own so that what it needed is not kept as long as the WebSocket: an idle connection's memory counts.
        """
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        request = await self._next_request(stream, connection, self.settings.handshake_s)
        if request is not None and refusal is not None:
            head_only = request.method == b"HEAD"
            await send_error(stream, connection, *refusal, head_only=head_only, retry_after_s=RETRY_AFTER_S)
            return None
        while request is not None:
            websocket = asks_for_websocket(request)
            try:
                self.access.check(request, websocket=websocket)
            except TTSError as error:
                await self._refuse(stream, connection, request, error)
                return None
            if websocket:
                if (fault := upgrade_fault(request)) is not None:
                    await send_error(stream, connection, *fault, more_headers=[(b"sec-websocket-version", VERSION)])
                    return None
                if (wait_s := self.turns_away()) is not None:
                    self.turned_away += 1
                    message = "Every engine is taken, and every queue is full."
                    await send_error(stream, connection, 503, message, retry_after_s=math.ceil(wait_s))
                    return None
                stream.give_back(rebuild(request))
                stream.await_frames(connection.trailing_data[0])
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
                if (fault := _head_fault(event)) is None:
                    return event
                await send_error(stream, connection, 400, fault, head_only=event.method == b"HEAD")
                return None
            else:
                return None

    async def drain(self, grace_s: float) -> None:
        """Close connections that wait for a request, and give HTTP responses `grace_s` to end."""
        self.http.draining = True
        for waiting in self._waiting:
            waiting.cancel(reason="the server is going away")
        await self.http.drain(grace_s)


def _head_fault(request: h11.Request) -> str | None:
    """What is wrong with a head that h11 has taken."""
    if request.http_version not in {b"1.0", b"1.1"}:
        return "This server speaks HTTP/1.1."  # HTTP/2 without an upgrade begins like a request
    if not request.target.isascii() or not all(name.isascii() and value.isascii() for name, value in request.headers):
        return "Headers must be ASCII."
    return None
