"""One WebSocket connection's life: accepted, kept alive, drained, closed. What is said on it is a dialect's matter.

connection nursery
├── trio-websocket's reader      lives until the close handshake is done
├── the outbox                   never cancelled while it sends: half a frame would be the last one
└── session scope                what drain, a lost client, idleness and a missing pong cancel
    ├── keep-alive, idle watch, drain watch
    └── the dialect: its reader and its requests
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import structlog
import trio

from tts_provider.server.frame_meter import Breach, FrameLimits, FrameMeter
from tts_provider.server.listener import Connection
from tts_provider.server.outbox import Outbox
from tts_provider.server.websocket import Closed, WebSocket
from tts_provider.settings import Settings

__all__ = ["Dialect", "Session", "Sessions"]

FINISH_S: Final = 2.0
"""For what is in the outbox when a session ends."""

NORMAL, GOING_AWAY, UNSUPPORTED, POLICY, NO_PONG = 1000, 1001, 1003, 1008, 1011
"""Close codes of RFC 6455 section 7.4.1; 1011 is what this server's clients are promised for a missing pong."""


log = structlog.get_logger(__name__)


class Session:
    """An open connection, as its dialect sees it."""

    def __init__(self, websocket: WebSocket, settings: Settings) -> None:
        self.outbox = Outbox(websocket)
        self.draining = False
        """Whether the session ends as soon as its requests have."""
        self._websocket = websocket
        self._settings = settings
        self._scope = trio.CancelScope()
        self._code = NORMAL
        self._reason = ""
        self._requests = 0
        self._active_at = trio.current_time()
        self._changed = trio.Event()

    async def receive(self) -> str | bytes:
        """The client's next message.

        Raises:
            Closed: there is none.
        """
        message = await self._websocket.receive()
        self._active_at = trio.current_time()
        return message

    def request_begins(self) -> None:
        """Count a request: until it ends the session is not idle, and a drain waits for it."""
        self._requests += 1

    def request_ends(self) -> None:
        self._requests -= 1
        self._active_at = trio.current_time()
        self._notify()

    def end(self, code: int, reason: str) -> None:
        """Stop everything and close with `code`. The first reason counts."""
        if not self._scope.cancel_called:
            self._code, self._reason = code, reason
            self._scope.cancel(reason=reason or "ended")

    def breached(self, breach: Breach) -> None:
        """End because of what the client's frames are."""
        log.info("connection.breach", code=breach.code, reason=breach.reason)
        self.end(breach.code, breach.reason)

    def drain(self) -> None:
        """End as soon as no request runs."""
        self.draining = True
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def run(self, nursery: trio.Nursery, dialect: Dialect) -> None:
        """Serve until either side ends it, then close."""
        nursery.start_soon(self._send)
        with self._scope:
            async with trio.open_nursery() as watches:
                watches.start_soon(self._watch_pongs)
                watches.start_soon(self._watch_idleness)
                watches.start_soon(self._watch_drain)
                try:
                    await dialect(self)
                except* Closed:
                    pass
                watches.cancel_scope.cancel()
        if await self.outbox.stop(FINISH_S):
            await self._websocket.close(self._code, self._reason, self._settings.close_s)

    async def _send(self) -> None:
        try:
            await self.outbox.run()
        except Closed:
            self.end(NORMAL, "the client is gone")

    async def _watch_pongs(self) -> None:
        await self._websocket.keep_alive(self._settings.ping_interval_s, self._settings.ping_timeout_s)
        self.end(NO_PONG, "no pong")

    async def _watch_idleness(self) -> None:
        while True:
            await trio.sleep_until(self._active_at + self._settings.idle_s)
            while self._requests:
                await self._changed.wait()
            if trio.current_time() >= self._active_at + self._settings.idle_s:
                self.end(NORMAL, "idle")

    async def _watch_drain(self) -> None:
        while not self.draining or self._requests:
            await self._changed.wait()
        self.end(GOING_AWAY, "the server is going away")


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

    async def serve(self, connection: Connection, dialect: Dialect) -> None:
        """Accept the WebSocket in `connection` and have `dialect` speak on it, until it ends."""
        settings = self._settings
        async with trio.open_nursery() as nursery:
            websocket: WebSocket | None = None
            with trio.move_on_after(settings.handshake_s):
                websocket = await WebSocket.accept(nursery, connection.stream, max_message_bytes=settings.max_message_bytes)
            if websocket is not None:
                session = Session(websocket, settings)
                connection.stream.begin_frames(FrameMeter(_frame_limits(settings), trio.current_time), session.breached)
                self._sessions.add(session)
                if self._draining:
                    session.drain()
                try:
                    await session.run(nursery, dialect)
                finally:
                    self._sessions.discard(session)
                    if not self._sessions:
                        self._empty.set()
            nursery.cancel_scope.cancel()

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
