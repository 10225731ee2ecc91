"""One WebSocket connection to the service: opened, spoken over, closed at once or with a goodbye.

trio-websocket shakes hands, masks what is sent, answers pings and says goodbye. The service's messages are taken from the
stream below it, by a `Tap`.
"""

from __future__ import annotations

import socket as socketlib
import ssl
from collections.abc import Callable
from typing import cast

import structlog
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream

from tts_provider.engines.edge.dial import Dialer, ProxyRefused
from tts_provider.engines.edge.tap import RECEIVE_BYTES, Lost, Tap

__all__ = ["Connection", "Rejected", "Unreachable", "hold_connection"]

_log = structlog.get_logger(__name__)

Headers = list[tuple[bytes, bytes]]


class Unreachable(Exception):
    """No connection could be made; its text completes "cannot be reached: ..."."""


class Rejected(Exception):
    """The service answered the handshake with another HTTP status than 101."""

    def __init__(self, status: int, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        super().__init__(status)
        self.status = status
        self._headers = headers

    def header(self, name: str) -> str | None:
        """The value of a header, by its name in lower case."""
        for key, value in self._headers:
            if key.lower() == name.encode():
                return value.decode("latin-1")
        return None


class Connection:
    """An open connection. Whoever has it calls `release` or `abort` in the end."""

    def __init__(self, socket: WebSocketConnection, tap: Tap, scope: trio.CancelScope) -> None:
        self._socket = socket
        self._tap = tap
        self._scope = scope
        self.opened_at = trio.current_time()
        self.released = trio.Event()

    @property
    def alive(self) -> bool:
        """Whether, as far as is known, the service still listens."""
        return self._tap.over is None

    async def send(self, *messages: str) -> None:
        """Send text messages together; does not wait for an answer.

        Raises:
            Lost: the connection is gone.
            Goodbye: the service closed it.
        """
        try:
            for rest in range(len(messages) - 1, -1, -1):
                self._tap.corked = rest > 0
                await self._socket.send_message(messages[-1 - rest])
        except ConnectionClosed as error:
            raise (self._tap.over or Lost()) from error

    async def receive(self) -> list[bytes | str]:
        """The messages that have come since, at least one.

        Raises:
            Lost: the connection is gone.
            Goodbye: the service closed it.
            BrokenFrames: it does not speak WebSocket.
        """
        return await self._tap.take()

    def gather(self, pause_s: float) -> None:
        """From now on let messages gather for so long before they are read: the fewer readings, the cheaper each."""
        self._tap.pause_s = pause_s

    def release(self) -> None:
        """Close it with a goodbye, for whose answer somebody else waits."""
        self._tap.forget()
        self.released.set()

    def abort(self) -> None:
        """Close it at once, without a word."""
        self._scope.cancel()


async def hold_connection(
    dialer: Dialer,
    target: str,
    headers: Headers,
    close_s: float,
    when_over: Callable[[], None],
    *,
    task_status: trio.TaskStatus[Connection],
) -> None:
    """Open a connection, hand it over through `task_status`, and keep it until it is released or aborted.

    Args:
        dialer: leads to the service.
        target: path and query of the handshake.
        headers: headers of the handshake.
        close_s: how long to wait for the service's answer to a goodbye.
        when_over: called once, when no more messages will come.
        task_status: gets the connection once it is open.

    Raises:
        Unreachable: there is no way to the service.
        Rejected: the service does not want us.
    """
    try:
        stream = await dialer.dial()
    except ssl.SSLCertVerificationError as error:
        raise Unreachable("its certificate is not to be trusted") from error
    except ssl.SSLError as error:
        raise Unreachable("it does not speak TLS") from error
    except (OSError, UnicodeError) as error:
        raise Unreachable(_why(error)) from error
    rejected: Rejected | None = None
    connection: Connection | None = None
    tap: Tap | None = None
    try:
        async with trio.open_nursery() as nursery:
            scope = nursery.cancel_scope
            tap = Tap(stream, scope, when_over)
            socket = await wrap_client_stream(
                nursery,
                cast("trio.SocketStream", tap),  # any stream will do, says its documentation
                dialer.address.netloc,
                target,
                extra_headers=headers,
                receive_buffer_size=RECEIVE_BYTES,
            )
            tap.start()
            connection = Connection(socket, tap, scope)
            task_status.started(connection)
            await connection.released.wait()
            with trio.move_on_after(close_s):
                await socket.aclose()
            scope.cancel()
    except* ConnectionRejected as group:
        rejected = _first(group)
    except* Exception:
        # What the service sent broke the library's reader (0.12 lets protocol errors and undecodable headers through). The
        # connection is dead, which `tap.end` tells whoever has it.
        _log.debug("edge connection broke", exc_info=True)
    finally:
        if tap is not None:
            tap.end(Lost())
        await trio.aclose_forcefully(stream)
    if rejected is not None:
        raise rejected
    if connection is None:
        raise Unreachable("it hung up during the handshake")


def _first(group: ExceptionGroup[ConnectionRejected]) -> Rejected:
    error = next(error for error in group.exceptions if isinstance(error, ConnectionRejected))
    return Rejected(error.status_code, error.headers)


def _why(error: OSError | UnicodeError) -> str:
    """A reason fit for clients: no address, no path."""
    if isinstance(error, ProxyRefused):
        return f"the proxy answered HTTP {error.status}"
    if isinstance(error, socketlib.gaierror):
        return "its name cannot be looked up"
    return "no connection to it can be made"
