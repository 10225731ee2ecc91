"""A client's connection over its life: opened when needed, one request at a time, replaced when it was lost."""

from __future__ import annotations

import logging
import math
import os
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from tts_provider.client.errors import ConnectionLost, NotConnected, TTSServerError
from tts_provider.client.stream import OnQueued, SpeechStream
from tts_provider.client.websocket import ServerAddress, WebSocket
from tts_provider.client.wire import RequestOptions
from tts_provider.messages import Begin, Request, Speak, SpeechParameters, Success, encode_request

__all__ = ["ClientSession", "logger"]

RETRIED_CLOSES: Final = (None, 1000, 1001, 1006, 1011, 1012, 1013)
"""How servers and proxies end an idle connection: without a word, idle, going away, no pong, restarting. Not the codes that
say that what we sent was wrong: it would be as wrong on a new connection."""

KEY_VARIABLE: Final = "TTS_API_KEY"
"""The environment's variable with the key for servers that ask for one."""

logger = logging.getLogger("tts_provider.client")

T = TypeVar("T")


class ClientSession:
    """The connection of one client. Every request stands in a `turn`."""

    def __init__(
        self,
        address: ServerAddress,
        timeout: float | None,
        ssl_context: ssl.SSLContext | None = None,
        api_key: str | None = None,
    ) -> None:
        """
        Raises:
            ValueError: `api_key`, or the environment's in its place, cannot be one.
        """
        self.address = address
        self.patience = math.inf if timeout is None else timeout
        """Seconds for connecting, and for each pause in which the server makes no progress."""
        self._ssl_context = ssl_context
        self._api_key = os.environ.get(KEY_VARIABLE, "") if api_key is None else api_key
        if not all("!" <= char <= "~" for char in self._api_key):
            raise ValueError("The server's key must be visible ASCII characters without a blank.")
        self._socket: WebSocket | None = None
        self._wanted = False
        self._busy = False

    @property
    def connected(self) -> bool:
        """Whether the connection is open as far as is known."""
        return self._socket is not None and not self._socket.closed

    async def connect(self) -> WebSocket:
        """The connection, opened if there is none.

        Raises:
            ConnectFailed, ServerTimeout: that is not possible.
        """
        if self._socket is None or self._socket.closed:
            self._socket = await WebSocket.open(self.address, self.patience, self._ssl_context, self._api_key)
        self._wanted = True
        return self._socket

    async def disconnect(self) -> None:
        """Close the connection, under a request's feet if one is under way."""
        self._wanted = False
        socket, self._socket = self._socket, None
        if socket is not None:
            await (socket.drop() if self._busy else socket.close())

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Round each request.

        Raises:
            NotConnected: `connect` was not called, or failed, or `disconnect` was called since.
            RuntimeError: another request is under way.
        """
        if not self._wanted:
            raise NotConnected("Not connected to the server; call connect() first.")
        if self._busy:
            raise RuntimeError("This client is busy with another request; use one client for each task.")
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    async def ask(self, request: Request, read: Callable[[str | bytes], T], patience: float | None = None) -> T:
        """What `read` makes of the one message that answers `request`."""
        message = encode_request(request)

        async def attempt(socket: WebSocket) -> T:
            await socket.send(message)
            socket.set_patience(self.patience if patience is None else patience)
            reply = await socket.receive()
            socket.set_patience(self.patience)
            return read(reply)

        return await self._attempt(attempt)

    async def speak(
        self, text: str, options: RequestOptions, on_queued: OnQueued | None
    ) -> tuple[SpeechStream, Success | None]:
        """The stream that speaks `text`, begun; or what a server that cannot stream says about the file that follows."""
        request_id = _new_id()
        message = encode_request(Speak(text, _streamed(options, request_id)))

        async def attempt(socket: WebSocket) -> tuple[SpeechStream, Success | None]:
            speech = SpeechStream(socket, request_id, on_queued)
            await socket.send(message)
            return speech, await speech.begin()

        return await self._attempt(attempt)

    async def begin(self, options: RequestOptions, on_queued: OnQueued | None) -> tuple[WebSocket, SpeechStream]:
        """A stream for text that is still being written; not begun yet, so that the text can be sent meanwhile."""
        # Text that was read cannot be read again for a second try, so the connection is tried before.
        if self._socket is not None and not self._socket.closed:
            await self._socket.is_alive()
        socket = await self.connect()
        request_id = _new_id()
        await socket.send(encode_request(Begin(_streamed(options, request_id))))
        return socket, SpeechStream(socket, request_id, on_queued)

    async def _attempt(self, attempt: Callable[[WebSocket], Awaitable[T]]) -> T:
        """What `attempt` returns; it is made again on a new connection when the server had closed the idle one.

        When it fails in the middle of an answer, or is cancelled there, the connection is dropped.
        """
        reused = self.connected
        while True:
            socket = await self.connect()
            received = socket.received
            try:
                return await attempt(socket)
            except TTSServerError:
                raise
            except ConnectionLost as lost:
                if not (reused and self._wanted and socket.received == received and lost.code in RETRIED_CLOSES):
                    raise
                logger.debug("The idle connection had been closed: %s", lost)
                reused = False
            except BaseException:
                await socket.drop()
                raise


def _streamed(options: RequestOptions, request_id: str) -> SpeechParameters:
    return SpeechParameters(**options, stream=True, final_wav=False, request_id=request_id)


def _new_id() -> str:
    return secrets.token_hex(8)
