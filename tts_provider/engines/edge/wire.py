"""One WebSocket connection to the service: opened, spoken over, closed at once or with a goodbye.

trio-websocket shakes hands, masks what is sent, answers pings and says goodbye. The service's messages are taken from the
stream below it (`_Tap`), for reasons told in `frames`, and for another: when the peer hangs up during the handshake,
trio-websocket 0.12 waits for ever; the tap sees it.
"""

from __future__ import annotations

import socket as socketlib
import ssl
from typing import Final, cast

import structlog
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream

from tts_provider.engines.edge.dial import Dialer, ProxyRefused
from tts_provider.engines.edge.frames import BrokenFrames, FrameSplitter

__all__ = ["Connection", "Goodbye", "Lost", "Rejected", "Unreachable", "hold_connection"]

RECEIVE_BYTES: Final = 65_536
"""Read at once; a turn that comes in one go is read in a few steps."""
MAX_UNREAD_BYTES: Final = 1 << 20
"""Messages that nobody took yet, beyond which reading stops."""
MAX_ANSWER_BYTES: Final = 65_536
"""Of an answer to the handshake, body included."""

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


class Lost(Exception):
    """The connection ended without a goodbye."""


class Goodbye(Exception):
    """The service closed the connection properly."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _Tap(trio.abc.Stream):
    """The stream below trio-websocket. After the handshake it keeps the messages and lets only control frames pass."""

    def __init__(self, transport: trio.abc.Stream, when_over: trio.CancelScope) -> None:
        self._transport = transport
        self._when_over = when_over
        self._splitter: FrameSplitter | None = None
        self._answer_bytes = 0
        self._messages: list[bytes | str] = []
        self._unread = 0
        self._wanted = True
        self._changed = trio.Event()
        self.over: Exception | None = None
        """Why nothing more will come; None while something may."""

    def start(self) -> None:
        """The handshake is done: from here on there are frames."""
        self._splitter = FrameSplitter()

    def forget(self) -> None:
        """Nobody will take messages any more: drop them, so that the goodbye is reached."""
        self._wanted = False
        self._messages.clear()
        self._unread = 0
        self._notify()

    async def take(self) -> list[bytes | str]:
        """All messages that have come, at least one."""
        while not self._messages:
            if self.over is not None:
                raise self.over
            await self._changed.wait()
        messages, self._messages = self._messages, []
        self._unread = 0
        self._notify()
        return messages

    def end(self, reason: Exception) -> None:
        """Nothing more will come."""
        if self.over is None:
            self.over = reason
        if self._splitter is None:
            self._when_over.cancel()
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while True:
            try:
                data = await self._transport.receive_some(RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.end(Lost())
                raise
            if not data:
                self.end(Lost())
                return b""
            if self._splitter is None:
                self._answer_bytes += len(data)
                if self._answer_bytes > MAX_ANSWER_BYTES:
                    raise trio.BrokenResourceError("the answer to the handshake does not end")
                return bytes(data)
            try:
                messages, control = self._splitter.feed(data)
            except BrokenFrames as error:
                self.end(error)
                raise trio.BrokenResourceError("no WebSocket frames") from error
            if messages and self._wanted:
                self._messages += messages
                self._unread += len(data)
                self._notify()
            if self._splitter.close_code is not None:
                self.end(Goodbye(self._splitter.close_code))
            if control:
                return control
            while self._unread > MAX_UNREAD_BYTES:
                await self._changed.wait()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._transport.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._transport.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        self.end(Lost())
        await self._transport.aclose()


class Connection:
    """An open connection. Whoever has it calls `release` or `abort` in the end."""

    def __init__(self, socket: WebSocketConnection, tap: _Tap, scope: trio.CancelScope) -> None:
        self._socket = socket
        self._tap = tap
        self._scope = scope
        self.opened_at = trio.current_time()
        self.released = trio.Event()

    @property
    def alive(self) -> bool:
        """Whether, as far as is known, the service still listens."""
        return self._tap.over is None

    async def send(self, message: str) -> None:
        """Send a text message; does not wait for an answer.

        Raises:
            Lost: the connection is gone.
            Goodbye: the service closed it.
        """
        try:
            await self._socket.send_message(message)
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

    def release(self) -> None:
        """Close it with a goodbye, for whose answer somebody else waits."""
        self._tap.forget()
        self.released.set()

    def abort(self) -> None:
        """Close it at once, without a word."""
        self._scope.cancel()


async def hold_connection(
    dialer: Dialer, target: str, headers: Headers, close_s: float, *, task_status: trio.TaskStatus[Connection]
) -> None:
    """Open a connection, hand it over through `task_status`, and keep it until it is released, aborted or dead.

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
    except OSError as error:
        raise Unreachable(_why(error)) from error
    rejected: Rejected | None = None
    connection: Connection | None = None
    tap: _Tap | None = None
    try:
        async with trio.open_nursery() as nursery:
            scope = nursery.cancel_scope
            tap = _Tap(stream, scope)
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


def _why(error: OSError) -> str:
    """A reason fit for clients: no address, no path."""
    if isinstance(error, ProxyRefused):
        return f"the proxy answered HTTP {error.status}"
    if isinstance(error, socketlib.gaierror):
        return "its name cannot be looked up"
    return "no connection to it can be made"
