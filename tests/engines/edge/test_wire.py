"""One connection, against a server that is written here byte by byte where that is needed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from tts_provider.engines.edge.dial import Address, Dialer
from tts_provider.engines.edge.frames import BrokenFrames
from tts_provider.engines.edge.tap import MAX_ANSWER_BYTES, MAX_UNREAD_BYTES, Goodbye, Lost, Tap
from tts_provider.engines.edge.wire import Connection, Rejected, Unreachable, hold_connection

Server = Callable[[trio.abc.Stream], Awaitable[None]]


class Loopback(Dialer):
    """Leads to `server` through memory."""

    def __init__(self, server: Server, nursery: trio.Nursery, *, roomy: bool = True) -> None:
        super().__init__(Address("loopback", 80, False))
        self._roomy = roomy
        self._server = server
        self._servers = nursery

    async def dial(self) -> trio.abc.Stream:
        ours, theirs = (trio.testing.memory_stream_pair if self._roomy else trio.testing.lockstep_stream_pair)()
        self._servers.start_soon(self._server, theirs)
        return ours


@asynccontextmanager
async def connected(server: Server, *, over: list[str] | None = None, roomy: bool = True) -> AsyncIterator[Connection]:
    """A connection to `server`; unless it is `roomy`, sending waits for the other side to read."""
    ends = over if over is not None else []
    async with trio.open_nursery() as nursery:
        dialer = Loopback(server, nursery, roomy=roomy)
        connection = await nursery.start(hold_connection, dialer, "/", [], 1.0, lambda: ends.append("over"))
        yield connection
        nursery.cancel_scope.cancel()


def websocket(talk: Callable[[WebSocketConnection], Awaitable[None]]) -> Server:
    """A server that shakes hands and then does `talk`."""

    async def server(stream: trio.abc.Stream) -> None:
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            socket = await request.accept()
            with suppress(ConnectionClosed):
                await talk(socket)
            nursery.cancel_scope.cancel()

    return server


def raw(answer: bytes, *, close: bool = True) -> Server:
    """A server that reads a request and answers with bytes."""

    async def server(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        if close:
            await stream.aclose()
        else:
            await trio.sleep_forever()

    return server


async def test_messages_go_both_ways() -> None:
    async def echo(socket: WebSocketConnection) -> None:
        while True:
            await socket.send_message(await socket.get_message())

    async with connected(websocket(echo)) as connection:
        await connection.send("one", "two")
        received: list[bytes | str] = []
        while len(received) < 2:
            received += await connection.receive()
        assert received == ["one", "two"]
        assert connection.alive


async def test_messages_sent_together_leave_together() -> None:
    packets: list[bytes] = []

    class Counting(Loopback):
        async def dial(self) -> trio.abc.Stream:
            stream = await super().dial()
            send_all = stream.send_all

            async def counted(data: bytes | bytearray | memoryview) -> None:
                packets.append(bytes(data))
                await send_all(data)

            stream.send_all = counted  # type: ignore[method-assign]
            return stream

    async def listen(socket: WebSocketConnection) -> None:
        assert [await socket.get_message(), await socket.get_message()] == ["one", "two"]
        await socket.send_message("thanks")
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        connection = await nursery.start(hold_connection, Counting(websocket(listen), nursery), "/", [], 1.0, lambda: None)
        packets.clear()
        await connection.send("one", "two")
        assert await connection.receive() == ["thanks"]
        assert len(packets) == 1
        nursery.cancel_scope.cancel()


async def test_pings_are_answered_between_the_messages() -> None:
    answered = trio.Event()

    async def ping(socket: WebSocketConnection) -> None:
        await socket.send_message("before")
        await socket.ping(b"are you there")
        answered.set()
        await socket.send_message("after")
        await trio.sleep_forever()

    async with connected(websocket(ping)) as connection:
        assert await connection.receive() == ["before"]
        with trio.fail_after(5):
            await answered.wait()
        assert await connection.receive() == ["after"]


async def test_what_came_before_the_goodbye_is_still_received() -> None:
    async def talk(socket: WebSocketConnection) -> None:
        await socket.send_message("last words")
        await socket.aclose(1011, "so long")

    over: list[str] = []
    async with connected(websocket(talk), over=over) as connection:
        assert await connection.receive() == ["last words"]
        with pytest.raises(Goodbye) as caught:
            await connection.receive()
        assert caught.value.code == 1011
        assert not connection.alive
        with pytest.raises((Goodbye, Lost)):
            await connection.send("too late")
    assert over == ["over"]


async def test_a_connection_that_breaks_is_lost() -> None:
    gone = trio.Event()

    async def server(stream: trio.abc.Stream) -> None:
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            await request.accept()
            nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(stream)
        gone.set()

    async with connected(server) as connection:
        await gone.wait()
        with pytest.raises(Lost):
            await connection.receive()
        assert not connection.alive


async def test_a_server_that_does_not_keep_to_frames_is_cut_off() -> None:
    async def talk(socket: WebSocketConnection) -> None:
        await socket._stream.send_all(b"\xff\xff\xff\xff")
        await trio.sleep_forever()

    async with connected(websocket(talk)) as connection:
        with pytest.raises(BrokenFrames):
            await connection.receive()


async def test_release_says_goodbye_and_abort_does_not() -> None:
    ends: list[int | None] = []

    async def listen(socket: WebSocketConnection) -> None:
        try:
            await socket.get_message()
        except ConnectionClosed as error:
            ends.append(error.reason.code if error.reason else None)
            raise

    for leave in (Connection.release, Connection.abort):
        async with connected(websocket(listen)) as connection:
            leave(connection)
            with trio.fail_after(5):
                while len(ends) < 1:  # noqa: ASYNC110
                    await trio.sleep(0.001)
        if leave is Connection.release:
            assert ends.pop() == 1000
    assert ends == [1006]


async def test_nobody_waits_long_for_the_answer_to_a_goodbye(autojump_clock: trio.testing.MockClock) -> None:
    async def deaf(stream: trio.abc.Stream) -> None:
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            await request.accept()
            nursery.cancel_scope.cancel()
        await trio.sleep_forever()

    async with trio.open_nursery() as servers:
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            connection = await nursery.start(hold_connection, Loopback(deaf, servers), "/", [], 1.0, lambda: None)
            connection.release()
        assert trio.current_time() - started == pytest.approx(1.0)
        servers.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nDate: Fri, 01 Jan 2100 00:00:00 GMT\r\nContent-Length: 2\r\n\r\nno", 403),
        (b"HTTP/1.1 429 Slow down\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", 429),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", 200),
    ],
)
async def test_another_answer_than_a_handshake_is_a_rejection(answer: bytes, status: int) -> None:
    with pytest.RaisesGroup(Rejected) as caught:
        async with connected(raw(answer)):
            raise AssertionError("unreachable")
    [rejected] = caught.value.exceptions
    assert isinstance(rejected, Rejected)
    assert rejected.status == status
    assert rejected.header("date") == ("Fri, 01 Jan 2100 00:00:00 GMT" if status == 403 else None)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1 101 Sw", id="half a line"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", id="another protocol"),
        pytest.param(
            b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n", id="lie"
        ),
        pytest.param(b"HTTP/1.1 101 OK\r\nUpgrade: \xff\r\nConnection: \xff\r\n\r\n", id="not ASCII"),
        pytest.param(b"HTTP/1.1 403 No\r\nContent-Length: 99\r\n\r\nhalf", id="half a body"),
        pytest.param(b"HTTP/1.1 403 No\r\n\r\n" + b"x" * (2 * MAX_ANSWER_BYTES), id="an endless body"),
    ],
)
async def test_a_handshake_that_goes_wrong_ends_at_once(answer: bytes) -> None:
    with trio.fail_after(5), pytest.RaisesGroup(Unreachable):
        async with connected(raw(answer)):
            raise AssertionError("unreachable")


async def test_reading_stops_while_nobody_takes_what_was_read() -> None:
    message = bytes(100_000)
    sent = 0

    async def flood(socket: WebSocketConnection) -> None:
        nonlocal sent
        while True:
            await socket.send_message(message)
            sent += 1

    async with connected(websocket(flood), roomy=False) as connection:
        await trio.testing.wait_all_tasks_blocked()
        stopped_at = sent
        assert stopped_at <= MAX_UNREAD_BYTES / len(message) + 3
        await connection.receive()
        await trio.testing.wait_all_tasks_blocked()
        assert sent > stopped_at


async def test_a_released_connection_drops_what_nobody_will_take() -> None:
    async def flood(socket: WebSocketConnection) -> None:
        while True:
            await socket.send_message(bytes(100_000))

    async with connected(websocket(flood), roomy=False) as connection:
        await trio.testing.wait_all_tasks_blocked()
        connection.release()
        with trio.fail_after(5):
            while connection.alive:  # noqa: ASYNC110
                await trio.sleep(0.001)


async def test_messages_gather_when_they_may(autojump_clock: trio.testing.MockClock) -> None:
    async def talk(socket: WebSocketConnection) -> None:
        while True:
            await socket.send_message("tick")
            await trio.sleep(0.01)

    async with connected(websocket(talk)) as connection:
        assert len(await connection.receive()) == 1
        connection.gather(0.1)
        await connection.receive()
        assert len(await connection.receive()) >= 9


async def test_a_tap_is_a_stream_like_any_other() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    over: list[str] = []
    with trio.CancelScope() as opening:
        tap = Tap(ours, opening, lambda: over.append("over"))
        await tap.wait_send_all_might_not_block()
        await tap.send_all(b"hello")
        assert await theirs.receive_some() == b"hello"
        await tap.aclose()
        assert await theirs.receive_some() == b""
    assert over == ["over"]
