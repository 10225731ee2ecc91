"""A connection's life: HTTP beside WebSocket, limits, time-outs, drain, and faults that end nobody else."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_websocket import ConnectionClosed, ConnectionRejected

from tests.conftest import RunningServer, StartServer, Wire, audio_of
from tests.fake_engine import FakeEngine, entry
from tts_provider.server.lifecycle import ServerAddress, serve
from tts_provider.settings import Settings

LONG = "This sentence takes two seconds to speak. " * 10


async def exchange(server: RunningServer, request: bytes) -> bytes:
    """Send raw bytes and read until the server closes."""
    stream = await trio.open_tcp_stream(server.address.host, server.address.port)
    async with stream:
        await stream.send_all(request)
        answer = b""
        with trio.fail_after(60):
            while data := await stream.receive_some():
                answer += data
        return answer


async def http(server: RunningServer, path: str, method: str = "GET") -> tuple[int, Any]:
    answer = await exchange(server, f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body) if body else None


async def close_code(client: Wire) -> int | None:
    """The code with which the server closes."""
    try:
        while True:
            await client.receive()
    except ConnectionClosed as closed:
        return closed.reason.code if closed.reason is not None else None


async def still_serves(server: RunningServer) -> None:
    async with server.connect() as client:
        success, _ = await client.legacy({"text": "Hi."})
    assert success["status"] == "success"


# --- HTTP ---


async def test_health_and_ready_are_answered_on_the_same_port(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    assert await http(server, "/health") == (200, {"status": "ok"})
    assert await http(server, "/ready?x=1") == (200, {"status": "ok"})
    assert (await http(server, "/nope"))[0] == 404
    assert (await http(server, "/health", "POST"))[0] == 405
    assert await http(server, "/health", "HEAD") == (200, None)
    await still_serves(server)


async def test_ready_waits_for_the_preloaded_engines(start_server: StartServer, autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.01
    server = await start_server(FakeEngine(load_s=5), preload=("fake",))
    early = await http(server, "/ready")
    alive = await http(server, "/health")
    await trio.sleep(6)
    assert (early[0], alive[0], (await http(server, "/ready"))[0]) == (503, 200, 200)


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /chat HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: \xff\r\n\r\n",
        b"GET /chat HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: \xff\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 8\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello",
    ],
)
async def test_what_is_no_good_request_ends_its_connection_only(
    start_server: StartServer, autojump_clock: MockClock, request_: bytes
) -> None:
    """Each of these ends a plain trio-websocket server, or is meant to confuse one."""
    autojump_clock.autojump_threshold = 0.01
    server = await start_server(FakeEngine())
    answer = await exchange(server, request_)
    assert not answer.startswith(b"HTTP/1.1 101")
    await still_serves(server)


async def test_half_a_head_is_given_up(start_server: StartServer, autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.01
    server = await start_server(FakeEngine())
    begun = trio.current_time()
    assert await exchange(server, b"GET / HTTP/1.1\r\nHost:") == b""
    assert trio.current_time() - begun == pytest.approx(5, abs=0.5)


async def test_connections_over_the_limit_are_turned_away(start_server: StartServer) -> None:
    server = await start_server(FakeEngine(), max_connections=1)
    async with server.connect() as client:
        with pytest.RaisesGroup(pytest.RaisesExc(ConnectionRejected, check=lambda error: error.status_code == 503)):
            async with server.connect():
                pass
        await client.legacy({"text": "Hi."})


# --- WebSocket ---


async def test_a_client_that_resets_in_the_middle_harms_nobody(start_server: StartServer) -> None:
    """A reset while audio is sent ends that connection, and its engine call."""
    engine = FakeEngine()
    server = await start_server(engine)
    for _ in range(5):
        async with server.connect() as client:
            await client.send({"text": LONG, "stream": True})
            await client.receive()
            client.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await client.drop()
    await still_serves(server)
    assert engine.saying == 0


async def test_an_idle_connection_is_closed_politely(start_server: StartServer, autojump_clock: MockClock) -> None:
    """Not while a request runs, and not before its time."""
    autojump_clock.autojump_threshold = 0.01
    server = await start_server(FakeEngine(block_delay_s=1.0), idle_s=20, ping_interval_s=1000)
    async with server.connect() as client:
        await client.legacy({"text": "A text that takes longer than the idle time."})
        ended = trio.current_time()
        assert await close_code(client) == 1000
    assert trio.current_time() - ended == pytest.approx(20, abs=1)


async def test_a_client_that_answers_no_ping_is_closed(start_server: StartServer, autojump_clock: MockClock) -> None:
    """1011 after the interval and the time-out; one that answers stays."""
    autojump_clock.autojump_threshold = 0.01
    server = await start_server(FakeEngine(), idle_s=1000)
    handshake = (
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    begun = trio.current_time()
    async with server.connect() as client:
        answer = await exchange(server, handshake)
        assert 40 <= trio.current_time() - begun < 50
        assert b"\x88" + bytes([2 + len("no pong")]) + (1011).to_bytes(2, "big") + b"no pong" in answer
        await client.legacy({"text": "Hi."})


async def test_a_client_that_never_reads_is_dropped_and_its_work_stopped(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    """The engine waits for it, made little ahead, and is free when the client is given up."""
    autojump_clock.autojump_threshold = 0.05
    engine = FakeEngine()
    server = await start_server(engine, max_text_chars=1_000_000)
    stream = await trio.open_tcp_stream(server.address.host, server.address.port)
    stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
    async with stream:
        from wsproto import ConnectionType, WSConnection
        from wsproto.events import Request, TextMessage

        protocol = WSConnection(ConnectionType.CLIENT)
        await stream.send_all(protocol.send(Request(host="x", target="/")))
        protocol.receive_data(bytes(await stream.receive_some()))
        list(protocol.events())
        text = json.dumps({"text": LONG * 50, "stream": True, "final_wav": False, "sample_rate": 192_000})
        await stream.send_all(protocol.send(TextMessage(text)))
        await trio.sleep(5)
        assert engine.sessions == 1
        made = engine.blocks
        await trio.sleep(4)
        assert engine.blocks == made
        await trio.sleep(8)
        assert (engine.saying, engine.sessions) == (0, 0)


async def test_a_ping_is_answered_while_many_requests_wait(start_server: StartServer, autojump_clock: MockClock) -> None:
    """The reader always reads, whatever the work is doing."""
    server = await start_server(FakeEngine(block_delay_s=0.05))
    async with server.connect() as client:
        for _ in range(20):
            await client.send({"text": LONG, "stream": True})
        begun = trio.current_time()
        with trio.fail_after(1):
            async with trio.open_nursery() as nursery:

                async def read() -> None:
                    while True:
                        await client.receive()

                nursery.start_soon(read)
                await client.websocket.ping()
                nursery.cancel_scope.cancel()
        assert trio.current_time() - begun < 0.05


async def test_a_fault_of_ours_ends_one_request(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in the server is told as `internal` and nothing else."""
    engine = FakeEngine()
    monkeypatch.setattr(FakeEngine, "resolve", lambda *_: 1 / 0)
    server = await start_server(engine)
    async with server.connect() as client:
        reply = await client.ask({"text": "Hi.", "stream": True})
        assert (reply["code"], reply["message"]) == ("internal", "Something went wrong in the server.")
        monkeypatch.undo()
        await client.legacy({"text": "Hi."})


# --- Drain ---


class Drained:
    """A server in its own scope, with the signal handler's work in our hands."""

    def __init__(self, nursery: trio.Nursery, engine: FakeEngine, **changes: Any) -> None:
        self.settings = Settings(port=0, default_model="fake", **changes)
        self.engine = engine
        self.ended = trio.Event()
        self._nursery = nursery

    async def start(self) -> RunningServer:
        async def run(*, task_status: trio.TaskStatus[ServerAddress]) -> None:
            await serve(self.settings, entries=[entry(self.engine)], own_process=True, task_status=task_status)
            self.ended.set()

        return RunningServer(await self._nursery.start(run), self.settings)

    @staticmethod
    def signal() -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGTERM)


async def test_a_signal_lets_running_requests_end(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """New connections and requests are refused, the running one is heard to its end, then everybody gets 1001."""
    autojump_clock.autojump_threshold = 0.01
    drained = Drained(nursery, FakeEngine(block_delay_s=0.05))
    server = await drained.start()
    async with server.connect() as idle, server.connect() as client:
        await client.send({"text": "This sentence takes two seconds to speak.", "stream": True, "final_wav": False})
        while not isinstance(await client.receive(), bytes):
            pass
        drained.signal()
        assert await close_code(idle) == 1001
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream(server.address.host, server.address.port)
        await client.send({"text": "Too late."})
        messages = await client.until("success")
        assert len(audio_of(messages)) / 48000 > 1.5
        assert (await client.reply())["code"] == "draining"
        assert await close_code(client) == 1001
    with trio.fail_after(1):
        await drained.ended.wait()


async def test_the_grace_time_is_not_exceeded(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A request that takes too long is cut off with 1001."""
    autojump_clock.autojump_threshold = 0.01
    drained = Drained(nursery, FakeEngine(block_delay_s=0.05), drain_s=3)
    server = await drained.start()
    async with server.connect() as client:
        await client.send({"text": LONG, "stream": True})
        await client.receive()
        begun = trio.current_time()
        drained.signal()
        assert await close_code(client) == 1001
    assert trio.current_time() - begun == pytest.approx(3, abs=0.5)
    await drained.ended.wait()
    assert (drained.engine.saying, drained.engine.running) == (0, False)


async def test_a_second_signal_stops_at_once(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.01
    drained = Drained(nursery, FakeEngine(block_delay_s=0.05))
    server = await drained.start()
    async with server.connect() as client:
        await client.send({"text": LONG, "stream": True})
        await client.receive()
        begun = trio.current_time()
        drained.signal()
        await trio.sleep(0.1)
        drained.signal()
        await drained.ended.wait()
    assert trio.current_time() - begun < 0.5
