"""Rows 59 to 78: connections that end, begin or go on as no good client's do."""

from __future__ import annotations

import json
import os
import signal
import time

import psutil
import pytest
import trio
from trio.testing import MockClock
from trio_websocket import ConnectionClosed

from tests.bad_input.rows import (
    HANDSHAKE,
    PING,
    PONG,
    RESET,
    TEXT,
    Raw,
    assert_serves,
    assert_usable,
    exchange,
    masked,
    raw_client,
    row,
)
from tests.conftest import RunningServer, StartServer, audio_of, replies_of
from tests.fake_engine import FakeEngine, entry
from tests.server.waiting import until
from tts_provider.engines.base import Capabilities
from tts_provider.server.lifecycle import ServerAddress, serve
from tts_provider.settings import Settings

LONG = "This sentence takes two seconds to speak. " * 10
ONE_SLOT = Capabilities(sample_rate=24_000, slots=1)
FREE_S = 1.0
"""Until the slot of a client that has gone is free: five times what is promised."""
ANSWER_S = 2.0
"""For an answer that takes milliseconds."""


async def ask_for_much(client: Raw) -> None:
    """Ask for more audio than the sockets' buffers hold."""
    text = json.dumps({"text": LONG * 50, "stream": True, "final_wav": False, "sample_rate": 192_000})
    await client.frame(TEXT, text.encode())


@pytest.mark.parametrize("leave", [row(59, "close", "close"), row(60, "reset", "reset")])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_in_the_middle_frees_its_slot(start_server: StartServer, leave: str, stream: bool) -> None:
    """At once, and the next client gets it."""
    engine = FakeEngine(capabilities=ONE_SLOT, block_delay_s=0.02)
    server = await start_server(engine)
    async with raw_client(server) as client:
        request = {"text": LONG, "stream": stream, "final_wav": False}
        await client.frame(TEXT, json.dumps(request).encode())
        await until(lambda: engine.blocks > 2)
        assert engine.sessions == 1
        if leave == "reset":
            await client.reset()
        else:
            await client.stream.aclose()
        left = time.monotonic()
        await until(lambda: engine.sessions == 0)
        assert time.monotonic() - left < FREE_S
    assert engine.saying == 0
    await assert_serves(server)


@pytest.mark.row(61)
async def test_row_61_1000_resets_after_the_handshake_harm_nobody(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    for number in range(1_000):
        stream = await trio.open_tcp_stream(server.address.host, server.address.port)
        await stream.send_all(HANDSHAKE)
        if number % 2:
            await stream.receive_some()
        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, RESET)
        await trio.aclose_forcefully(stream)
    await assert_serves(server)


HEADER_FF = [
    b"Host: \xff",
    b"Host: x\r\nSec-WebSocket-Protocol: \xff",
    b"Host: x\r\nSec-WebSocket-Extensions: \xff",
    b"Host: x\r\nX-\xff: 1",
]


@pytest.mark.row(62)
@pytest.mark.parametrize("headers", HEADER_FF)
async def test_row_62_a_byte_ff_in_a_header_is_refused(start_server: StartServer, headers: bytes) -> None:
    """Before trio-websocket sees it."""
    server = await start_server(FakeEngine())
    answer = await exchange(server, HANDSHAKE.replace(b"Host: x", headers))
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    await assert_serves(server)


@pytest.mark.row(63)
async def test_row_63_1000_connections_that_say_nothing_leave_no_descriptor(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    await assert_serves(server)
    process = psutil.Process()
    before = process.num_fds()
    for _ in range(1_000):
        await (await trio.open_tcp_stream(server.address.host, server.address.port)).aclose()
    await until(lambda: process.num_fds() <= before)
    await assert_serves(server)


@pytest.mark.row(64)
@pytest.mark.parametrize("length", [20, len(HANDSHAKE) - 2])
async def test_row_64_half_a_handshake_is_given_up_after_5_s(
    start_server: StartServer, autojump_clock: MockClock, length: int
) -> None:
    autojump_clock.autojump_threshold = 0.01
    server = await start_server(FakeEngine())
    begun = trio.current_time()
    assert await exchange(server, HANDSHAKE[:length]) == b""
    assert trio.current_time() - begun == pytest.approx(5, abs=0.5)
    await assert_serves(server)


@pytest.mark.row(65)
async def test_row_65_a_client_that_never_reads_is_dropped_after_10_s(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    """The engine waits for it meanwhile, and is cancelled then."""
    autojump_clock.autojump_threshold = 0.05
    engine = FakeEngine(capabilities=ONE_SLOT)
    server = await start_server(engine)
    async with raw_client(server, receive_buffer=4_096) as client:
        await ask_for_much(client)
        await trio.sleep(5)
        made = engine.blocks
        await trio.sleep(4)
        assert (engine.sessions, engine.blocks) == (1, made)
        await trio.sleep(3)
        assert (engine.sessions, engine.saying) == (0, 0)
    await assert_serves(server)


@pytest.mark.row(66)
async def test_row_66_a_client_that_reads_a_byte_a_second_is_dropped(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    """A byte is no progress: 64 KiB must be taken within the time."""
    autojump_clock.autojump_threshold = 0.05
    engine = FakeEngine(capabilities=ONE_SLOT)
    server = await start_server(engine)
    async with raw_client(server, receive_buffer=4_096) as client:
        await ask_for_much(client)
        for _ in range(20):
            await client.stream.receive_some(1)
            await trio.sleep(1)
        assert (engine.sessions, engine.saying) == (0, 0)
    await assert_serves(server)


@pytest.mark.row(67)
async def test_row_67_pings_are_answered_while_speech_is_made(start_server: StartServer, autojump_clock: MockClock) -> None:
    """Between two frames of audio, and with what they carried."""
    server = await start_server(FakeEngine(block_delay_s=0.05))
    async with raw_client(server) as client:
        await client.frame(TEXT, json.dumps({"text": LONG, "stream": True, "final_wav": False}).encode())
        for number in range(20):
            asked = trio.current_time()
            await client.frame(PING, b"%d" % number)
            while (await client.receive()) != (PONG, b"%d" % number):
                pass
            assert trio.current_time() - asked < 0.05
            await trio.sleep(0.07)


@pytest.mark.row(68)
async def test_row_68_a_ping_after_a_message_that_is_too_long_harms_nobody(start_server: StartServer) -> None:
    """In the same packet, which ends a plain trio-websocket server."""
    server = await start_server(FakeEngine(), max_message_bytes=1_000)
    async with raw_client(server) as client:
        await client.stream.send_all(masked(TEXT, b"x" * 2_000) + masked(PING, b""))
        assert await client.close_code() in {1009, None}
    await assert_serves(server)


@pytest.mark.row(69)
async def test_row_69_a_second_request_waits_for_the_first(start_server: StartServer, autojump_clock: MockClock) -> None:
    """Everything of the one, then everything of the other."""
    server = await start_server(FakeEngine(block_delay_s=0.05))
    async with server.connect() as client:
        for name in ("a", "b"):
            await client.send({"text": "Two words.", "stream": True, "final_wav": False, "request_id": name})
        first, second = await client.until("success"), await client.until("success")
    for messages, name in ((first, "a"), (second, "b")):
        assert {reply["request_id"] for reply in messages if isinstance(reply, dict)} == {name}
    assert len(audio_of(first)) == len(audio_of(second)) > 0


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        row(72, "health", b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200),
        row(72, "nope", b"GET /nope HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        row(72, "post", b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", 405),
        row(72, "http-2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        row(72, "tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), 400),
        row(73, "path", b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        row(73, "encoded", b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        row(77, "version-8", HANDSHAKE.replace(b"Version: 13", b"Version: 8"), 426),
        row(77, "no-version", HANDSHAKE.replace(b"Sec-WebSocket-Version: 13\r\n", b""), 426),
        row(78, "200-kib", b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 204_800 + b"\r\n\r\n", 431),
        row(78, "10000-headers", b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: 1\r\n" * 10_000 + b"\r\n", 431),
    ],
)
async def test_what_is_asked_over_http_has_its_status(start_server: StartServer, request_: bytes, status: int) -> None:
    """And the answer tells nothing of the machine."""
    server = await start_server(FakeEngine())
    answer = await exchange(server, request_)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:80]
    assert b"Traceback" not in answer
    assert b"root:" not in answer
    await assert_serves(server)


@pytest.mark.row(74)
async def test_row_74_connections_over_the_limit_get_503(start_server: StartServer) -> None:
    """The limit here is 1,000 by default; those that are open go on."""
    assert Settings().max_connections == 1_000
    server = await start_server(FakeEngine(), max_connections=2)
    async with server.connect() as client, raw_client(server):
        answer = await exchange(server, HANDSHAKE)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in answer.lower()
        await assert_usable(client)


@pytest.mark.row(75)
async def test_row_75_a_stream_ends_whole_after_sigterm(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Then 1001 follows. A new connection is refused by the system: nothing listens any more."""
    autojump_clock.autojump_threshold = 0.01
    ended = trio.Event()

    async def run(*, task_status: trio.TaskStatus[ServerAddress]) -> None:
        engine = FakeEngine(block_delay_s=0.05)
        await serve(Settings(port=0, default_model="fake"), entries=[entry(engine)], task_status=task_status)
        ended.set()

    server = RunningServer(await nursery.start(run), Settings())
    async with server.connect() as client:
        await client.send({"text": "This sentence takes two seconds to speak.", "stream": True, "final_wav": False})
        messages = [await client.receive() for _ in range(3)]
        os.kill(os.getpid(), signal.SIGTERM)
        messages += await client.until("success")
        success = replies_of(messages, "success")[0]
        assert success["length_bytes"] == len(audio_of(messages)) > 80_000
        with pytest.raises(ConnectionClosed) as closed:
            await client.receive()
    assert closed.value.reason is not None
    assert closed.value.reason.code == 1001
    with pytest.raises(OSError, match="connect"):
        await trio.open_tcp_stream(server.address.host, server.address.port)
    with trio.fail_after(ANSWER_S):
        await ended.wait()


@pytest.mark.row(76)
async def test_row_76_a_ping_without_an_answer_closes_with_1011(start_server: StartServer, autojump_clock: MockClock) -> None:
    """20 s after the ping, which comes after 20 s."""
    autojump_clock.autojump_threshold = 0.01
    server = await start_server(FakeEngine(), idle_s=1_000)
    async with raw_client(server) as client:
        begun = trio.current_time()
        assert await client.close_code() == 1011
        assert trio.current_time() - begun == pytest.approx(40, abs=1)
    await assert_serves(server)
