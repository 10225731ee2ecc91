"""The bridge from h11 to ASGI, spoken to over real sockets by a client that writes bytes."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import h11
import pytest
import trio
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs
from trio.testing import MockClock

from tests.server.frames import TEXT, frame, upgrade
from tts_provider.server.frame_meter import Breach, FrameLimits, FrameMeter
from tts_provider.server.http_bridge import ASGIApp, HttpBridge
from tts_provider.server.listener import Connection, Listener
from tts_provider.settings import Settings

LIMIT = 1000
"""Bytes of a request's body."""


@dataclass
class Client:
    """A connection that sends bytes and reads whole responses."""

    stream: trio.SocketStream

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def response(self, method: str = "GET") -> tuple[h11.Response, bytes]:
        """The next response, as a client that asked with `method` understands it."""
        protocol = h11.Connection(h11.CLIENT)
        protocol.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        response, body = None, b""
        with trio.fail_after(60):
            while True:
                event = protocol.next_event()
                if event is h11.NEED_DATA:
                    protocol.receive_data(bytes(await self.stream.receive_some()))
                elif isinstance(event, h11.InformationalResponse):
                    continue
                elif isinstance(event, h11.Response):
                    response = event
                elif isinstance(event, h11.Data):
                    body += event.data
                else:
                    break
        assert response is not None, event
        return response, body

    async def ended(self) -> bool:
        """Whether the server closes the connection next."""
        try:
            with trio.fail_after(120):
                return not await self.stream.receive_some()
        except trio.BrokenResourceError:
            return True


def header(response: h11.Response, name: str) -> str | None:
    return next((value.decode() for key, value in response.headers if key == name.encode()), None)


@dataclass
class Running:
    port: int
    listener: Listener
    upgrades: list[str]

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Client]:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream:
            yield Client(stream)


StartApp = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start_app(nursery: trio.Nursery) -> StartApp:
    """Serves an ASGI application on a free port, with settings that differ by the keywords given."""

    async def start(app: ASGIApp, **changes: Any) -> Running:
        upgrades: list[str] = []
        breaches: list[Breach] = []

        async def session(connection: Connection) -> None:
            head = await connection.stream.receive_some(65536)
            limits = FrameLimits(message_bytes=LIMIT, fragments=1, frames_per_s=1, control_frames_per_s=1)
            connection.stream.begin_frames(FrameMeter(limits, trio.current_time), breaches.append)
            upgrades.append((head + await connection.stream.receive_some(65536)).decode("latin-1"))
            await connection.stream.send_all(b"upgraded")

        settings = replace(Settings(port=0, default_model="fake"), **changes)
        listener = Listener(settings, session, HttpBridge(app, max_body_bytes=LIMIT))
        sockets = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(listener.run, sockets, nursery)
        return Running(sockets[0].socket.getsockname()[1], listener, upgrades)

    return start


async def respond(send: Send, body: bytes = b"", status: int = 200, *, length: bool = True) -> None:
    headers = [(b"content-length", str(len(body)).encode())] if length else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the request's body, or else with its path."""
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            break
    await respond(send, body or scope["path"].encode())


async def stream_forever(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
        await trio.sleep(0.5)


# --- Requests and responses ---


async def test_requests_follow_each_other_on_one_connection(start_app: StartApp) -> None:
    """Keep-alive, and pipelining: what was read too early of the next request is not lost."""
    server = await start_app(echo)
    async with server.connect() as client:
        for path in ("/one", "/two"):
            await client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert (await client.response())[1] == path.encode()
        await client.send(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = b""
        while data := await client.stream.receive_some():
            received += data
    assert re.findall(rb"\r\n\r\n(/.)", received) == [b"/a", b"/b"]


async def test_every_response_has_a_date(start_app: StartApp) -> None:
    server = await start_app(echo)
    async with server.connect() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        response, _ = await client.response()
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", header(response, "date") or "")
    assert header(response, "server") == "tts-provider"


async def test_a_body_of_unknown_length_is_sent_in_chunks(start_app: StartApp) -> None:
    """To a client of HTTP/1.1; one of 1.0 gets it bare, and the end of the connection as its end."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b"one", b"two"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    server = await start_app(app)
    async with server.connect() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        response, body = await client.response()
        assert (header(response, "transfer-encoding"), body) == ("chunked", b"onetwo")
    async with server.connect() as client:
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        response, body = await client.response()
        assert (header(response, "transfer-encoding"), body) == (None, b"onetwo")
        assert await client.ended()


async def test_a_body_in_chunks_is_read(start_app: StartApp) -> None:
    server = await start_app(echo)
    async with server.connect() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await client.send(b"3\r\ntwo\r\n0\r\n\r\n")
        assert (await client.response())[1] == b"onetwo"


async def test_head_has_the_headers_and_no_body(start_app: StartApp) -> None:
    server = await start_app(echo)
    async with server.connect() as client:
        await client.send(b"HEAD /path HTTP/1.1\r\nHost: x\r\n\r\n")
        response, body = await client.response("HEAD")
        assert (header(response, "content-length"), body) == ("5", b"")
        await client.send(b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.response())[1] == b"/next"


async def test_a_client_that_waits_for_100_is_told_to_go_on(start_app: StartApp) -> None:
    server = await start_app(echo)
    async with server.connect() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.stream.receive_some()).startswith(b"HTTP/1.1 100 ")
        await client.send(b"body")
        assert (await client.response())[1] == b"body"


async def test_a_body_that_nobody_wants_is_not_asked_for(start_app: StartApp) -> None:
    """An answer that came without reading the body ends the connection: what follows on it may be that body."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"no", 404)

    server = await start_app(app)
    async with server.connect() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        response, _ = await client.response()
        assert (response.status_code, header(response, "connection")) == (404, "close")
        assert await client.ended()


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/a%20b/%C3%A9?x=%20", "/a b/é", b"x=%20"),
        ("http://host:9000/health?y", "/health", b"y"),
        ("http://host:9000", "/", b""),
        ("/%ff", "/\ufffd", b""),
    ],
)
async def test_the_target_is_taken_apart(start_app: StartApp, target: str, path: str, query: bytes) -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await respond(send)

    server = await start_app(app)
    async with server.connect() as client:
        await client.send(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await client.response()
    assert (scopes[0]["path"], scopes[0]["query_string"]) == (path, query)


FRAME = frame(TEXT, b"hi")


async def test_an_upgrade_may_follow_other_requests(start_app: StartApp) -> None:
    """Browsers take the connection that they fetched the page on. What was read too far is not lost, and comes apart."""
    server = await start_app(echo)
    async with server.connect() as client:
        await client.send(b"GET /one HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.response()
        await client.send(upgrade(path=b"/ws") + FRAME)
        assert await client.stream.receive_some() == b"upgraded"
    (head,) = server.upgrades
    assert head.startswith("GET /ws HTTP/1.1\r\n")
    assert head.endswith("\r\n\r\n" + FRAME.decode("latin-1"))


async def test_an_upgrade_to_something_else_is_not_taken(start_app: StartApp) -> None:
    """curl --http2 asks for h2c, and is content with HTTP/1.1."""
    server = await start_app(echo)
    async with server.connect() as client:
        request = b"GET /x HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n"
        for _ in range(2):
            await client.send(request)
            assert (await client.response())[1] == b"/x"


# --- Limits ---


@pytest.mark.parametrize(
    "request_",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001,
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 3_000_000,
    ],
    ids=["declared", "declared and waiting", "in chunks", "all sent"],
)
async def test_a_body_over_the_limit_is_refused(start_app: StartApp, request_: bytes) -> None:
    """The client hears of it even while it is still sending."""
    server = await start_app(echo)
    async with server.connect() as client:
        await client.send(request_)  # the server reads on, or this would fail
        response, body = await client.response()
        assert response.status_code == 413
        assert b"at most 1000 bytes" in body
        assert await client.ended()


async def test_a_body_of_just_the_limit_is_taken(start_app: StartApp) -> None:
    server = await start_app(echo)
    async with server.connect() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000)
        assert len((await client.response())[1]) == 1000


async def test_a_head_over_the_limit_is_refused(start_app: StartApp) -> None:
    server = await start_app(echo)
    async with server.connect() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 30_000 + b"\r\n\r\n")
        assert (await client.response())[0].status_code == 431


async def test_a_broken_body_is_refused(start_app: StartApp) -> None:
    server = await start_app(echo)
    async with server.connect() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
        assert (await client.response())[0].status_code == 400
        assert await client.ended()


async def test_a_body_that_does_not_come_is_given_up(start_app: StartApp, autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.01
    server = await start_app(echo)
    async with server.connect() as client:
        begun = trio.current_time()
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
        assert (await client.response())[0].status_code == 408
        assert trio.current_time() - begun == pytest.approx(30, abs=1)
        assert await client.ended()


async def test_an_idle_connection_is_closed(start_app: StartApp, autojump_clock: MockClock) -> None:
    """After 30 s without a next request; a head that was begun has its own deadline."""
    autojump_clock.autojump_threshold = 0.01
    server = await start_app(echo)
    async with server.connect() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.response()
        begun = trio.current_time()
        assert await client.ended()
        assert trio.current_time() - begun == pytest.approx(30, abs=0.5)
    async with server.connect() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.response()
        await client.send(b"GET / HT")
        begun = trio.current_time()
        assert await client.ended()
        assert trio.current_time() - begun == pytest.approx(5, abs=0.5)


# --- Clients that go, applications that fail ---


async def test_a_client_that_goes_cancels_the_application(start_app: StartApp, autojump_clock: MockClock) -> None:
    """Whether it waits or sends; and it is not taken for a fault."""
    ended = trio.Event()
    waiting = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            waiting.set()
            if scope["path"] == "/wait":
                await trio.sleep_forever()
            await stream_forever(scope, receive, send)
        finally:
            ended.set()

    autojump_clock.autojump_threshold = 0.01
    server = await start_app(app)
    with capture_logs() as logs:
        for path in (b"/wait", b"/stream"):
            ended, waiting = trio.Event(), trio.Event()
            async with server.connect() as client:
                await client.send(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
                await waiting.wait()
            gone = trio.current_time()
            await ended.wait()
            assert trio.current_time() - gone < 0.05
    assert logs == []


async def test_a_client_that_takes_nothing_is_dropped(start_app: StartApp, autojump_clock: MockClock) -> None:
    """A write that makes no progress ends the exchange after `send_stall_s`; that is the client's fault, not ours."""
    autojump_clock.autojump_threshold = 0.05
    ended_at: list[float] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": bytes(1_000_000), "more_body": True})
        finally:
            ended_at.append(trio.current_time())

    server = await start_app(app, send_stall_s=7)
    with capture_logs() as logs:
        async with server.connect() as client:
            begun = trio.current_time()
            await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await trio.sleep(20)
    assert ended_at == [pytest.approx(begun + 7, abs=2)]
    assert logs == []


async def test_a_fault_before_the_response_is_a_500(start_app: StartApp) -> None:
    """Told without a word of what it was, and logged; the connection lives on."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError("/secret/path")

    server = await start_app(app)
    with capture_logs() as logs:
        async with server.connect() as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            response, body = await client.response()
    assert (response.status_code, b"secret" in body) == (500, False)
    assert [line["event"] for line in logs] == ["http.fault"]


async def test_a_fault_in_the_response_breaks_it_off(start_app: StartApp) -> None:
    """No last chunk: the client can tell that something is missing."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ZeroDivisionError

    server = await start_app(app)
    async with server.connect() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(h11.RemoteProtocolError, match="incomplete"):
            await client.response()


async def test_an_application_that_answers_nothing_is_a_500(start_app: StartApp) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    server = await start_app(app)
    async with server.connect() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.response())[0].status_code == 500


async def test_starlettes_streaming_response_works(start_app: StartApp, autojump_clock: MockClock) -> None:
    """To its end, and when the client goes; the application still must not hold a nursery in its generator."""
    autojump_clock.autojump_threshold = 0.01
    closed = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        channel_in, channel_out = trio.open_memory_channel[bytes](0)
        pieces = 3 if Request(scope).url.path == "/short" else 1000

        async def make() -> None:
            async with channel_in:
                for number in range(pieces):
                    await channel_in.send(b"%d" % number)
                    await trio.sleep(1)

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(make)
                await StreamingResponse(channel_out, media_type="text/plain")(scope, receive, send)
        finally:
            closed.set()

    server = await start_app(app)
    async with server.connect() as client:
        await client.send(b"GET /short HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.response())[1] == b"012"
    closed = trio.Event()
    async with server.connect() as client:
        await client.send(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.stream.receive_some()
    gone = trio.current_time()
    await closed.wait()
    assert trio.current_time() - gone < 0.05


# --- Drain ---


async def test_a_drain_lets_responses_end_and_closes_idle_connections(
    start_app: StartApp, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The running response says that it is the last one."""
    autojump_clock.autojump_threshold = 0.01

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            await trio.sleep(2)
        await respond(send, b"done")

    server = await start_app(app)
    async with server.connect() as idle, server.connect() as fresh, server.connect() as busy:
        await idle.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await idle.response()
        await busy.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await trio.sleep(0.1)
        begun = trio.current_time()
        nursery.start_soon(server.listener.drain, 8)
        assert await idle.ended()
        assert await fresh.ended()
        assert trio.current_time() - begun < 0.5
        response, body = await busy.response()
        assert (body, header(response, "connection")) == (b"done", "close")
        assert await busy.ended()


async def test_a_drain_does_not_wait_for_ever(start_app: StartApp, autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.01
    server = await start_app(stream_forever)
    async with server.connect() as client, trio.open_nursery() as nursery:
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.stream.receive_some()
        begun = trio.current_time()
        nursery.start_soon(server.listener.drain, 3)
        while not await client_read(client):
            pass
        assert trio.current_time() - begun == pytest.approx(3, abs=0.5)


async def client_read(client: Client) -> bool:
    """Read once; whether that was the end."""
    try:
        return not await client.stream.receive_some()
    except trio.BrokenResourceError:
        return True
