"""A WebSocket connection for a client that has no task of its own.

The usual WebSocket clients keep a reader task or an open nursery behind each connection, so that `connect` cannot be called
under a deadline and `disconnect` must be called by the same task. Here the protocol is wsproto's state machine and the bytes
are moved by whoever calls `send` or `receive`: nothing runs, and no cancel scope is open, between two calls. The price is that
pings are answered only while somebody receives; a server may close a connection that was idle for long.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections import deque
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import anyio
import anyio.abc
import anyio.lowlevel
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from tts_provider.client.errors import ConnectFailed, ConnectionLost, ServerTimeout, UnexpectedReply

__all__ = ["ServerAddress", "WebSocket"]

RECEIVE_BYTES: Final = 65_536
"""Per read: a bit more than a second of speech."""
MAX_MESSAGE_BYTES: Final = 16 * 2**20
"""Longest message taken from the server. It sends at most 800,000 bytes in one; the replaced one sent up to 10 MiB."""
CLOSE_S: Final = 1.0
"""Seconds for the closing handshake. Nothing depends on its success."""

PONG_S: Final = 5.0
"""Seconds for the answer to a ping; a connection that takes longer is taken for dead and replaced."""

NORMAL_CLOSURE: Final = 1000

_REFUSALS: Final = {401: "it asks for a key that it knows; give one as api_key, or as TTS_API_KEY in the environment"}

_BROKEN: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a server listens."""

    host: str
    port: int
    path: str = "/"
    secure: bool = False

    @classmethod
    def parse(cls, url: str) -> ServerAddress:
        """The address in ``ws://host:port/path`` or ``wss://...``.

        Raises:
            ValueError: it is no such URL.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise ValueError(f"The server's URL must look like ws://host:9000 or wss://host, but is {url!r}.")
        if parts.username is not None or parts.fragment:
            raise ValueError("The server's URL must not hold a user name or a fragment.")
        secure = parts.scheme == "wss"
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.hostname, parts.port or (443 if secure else 80), path, secure)

    @property
    def authority(self) -> str:
        """Host and port as the Host header has them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{'wss' if self.secure else 'ws'}://{self.authority}{self.path.rstrip('/')}"


class WebSocket:
    """An open connection. One task may send while another receives.

    A send or receive that fails, or is cancelled while bytes are on their way, leaves the connection closed: half a frame
    would make the rest unreadable.
    """

    def __init__(self, stream: anyio.abc.ByteStream, timeout: float) -> None:
        self._stream = stream
        self._timeout = timeout
        self._patience = timeout
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._write_lock = anyio.Lock(fast_acquire=True)
        self._messages: deque[str | bytes] = deque()
        self._pongs: deque[bytes] = deque(maxlen=1)
        self._text: list[str] = []
        self._bytes = bytearray()
        self._size = 0
        self._reading: anyio.CancelScope | None = None
        self._accepted = False
        self._lost: ConnectionLost | UnexpectedReply | ConnectFailed | None = None
        self.received = 0
        """Characters and bytes of the server's messages so far; tells whether a request was answered at all."""

    @classmethod
    async def open(
        cls, address: ServerAddress, timeout: float, ssl_context: ssl.SSLContext | None = None, api_key: str = ""
    ) -> WebSocket:
        """Connect to `address`; `timeout` seconds are the limit for this, and then for each pause in the traffic.

        `api_key` is sent where it is not empty.

        Raises:
            ConnectFailed: nobody listens there, or what listens refuses or is no WebSocket server.
            ServerTimeout: it took longer than `timeout`.
        """
        with anyio.move_on_after(timeout):
            return await cls._open(address, timeout, ssl_context, api_key)
        raise ServerTimeout(f"No connection to {address} within {timeout:g} s.")

    @classmethod
    async def _open(cls, address: ServerAddress, timeout: float, ssl_context: ssl.SSLContext | None, api_key: str) -> WebSocket:
        try:
            if address.secure:
                # WebSocket has its own closing handshake, so that TLS's may be missing.
                context = ssl_context or ssl.create_default_context()
                stream: anyio.abc.ByteStream = await anyio.connect_tcp(
                    address.host, address.port, ssl_context=context, tls_standard_compatible=False
                )
            else:
                stream = await anyio.connect_tcp(address.host, address.port)
        except (*_BROKEN, UnicodeError) as error:
            raise ConnectFailed(f"No connection to {address}: {_reason(error)}.") from error
        websocket = cls(stream, timeout)
        try:
            headers = [(b"Authorization", b"Bearer " + api_key.encode())] if api_key else []
            hello = websocket._protocol.send(Request(host=address.authority, target=address.path, extra_headers=headers))
            await websocket._write(hello)
            while not websocket._accepted:
                await websocket._read()
                if websocket._lost is not None:
                    raise websocket._lost
        except (ConnectFailed, ConnectionLost, UnexpectedReply, LocalProtocolError) as error:
            await websocket.drop()
            status = error.status if isinstance(error, ConnectFailed) else None
            raise ConnectFailed(f"No connection to {address}: {str(error).rstrip('.')}.", status) from error
        except BaseException:
            await websocket.drop()
            raise
        return websocket

    @property
    def closed(self) -> bool:
        """Whether the connection is known to have ended. An idle one may have without our knowing."""
        return self._lost is not None

    def set_patience(self, patience: float) -> None:
        """From now on, let `receive` wait for `patience` seconds; holds for one that waits already."""
        self._patience = patience
        if self._reading is not None:
            self._reading.deadline = anyio.current_time() + patience

    async def send(self, message: str) -> None:
        """Send one text message.

        Raises:
            ConnectionLost: the connection has ended.
            ServerTimeout: the server does not read.
        """
        if self._lost is not None:
            raise self._lost
        await self._write(self._protocol.send(TextMessage(data=message)))

    async def receive(self) -> str | bytes:
        """The next message, whole.

        Raises:
            ConnectionLost: the connection ended first.
            ServerTimeout: no byte of it came for as long as `open` or `set_patience` said. Pings do not count: a server may
                be alive and stuck.
            UnexpectedReply: the message is longer than any that a speech server sends.
        """
        if self._messages:
            await anyio.lowlevel.checkpoint()
        with anyio.move_on_after(self._patience) as self._reading:
            while not self._messages:
                if self._lost is not None:
                    raise self._lost
                before = self.received
                await self._read()
                if self.received > before:
                    self._reading.deadline = anyio.current_time() + self._patience
            return self._messages.popleft()
        await self.drop()
        raise ServerTimeout(f"The server sent nothing for {self._patience:g} s.")

    async def is_alive(self) -> bool:
        """Whether the server answers a ping. Only legal while no reply is due."""
        payload = b"alive?"
        self._pongs.clear()
        try:
            await self._write(self._protocol.send(Ping(payload=payload)))
            with anyio.fail_after(min(self._timeout, PONG_S)):
                while payload not in self._pongs and self._lost is None:
                    await self._read()
        except (ConnectionLost, ServerTimeout, TimeoutError, LocalProtocolError):
            await self.drop()
        if self._messages:
            await self.drop()  # an answer that nobody waits for: whose it is cannot be told
        return self._lost is None

    async def close(self) -> None:
        """Say goodbye and close. Bounded in time; when cancelled, closed without a goodbye."""
        try:
            if self._lost is None:
                with anyio.move_on_after(CLOSE_S):
                    await self._write(self._protocol.send(CloseConnection(code=NORMAL_CLOSURE)))
                    while self._lost is None:
                        await self._read()
                        self._messages.clear()
        except (ConnectionLost, ServerTimeout, LocalProtocolError):
            pass
        finally:
            await self.drop()

    async def drop(self) -> None:
        """Close without a goodbye. Works when cancelled."""
        if self._lost is None:
            self._lost = ConnectionLost("The connection was closed.")
        await anyio.aclose_forcefully(self._stream)

    async def _write(self, data: bytes) -> None:
        try:
            async with self._write_lock:
                with anyio.fail_after(self._timeout):
                    await self._stream.send(data)
        except _BROKEN as error:
            await self.drop()
            if isinstance(error, TimeoutError):
                raise ServerTimeout(f"The server took nothing for {self._timeout:g} s.") from error
            raise ConnectionLost(f"The connection to the server broke: {_reason(error)}.") from error
        except BaseException:
            await self.drop()
            raise

    async def _read(self) -> None:
        """Wait for bytes once, and act on all that is in them."""
        try:
            self._protocol.receive_data(await self._stream.receive(RECEIVE_BYTES))
        except anyio.EndOfStream:
            await self._lose(ConnectionLost("The server closed the connection."))
            return
        except _BROKEN as error:
            await self._lose(ConnectionLost(f"The connection to the server broke: {_reason(error)}."))
            return
        except (RemoteProtocolError, LocalProtocolError, ValueError) as error:
            await self._lose(UnexpectedReply(f"What came is not WebSocket: {error}."))
            return
        answers = b""
        for event in self._protocol.events():
            answers += self._act_on(event)
        if answers:
            await self._write(answers)
        if self._lost is not None:
            await self.drop()

    async def _lose(self, why: ConnectionLost | UnexpectedReply) -> None:
        self._lost = self._lost or why
        await self.drop()

    def _act_on(self, event: Event) -> bytes:
        """Take note of `event`; what must be answered to it."""
        match event:
            case AcceptConnection():
                self._accepted = True
            case RejectConnection(status_code=status):
                self._lost = ConnectFailed(_REFUSALS.get(status, f"HTTP status {status}"), status)
            case Ping():
                return self._protocol.send(event.response()) if self._protocol.state is ConnectionState.OPEN else b""
            case Pong(payload=payload):
                self._pongs.append(bytes(payload))
            case TextMessage() | BytesMessage():
                self._take(event)
            case CloseConnection(code=code, reason=reason):
                said = f"{code}: {reason}" if reason else f"{code}"
                if self._protocol.state is ConnectionState.OPEN:  # wsproto's verdict on what the server sent
                    self._lost = UnexpectedReply(f"What came is not WebSocket ({said}).")
                else:
                    self._lost = ConnectionLost(f"The server closed the connection ({said}).", code)
                if self._protocol.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
                    return self._protocol.send(event.response())
        return b""

    def _take(self, part: Message[str] | Message[bytes | bytearray]) -> None:
        self.received += len(part.data)
        self._size += len(part.data)
        if self._size > MAX_MESSAGE_BYTES:
            self._lost = UnexpectedReply(f"The server sent a message of more than {MAX_MESSAGE_BYTES} bytes.")
            return
        if isinstance(part.data, str):
            if part.data:  # fragments without text would fill the list for ever
                self._text.append(part.data)
        else:
            self._bytes += part.data
        if part.message_finished:
            self._messages.append("".join(self._text) if isinstance(part.data, str) else bytes(self._bytes))
            self._text.clear()
            self._bytes.clear()
            self._size = 0


def _reason(error: BaseException) -> str:
    """What `error` says about its cause; AnyIO's own sentence is less than the operating system's."""
    cause = error.__cause__
    if isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    for candidate in (cause, error):
        if isinstance(candidate, socket.gaierror | ssl.SSLError):
            return str(candidate.strerror or candidate)
        if isinstance(candidate, OSError) and candidate.errno:
            return os.strerror(candidate.errno).lower()
    return str(error).rstrip(".") or type(error).__name__
