"""The bridge from h11 to an ASGI application, under Trio: one request, one response, one cancel scope.

exchange nursery
├── the reader       reads for as long as the exchange lasts: first the body, then only to notice that the client has gone
└── the application  cancelled when the client goes, when its body is too long or too slow, and when a drain's grace is over

The body is read ahead, up to its limit, so that the reader never waits for the application and a client that leaves is noticed
whatever the application does. A client that only closes its sending side counts as gone.

Not here, on purpose: lifespan (the server has a life of its own), WebSocket scopes (the listener takes those before), trailers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import unquote

import h11
import structlog
import trio

from tts_provider.server.http import common_headers, linger, send_error

__all__ = ["ASGIApp", "HttpBridge"]

BODY_S: Final = 30.0
"""For a request's whole body: 1 MiB at 35 kB/s, a bad mobile connection."""
READ_BYTES: Final = 65_536
MAX_AHEAD_BYTES: Final = 16_384
"""Of the next request, read while one is answered. A client that pipelines more than that is not watched for leaving."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

log = structlog.get_logger(__name__)


class HttpBridge:
    """Answers HTTP requests with `app`."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, scheme: str = "http") -> None:
        """`scheme`: as in the URLs that lead here, for redirects."""
        self.app = app
        self.scheme = scheme
        self.max_body_bytes = max_body_bytes
        self.draining = False
        """Whether connections close after the response that they are waiting for."""
        self._exchanges: set[_Exchange] = set()
        self._empty = trio.Event()

    async def answer(self, stream: trio.abc.Stream, connection: h11.Connection, request: h11.Request) -> bool:
        """Answer `request`, whose head was read from `stream` into `connection`.

        Returns:
            Whether the connection can have another request; h11 is ready for it then.
        """
        exchange = _Exchange(self, stream, connection, request)
        self._exchanges.add(exchange)
        try:
            return await exchange.run()
        finally:
            self._exchanges.discard(exchange)
            if not self._exchanges:
                self._empty.set()

    async def drain(self, grace_s: float) -> None:
        """Let responses end within `grace_s`, then cut the rest off."""
        self.draining = True
        self._empty = trio.Event()
        with trio.move_on_after(grace_s):
            if self._exchanges:
                await self._empty.wait()
        for exchange in self._exchanges:
            exchange.abort()


class _Exchange:
    """One request and its response."""

    def __init__(self, bridge: HttpBridge, stream: trio.abc.Stream, connection: h11.Connection, request: h11.Request) -> None:
        self._bridge = bridge
        self._stream = stream
        self._connection = connection
        self._request = request
        self._scope = trio.CancelScope()
        """Round the reader and the application."""
        self._body: deque[bytes] = deque()
        self._body_bytes = 0
        self._body_complete = False
        self._arrived = trio.Event()
        self._told_end = False
        """Whether the application has been given the end of the body."""
        self._refusal: tuple[int, str] | None = None
        """Why the reader ended the exchange, when the client can still be told."""
        self._start: h11.Response | None = None
        """Held back until the body begins: head and first bytes are one packet, and an error can still replace it."""
        self._begun = False
        """Whether anything of the response has gone out."""
        self._complete = False
        self._gone = False

    def abort(self) -> None:
        """End the exchange where it is, and the connection with it."""
        self._gone = True
        self._scope.cancel(reason="the server is going away")

    async def run(self) -> bool:
        """Serve the exchange; True when the connection can have another."""
        try:
            self._take_what_came()
        except h11.RemoteProtocolError as error:
            self._refusal = (error.error_status_hint, "The request's body is no good HTTP.")
        if self._refusal is None:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read)
                    await self._run_application()
                    nursery.cancel_scope.cancel()
        if self._gone:
            return False
        if self._refusal is not None and not self._begun:
            await self._refuse(*self._refusal)
            return False
        states = (self._connection.our_state, self._connection.their_state)
        if states == (h11.DONE, h11.DONE):
            self._connection.start_next_cycle()
            return not self._bridge.draining
        if self._connection.their_state is h11.SEND_BODY:
            await linger(self._stream)
        return False

    async def _refuse(self, status: int, message: str) -> None:
        self._begun = True
        await send_error(self._stream, self._connection, status, message, head_only=self._request.method == b"HEAD")

    # --- The reader ---

    async def _read(self) -> None:
        """Read the body, then watch the client. Ends the exchange when there is reason to."""
        try:
            with trio.move_on_after(BODY_S) as deadline:
                while not self._body_complete and self._refusal is None:
                    if not await self._read_some():
                        return
                    self._take_what_came()
            if deadline.cancelled_caught:
                self._refusal = (408, f"The request's body did not come within {BODY_S:.0f} seconds.")
        except h11.RemoteProtocolError as error:
            self._refusal = (error.error_status_hint, "The request's body is no good HTTP.")
        if self._refusal is None:
            while len(self._connection.trailing_data[0]) < MAX_AHEAD_BYTES:
                if not await self._read_some():
                    return
        else:
            self._scope.cancel(reason=self._refusal[1])

    async def _read_some(self) -> bool:
        """Read once; False, with the exchange ended, when the client has gone."""
        try:
            data = bytes(await self._stream.receive_some(READ_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        if data:
            self._connection.receive_data(data)
            return True
        self._leave()
        return False

    def _leave(self) -> None:
        self._gone = True
        self._scope.cancel(reason="the client is gone")

    def _take_what_came(self) -> None:
        """Move what h11 has of the body to where the application finds it."""
        limit = self._bridge.max_body_bytes
        too_long = (413, f"The request's body is too long: at most {limit} bytes.")
        if self._declared_length() > limit:
            self._refusal = too_long
        while self._refusal is None and not self._body_complete:
            event = self._connection.next_event()
            if isinstance(event, h11.Data):
                self._body_bytes += len(event.data)
                if self._body_bytes > limit:
                    self._refusal = too_long
                self._body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self._body_complete = True
            else:
                break
        self._arrived.set()

    def _declared_length(self) -> int:
        return next((int(value) for name, value in self._request.headers if name == b"content-length"), 0)

    # --- The application ---

    async def _run_application(self) -> None:
        try:
            await self._bridge.app(self._asgi_scope(), self._receive, self._send)
        except Exception as error:
            if self._gone:  # whatever it made of that
                return
            log.error("http.fault", path=self._path, exc_info=error)
            if not self._begun:
                await self._refuse(500, "Something went wrong in the server.")
            return
        if not self._complete and not self._gone and not self._begun:
            log.error("http.no_response", path=self._path)
            await self._refuse(500, "Something went wrong in the server.")

    @property
    def _path(self) -> str:
        return self._request.target.partition(b"?")[0].decode("ascii")

    def _asgi_scope(self) -> dict[str, Any]:
        path, _, query = self._request.target.partition(b"?")
        if path.lower().startswith((b"http://", b"https://")):  # the absolute form, which proxies send
            path = b"/" + path.split(b"/", 3)[3] if path.count(b"/") > 2 else b"/"
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},  # from 2.4 on nobody has to listen for a disconnect
            "http_version": self._request.http_version.decode("ascii"),
            "method": self._request.method.decode("ascii"),
            "scheme": self._bridge.scheme,
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": list(self._request.headers),
            "client": None,  # asking the socket of a client that has gone raises
            "server": None,
            "state": {},
        }

    async def _receive(self) -> Message:
        if self._connection.they_are_waiting_for_100_continue and not self._begun:
            await self._stream.send_all(self._connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
        while not self._body and not self._body_complete:
            self._arrived = trio.Event()
            await self._arrived.wait()
        if self._body:
            body = b"".join(self._body)
            self._body.clear()
            self._told_end = self._body_complete
            return {"type": "http.request", "body": body, "more_body": not self._body_complete}
        if not self._told_end:
            self._told_end = True
            return {"type": "http.request", "body": b"", "more_body": False}
        if not self._complete:
            await trio.sleep_forever()  # a client that goes cancels the application instead
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        data = b""
        if message["type"] == "http.response.start":
            self._start = self._response(message)
            return
        if message["type"] != "http.response.body":
            raise RuntimeError(f"The bridge knows no ASGI message {message['type']!r}.")
        connection = self._connection
        if self._start is not None:
            data = connection.send(self._start) or b""
            self._start = None
        body = message.get("body", b"")
        if body and self._request.method != b"HEAD":
            data += connection.send(h11.Data(data=body)) or b""
        if not message.get("more_body", False):
            data += connection.send(h11.EndOfMessage()) or b""
            self._complete = True
        if data:
            self._begun = True
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._leave()
                await trio.lowlevel.checkpoint()

    def _response(self, message: Message) -> h11.Response:
        headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", [])]
        given = {name.lower() for name, _ in headers}
        headers += [(name, value) for name, value in common_headers() if name not in given]
        if self._bridge.draining or not self._body_complete:
            headers.append((b"connection", b"close"))
        return h11.Response(status_code=message["status"], headers=headers)
