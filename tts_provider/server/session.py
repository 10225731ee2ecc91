"""One connection's life, a WebSocket's or another's: kept alive, drained, closed. What is said on it is a dialect's matter.

connection nursery
├── trio-websocket's reader      for a WebSocket; lives until the close handshake is done
├── the outbox                   never cancelled while it sends: half a frame would be the last one
└── session scope                what drain, a lost client, idleness and a missing pong cancel
    ├── the watch: pings, idleness, drain
    └── the dialect: its reader and its requests
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import structlog
import trio

from tts_provider.errors import RequestError, TTSError
from tts_provider.server.failures import faults_as_errors
from tts_provider.server.frame_meter import Breach, FrameLimits, FrameMeter
from tts_provider.server.listener import Connection
from tts_provider.server.outbox import Outbox, Peer
from tts_provider.server.websocket import Closed, WebSocket
from tts_provider.settings import Settings

__all__ = ["Dialect", "Session", "Sessions", "Transport"]

FINISH_S: Final = 2.0
"""For what is in the outbox when a session ends."""

NORMAL, GOING_AWAY, UNSUPPORTED, POLICY, INTERNAL_ERROR, NO_PONG = 1000, 1001, 1003, 1008, 1011, 1011
"""Close codes of RFC 6455 section 7.4.1; 1011 is what this server's clients are promised for a missing pong."""


log = structlog.get_logger(__name__)


class Transport(Peer, Protocol):
    """What carries messages: `websocket.WebSocket`, or `framed.FramedStream` for protocols that are none."""

    async def receive(self) -> str | bytes:
        """The client's next message. May be cancelled and called again.

        Raises:
            Closed: there is none.
        """

    async def answers_ping(self, timeout_s: float) -> bool:
        """Whether the client, asked whether it is there, answers within `timeout_s`."""

    async def close(self, code: int, reason: str, timeout_s: float) -> None:
        """Say goodbye, within `timeout_s`. The listener closes the socket after."""


class Session:
    """An open connection, as its dialect sees it."""

    def __init__(self, transport: Transport, settings: Settings) -> None:
        self.outbox = Outbox(transport)
        self.draining = False
        """Whether the session ends as soon as its requests have."""
        self._transport = transport
        self._settings = settings
        self._scope = trio.CancelScope()
        self._code = NORMAL
        self._reason = ""
        self._requests = 0
        self._writing = False
        self._active_at = trio.current_time()
        self._looks_at = -math.inf
        """When the watch looks next, of its own accord."""
        self._changed = trio.Event()

    async def receive(self) -> str | bytes:
        """The client's next message.

        Raises:
            Closed: there is none.
        """
        message = await self._transport.receive()
        self._active_at = trio.current_time()
        return message

    async def converse(self, obey: Callable[[str | bytes], None], *beside: Callable[[], Awaitable[None]]) -> None:
        """Give each message to `obey`, for ever, so that a disconnect or a cancel is seen at once; meanwhile run `beside`.

        Raises:
            Closed: the client left; what ran beside is cancelled.
            TTSError: what `obey` or a task raised; for a fault of ours, which is logged, an `InternalError`.
        """
        with faults_as_errors():
            async with trio.open_nursery() as nursery:
                for task in beside:
                    nursery.start_soon(task)
                while True:
                    obey(await self.receive())

    def request_begins(self) -> None:
        """Count a request: until it ends the session is not idle, and a drain waits for it."""
        self._requests += 1

    def request_ends(self) -> None:
        self._requests -= 1
        self._active_at = trio.current_time()
        if self.draining or self._active_at + self._settings.idle_s < self._looks_at:
            self._notify()

    def end(self, code: int, reason: str) -> None:
        """Stop everything and close with `code`. The first reason counts."""
        if not self._scope.cancel_called:
            self._code, self._reason = code, reason
            self._scope.cancel(reason=reason or "ended")

    def fail(self, error: TTSError) -> None:
        """The same, for `error`."""
        self.end(error.close_code or (POLICY if isinstance(error, RequestError) else INTERNAL_ERROR), error.code)

    def breached(self, breach: Breach) -> None:
        """End because of what the client's frames are."""
        log.info("connection.breach", code=breach.code, reason=breach.reason)
        self.end(breach.code, breach.reason)

    def drain(self) -> None:
        """End as soon as no request runs."""
        self.draining = True
        self._notify()

    def text_waits(self, writing: bool) -> None:
        """Note that the client is `writing` a text: that it has begun is no reason not to be idle when it does not go on."""
        self._writing = writing
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def run(self, nursery: trio.Nursery, dialect: Dialect) -> None:
        """Serve until either side ends it, then close."""
        nursery.start_soon(self._send)
        with self._scope:
            async with trio.open_nursery() as watches:
                watches.start_soon(self._watch)
                try:
                    await dialect(self)
                except* Closed:
                    pass
                watches.cancel_scope.cancel()
        if await self.outbox.stop(FINISH_S):
            await self._transport.close(self._code, self._reason, self._settings.close_s)

    async def _send(self) -> None:
        try:
            await self.outbox.run()
        except Closed:
            self.end(NORMAL, "the client is gone")

    async def _watch(self) -> None:
        """End the session when its time has come. One task for all reasons: three of them took a sixth of its memory."""
        settings = self._settings
        ping_at = trio.current_time() + settings.ping_interval_s
        while True:
            now = trio.current_time()
            busy = self._requests and not self._writing
            idle_at = math.inf if busy else self._active_at + settings.idle_s
            if self.draining and not self._requests:
                self.end(GOING_AWAY, "the server is going away")
            elif now >= idle_at:
                self.end(NORMAL, "idle")
            elif now >= ping_at:
                if not await self._transport.answers_ping(settings.ping_timeout_s):
                    self.end(NO_PONG, "no pong")
                ping_at = trio.current_time() + settings.ping_interval_s
                continue
            self._looks_at = min(ping_at, idle_at)
            with trio.move_on_at(self._looks_at):
                await self._changed.wait()


def _frame_limits(settings: Settings) -> FrameLimits:
    return FrameLimits(
        message_bytes=settings.max_message_bytes,
        fragments=settings.max_fragments,
        frames_per_s=settings.max_frames_per_s,
        control_frames_per_s=settings.max_pings_per_s,
    )


Dialect = Callable[[Session], Awaitable[None]]
"""Speaks one protocol on a session until the client leaves (`Closed`) or there is nothing more to say."""


class Sessions:
    """All open sessions of a server."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sessions: set[Session] = set()
        self._draining = False
        self._empty = trio.Event()
        """Set when the last session ends while draining."""

    async def serve(self, connection: Connection, dialect: Dialect, *, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Accept the WebSocket in `connection`, with `headers` in the answer, and have `dialect` speak on it, until it ends."""
        settings = self._settings
        async with trio.open_nursery() as nursery:
            websocket: WebSocket | None = None
            with trio.move_on_after(settings.handshake_s):
                websocket = await WebSocket.accept(
                    nursery,
                    connection.stream,
                    max_message_bytes=settings.max_message_bytes,
                    subprotocol=connection.subprotocol,
                    headers=headers,
                )
            if websocket is not None:
                session = Session(websocket, settings)
                connection.stream.begin_frames(FrameMeter(_frame_limits(settings), trio.current_time), session.breached)
                await self._run(nursery, session, dialect)
            nursery.cancel_scope.cancel()

    async def serve_framed(self, transport: Transport, dialect: Dialect) -> None:
        """The same for a connection that is open without further ado."""
        async with trio.open_nursery() as nursery:
            await self._run(nursery, Session(transport, self._settings), dialect)
            nursery.cancel_scope.cancel()

    async def _run(self, nursery: trio.Nursery, session: Session, dialect: Dialect) -> None:
        self._sessions.add(session)
        if self._draining:
            session.drain()
        try:
            await session.run(nursery, dialect)
        finally:
            self._sessions.discard(session)
            if not self._sessions:
                self._empty.set()

    async def drain(self, grace_s: float) -> None:
        """Let running requests end within `grace_s`, then cut the rest off. Returns when each session was told."""
        self._draining = True
        self._empty = trio.Event()
        for session in self._sessions.copy():
            session.drain()
        with trio.move_on_after(grace_s):
            if self._sessions:
                await self._empty.wait()
        for session in self._sessions.copy():
            session.end(GOING_AWAY, "the server is going away")
