"""Connections to the service: opened when they are needed or ahead of it, and refusals understood."""

from __future__ import annotations

from collections import deque
from typing import Final

import structlog
import trio

from tts_provider.engines.edge import service
from tts_provider.engines.edge.deadlines import Deadlines
from tts_provider.engines.edge.dial import Dialer
from tts_provider.engines.edge.failures import Forbidden, TurnFailed
from tts_provider.engines.edge.gate import Gate
from tts_provider.engines.edge.wire import Connection, Rejected, Unreachable, hold_connection
from tts_provider.errors import EngineUnavailable, Overloaded, SynthesisTimeout, TTSError

__all__ = ["Connections"]

FORBIDDEN_S: Final = 60.0
"""How long nobody asks after a 403 that a corrected clock did not cure; in the field such refusals last for days."""
MAX_IDLE_S: Final = 240.0
"""An unused connection is replaced after this: the token in its address is good for about five minutes."""
OPEN_AGAIN_S: Final = 15.0
"""Between two tries to open a connection ahead while that fails."""

_log = structlog.get_logger(__name__)


class Connections:
    """Opens connections, and keeps `ahead` unused ones ready. One connection serves one turn.

    Whether the service answers a second turn on a connection is disputed, and opening ahead saves the same time.
    """

    def __init__(self, dialer: Dialer, deadlines: Deadlines, ahead: int) -> None:
        self._dialer = dialer
        self._deadlines = deadlines
        self._ahead = ahead
        self._gate = Gate()
        self._idle: deque[Connection] = deque()
        self._changed = trio.Event()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Hold the connections; cancelling this closes them all."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                if self._ahead:
                    await self._keep_ahead()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def idle(self) -> Connection | None:
        """A connection that was opened ahead, if a usable one is there; it may turn out to be dead all the same."""
        while self._idle:
            connection = self._idle.popleft()
            self._changed.set()
            if _usable(connection):
                return connection
            connection.abort()
        return None

    async def open(self) -> Connection:
        """A new connection.

        Raises:
            TurnFailed: there is none to be had.
            EngineUnavailable, Overloaded: the service refused us a moment ago and is left alone for now.
        """
        with self._gate.attempt():
            try:
                return await self._open()
            except Forbidden as refusal:
                if not service.correct_clock(refusal.date):
                    raise self._forbidden() from refusal
            try:
                return await self._open()
            except Forbidden as refusal:
                raise self._forbidden() from refusal

    async def _open(self) -> Connection:
        if self._nursery is None:
            raise TurnFailed(EngineUnavailable("The Edge engine was stopped."), again=False)
        deadlines = self._deadlines
        try:
            with trio.fail_after(deadlines.connect_s):
                connection: Connection = await self._nursery.start(
                    hold_connection,
                    self._dialer,
                    service.socket_target(),
                    service.socket_headers(),
                    deadlines.close_s,
                    self._notice,
                )
                return connection
        except trio.TooSlowError as error:
            message = f"Edge's speech service did not accept a connection within {deadlines.connect_s:g} s."
            raise TurnFailed(SynthesisTimeout(message), again=True) from error
        except Unreachable as error:
            message = f"Edge's speech service cannot be reached: {error}."
            raise TurnFailed(EngineUnavailable(message), again=True) from error
        except Rejected as error:
            raise self._refusal(error) from error

    def _refusal(self, rejected: Rejected) -> TurnFailed:
        status = rejected.status
        if status == 403:
            return Forbidden(rejected.header("date"))
        if status == 429:
            wait_s = _retry_after(rejected.header("retry-after"))
            error: TTSError = Overloaded(
                "Edge's speech service asks for fewer requests (HTTP 429).",
                retry_after_ms=None if wait_s is None else round(wait_s * 1000),
            )
            if wait_s:
                self._gate.close(error, wait_s)
            return TurnFailed(error, again=not wait_s)
        error = EngineUnavailable(f"Edge's speech service is out of order (HTTP {status}).")
        return TurnFailed(error, again=status >= 500)

    def _forbidden(self) -> TurnFailed:
        error = EngineUnavailable(
            "Edge's speech service refuses this server (HTTP 403), so Microsoft has probably changed its protocol: upgrade the "
            f"package edge-tts ({service.EDGE_TTS_VERSION} is installed) and restart."
        )
        self._gate.close(error, FORBIDDEN_S)
        return TurnFailed(error, again=False)

    def _notice(self) -> None:
        """A connection has ended; it may have been one that was kept ready."""
        self._changed.set()

    async def _keep_ahead(self) -> None:
        while True:
            for connection in [connection for connection in self._idle if not _usable(connection)]:
                self._idle.remove(connection)
                connection.abort()
            try:
                while len(self._idle) < self._ahead:
                    self._idle.append(await self.open())
            except (TurnFailed, TTSError) as error:
                _log.debug("edge connection ahead failed", reason=str(error))
                await trio.sleep(OPEN_AGAIN_S)
                continue
            self._changed = trio.Event()
            oldest = min((connection.opened_at for connection in self._idle), default=trio.current_time())
            with trio.move_on_at(oldest + MAX_IDLE_S):
                await self._changed.wait()


def _usable(connection: Connection) -> bool:
    return connection.alive and trio.current_time() < connection.opened_at + MAX_IDLE_S


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds a number or a date; None when it holds neither."""
    if value is None:
        return None
    if value.isascii() and value.isdigit() and len(value) < 9:
        return float(value)
    seconds = service.seconds_until(value)
    return None if seconds is None else max(0.0, seconds)
