"""More requests than an engine can speak, over real sockets and in every dialect."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock
from trio_websocket import ConnectionClosed, wrap_client_stream

from tests.conftest import Json, RunningServer, StartServer, Wire, replies_of
from tests.fake_engine import FakeEngine, entry
from tests.server.waiting import until
from tts_provider.engines.base import Capabilities
from tts_provider.settings import Settings

STUCK = {"text": "Stuck.", "stream": True, "final_wav": False}
"""A request that keeps its place for as long as it is left alone."""
DEEPGRAM = "/v1/speak?model=fake&encoding=linear16&sample_rate=24000"
RESET = b"\1\0\0\0\0\0\0\0"
"""SO_LINGER with no time: closing the socket resets the connection."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def settings() -> Settings:
    """Wyoming on a free port beside the usual one."""
    return Settings(port=0, default_model="fake", wyoming_port=free_port())


def one_slot(**changes: Any) -> FakeEngine:
    return FakeEngine(capabilities=Capabilities(sample_rate=24_000, slots=1), faults={"Stuck": "hang"}, **changes)


@asynccontextmanager
async def http(server: RunningServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{server.address.host}:{server.address.port}", timeout=60) as client:
        yield client


async def info(server: RunningServer) -> Json:
    async with http(server) as client:
        described: Json = (await client.get("/v1/info")).json()
        return described


async def until_waiting(server: RunningServer, count: int) -> None:
    """Wait until so many requests are in line."""
    with trio.fail_after(5):
        while (await info(server))["queue_size"] != count:  # noqa: ASYNC110  # it is known to the server only
            await trio.sleep(0.005)


@asynccontextmanager
async def taken(server: RunningServer) -> AsyncIterator[Wire]:
    """A client that has the only place; `cancel` gives it back."""
    async with server.connect() as client:
        await client.send(STUCK)
        await client.until("streaming")
        while (await info(server))["available_models"]["fake"]["slots_used"] != 1:  # noqa: ASYNC110  # as above
            await trio.sleep(0.005)
        yield client


@asynccontextmanager
async def deepgram(server: RunningServer) -> AsyncIterator[Wire]:
    stream = await trio.open_tcp_stream(server.address.host, server.address.port)
    async with stream, trio.open_nursery() as nursery:
        websocket = await wrap_client_stream(nursery, stream, server.address.host, DEEPGRAM)
        yield Wire(websocket, stream)
        with trio.move_on_after(5):
            await websocket.aclose()
        nursery.cancel_scope.cancel()


async def position(client: Wire) -> int:
    """The next one that the client is told."""
    return int(replies_of(await client.until("queued"), "queued")[0]["queue_position"])


def event(type: str, **data: Any) -> bytes:
    """One of Wyoming's, as it is sent."""
    body = msgspec.json.encode(data)
    return msgspec.json.encode({"type": type, "version": "1.7", "data_length": len(body)}) + b"\n" + body


# --- Waiting ---


async def test_one_connection_with_many_streams_does_not_starve_another(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    """It gets every second place while the other one's requests wait."""
    engine = one_slot(block_delay_s=0.05)
    server = await start_server(engine, queue_per_slot=32)
    async with server.connect() as greedy, server.connect() as modest:
        await greedy.ask({"command": "preload"})
        await greedy.ask({"command": "hello"})
        for number in range(10):
            await greedy.send({"text": f"Greedy {number}.", "stream": True, "final_wav": False})
        await greedy.until("queued")
        await modest.send({"text": "Modest 0.", "stream": True, "final_wav": False})
        await modest.send({"text": "Modest 1.", "stream": True, "final_wav": False})
        await modest.until("success")
        await modest.until("success")
    spoken = [text for text in engine.said if "Modest" in text or "Greedy" in text]
    assert spoken.index("Modest 0.") <= 2
    assert spoken.index("Modest 1.") <= 5


async def test_a_streaming_client_hears_each_position_and_a_legacy_client_one(start_server: StartServer) -> None:
    server = await start_server(one_slot())
    async with taken(server) as first, server.connect() as second, server.connect() as third, server.connect() as legacy:
        await second.send(STUCK)
        assert await position(second) == 1
        await third.send({"text": "Hi.", "stream": True, "final_wav": False})
        assert await position(third) == 2
        await legacy.send({"text": "Hi."})
        assert await position(legacy) == 3
        await second.send({"command": "cancel"})
        await second.until("cancelled")
        assert await position(third) == 1
        await first.send({"command": "cancel"})
        assert replies_of(await third.until("success"), "error") == []
        assert (await legacy.reply())["status"] == "success"


async def test_a_text_that_is_not_begun_yet_takes_no_place(start_server: StartServer) -> None:
    """From its first sentence on it has one, until it ends."""
    engine = one_slot()
    server = await start_server(engine)
    async with server.connect() as writer, server.connect() as other:
        await writer.ask({"command": "begin", "stream": True, "final_wav": False})
        await writer.send({"command": "append", "text": "A sentence that is no"})
        await other.legacy({"text": "Hi."})
        assert len(engine.options) == 1
        await writer.send({"command": "append", "text": "t complete before this. Then there is a second one"})
        await writer.until("sentence")
        assert (await info(server))["available_models"]["fake"]["slots_used"] == 1
        await writer.send({"command": "end"})
        await writer.until("success")
    assert (await info(server))["available_models"]["fake"]["slots_used"] == 0


async def test_info_and_metrics_tell_places_and_lines(start_server: StartServer) -> None:
    server = await start_server(one_slot(), FakeEngine(name="other"))
    async with taken(server), server.connect() as waiting:
        await waiting.send(STUCK)
        await until_waiting(server, 1)
        found = await info(server)
        async with http(server) as client:
            text = (await client.get("/metrics")).text
    model = found["available_models"]["fake"]
    assert (model["slots"], model["slots_used"], model["queue_length"]) == (1, 1, 1)
    assert found["available_models"]["other"]["slots"] == found["limits"]["max_active"]
    assert found["limits"].items() >= {"queue_s": 10.0, "queue_per_slot": 4, "max_active": 500}.items()
    samples = {
        (sample.name, sample.labels.get("engine")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["tts_engine_slots", "fake"] == 1
    assert samples["tts_engine_slots_used", "fake"] == 1
    assert samples["tts_queue_length", "fake"] == 1
    assert samples["tts_queue_length", "other"] == 0


# --- Being turned away ---


async def test_the_native_dialect_says_when_to_come_back(start_server: StartServer) -> None:
    """And the connection stays usable."""
    server = await start_server(one_slot(), FakeEngine(name="other"), queue_per_slot=0)
    async with taken(server) as holder, server.connect() as client:
        await client.send({"text": "Hi.", "stream": True, "request_id": "r"})
        error = (await client.until("error"))[-1]
        assert isinstance(error, dict)
        assert (error["code"], error["retryable"], error["request_id"]) == ("overloaded", True, "r")
        assert error["retry_after_ms"] >= 500
        legacy = await client.ask({"text": "Hi."})
        assert legacy["message"].startswith("Failed to generate speech: All places at engine 'fake' are taken")
        await holder.send({"command": "cancel"})
        await holder.until("cancelled")
        await client.legacy({"text": "Hi."})
        async with http(server) as reader:
            text = (await reader.get("/metrics")).text
    assert 'tts_queue_shed_total{engine="fake",reason="full"} 2.0' in text
    assert 'tts_shed_total{reason="overloaded"} 2.0' in text


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/v1/audio/speech", {"input": "Hi.", "voice": "alloy"}, ("error", "code", "overloaded")),
        (DEEPGRAM, {"text": "Hi."}, ("err_code", None, "OVERLOADED")),
    ],
)
async def test_http_is_answered_503_with_the_time_to_wait(
    start_server: StartServer, path: str, body: Json, code: tuple[str, str | None, str]
) -> None:
    """In whole seconds, rounded up, and in the form of each API."""
    server = await start_server(one_slot(), FakeEngine(name="other"), queue_per_slot=0)
    async with taken(server), http(server) as client:
        answer = await client.post(path, json=body)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert answer.headers["x-should-retry"] == "true"
    outer, inner, value = code
    found = answer.json()[outer]
    assert (found if inner is None else found[inner]) == value


async def test_deepgrams_websocket_is_told_and_closed_with_1013(start_server: StartServer) -> None:
    """Its clients know no error after which a connection goes on."""
    server = await start_server(one_slot(), FakeEngine(name="other"), queue_per_slot=0)
    async with taken(server), deepgram(server) as client:
        await client.send({"type": "Speak", "text": "Hi."})
        await client.send({"type": "Flush"})
        assert (await client.reply())["type"] == "Metadata"
        error = await client.reply()
        assert (error["type"], error["code"]) == ("Error", "OVERLOADED")
        with pytest.raises(ConnectionClosed) as closed:
            await client.receive()
    assert closed.value.reason is not None
    assert closed.value.reason.code == 1013


async def test_wyoming_is_told_in_an_error_event(start_server: StartServer) -> None:
    server = await start_server(one_slot(), FakeEngine(name="other"), queue_per_slot=0)
    assert server.address.wyoming_port is not None
    async with taken(server), await trio.open_tcp_stream("127.0.0.1", server.address.wyoming_port) as stream:
        await stream.send_all(event("synthesize", text="Hi."))
        answer = b""
        with trio.fail_after(60):
            while data := await stream.receive_some():
                answer += data
    assert b'"overloaded"' in answer


async def ask_to_upgrade(server: RunningServer) -> tuple[int, dict[str, str]]:
    """The status and the headers of the answer to a WebSocket's first request."""
    request = (
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    async with await trio.open_tcp_stream(server.address.host, server.address.port) as stream:
        await stream.send_all(request)
        head = bytes(await stream.receive_some()).partition(b"\r\n\r\n")[0].decode()
    status, *headers = head.split("\r\n")
    return int(status.split()[1]), dict(header.lower().split(": ", 1) for header in headers)


async def test_a_new_websocket_is_refused_while_every_queue_is_full(start_server: StartServer) -> None:
    """With 503 and Retry-After, before the upgrade; the rest of HTTP is answered, and the server is not ready."""
    missing = entry(FakeEngine(name="missing"), unavailable=lambda: "Install it.")
    server = await start_server(one_slot(), missing, queue_per_slot=0)
    async with http(server) as client, taken(server) as holder:
        status, headers = await ask_to_upgrade(server)
        assert (status, headers["retry-after"]) == (503, "5")
        assert (await client.get("/ready")).status_code == 503
        assert (await client.get("/health")).status_code == 200
        await holder.send({"command": "cancel"})
        await holder.until("cancelled")
        assert (await client.get("/ready")).status_code == 200
        assert (await ask_to_upgrade(server))[0] == 101
        assert "tts_connections_turned_away_total 1.0" in (await client.get("/metrics")).text


async def test_a_websocket_is_let_in_while_one_engine_can_take_work(start_server: StartServer) -> None:
    """Even when the default engine cannot, and the server calls itself not ready."""
    server = await start_server(one_slot(), FakeEngine(name="other"), queue_per_slot=0)
    async with taken(server), server.connect() as client, http(server) as reader:
        assert (await reader.get("/ready")).status_code == 503
        await client.legacy({"text": "Hi.", "model": "other"})


# --- Clients that go ---


async def ask_native(server: RunningServer, stack: AsyncExitStack) -> trio.SocketStream:
    client = await stack.enter_async_context(server.connect())
    await client.send({"text": "Gone.", "stream": True})
    return client.stream


async def ask_legacy(server: RunningServer, stack: AsyncExitStack) -> trio.SocketStream:
    client = await stack.enter_async_context(server.connect())
    await client.send({"text": "Gone."})
    return client.stream


async def ask_deepgram(server: RunningServer, stack: AsyncExitStack) -> trio.SocketStream:
    client = await stack.enter_async_context(deepgram(server))
    await client.send({"type": "Speak", "text": "Gone."})
    await client.send({"type": "Flush"})
    return client.stream


async def ask_http(server: RunningServer, stack: AsyncExitStack, path: str, body: Json) -> trio.SocketStream:
    content = msgspec.json.encode(body)
    stream = await trio.open_tcp_stream(server.address.host, server.address.port)
    await stack.enter_async_context(stream)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
    await stream.send_all(head.encode() + content)
    return stream


async def ask_openai(server: RunningServer, stack: AsyncExitStack) -> trio.SocketStream:
    return await ask_http(server, stack, "/v1/audio/speech", {"input": "Gone.", "voice": "alloy"})


async def ask_deepgram_http(server: RunningServer, stack: AsyncExitStack) -> trio.SocketStream:
    return await ask_http(server, stack, DEEPGRAM, {"text": "Gone."})


async def ask_wyoming(server: RunningServer, stack: AsyncExitStack) -> trio.SocketStream:
    assert server.address.wyoming_port is not None
    stream = await trio.open_tcp_stream("127.0.0.1", server.address.wyoming_port)
    await stack.enter_async_context(stream)
    await stream.send_all(event("synthesize", text="Gone."))
    return stream


@pytest.mark.parametrize("ask", [ask_native, ask_legacy, ask_deepgram, ask_openai, ask_deepgram_http, ask_wyoming])
@pytest.mark.parametrize("reset", [False, True])
async def test_nothing_waits_for_a_client_that_has_gone(start_server: StartServer, ask: Any, reset: bool) -> None:
    """Its request leaves the line at once, no session of the engine is opened for it, and who waits behind moves up."""
    engine = one_slot()
    server = await start_server(engine)
    async with taken(server) as holder, server.connect() as behind:
        async with AsyncExitStack() as stack:
            stream = await ask(server, stack)
            await until_waiting(server, 1)
            await behind.send({"text": "Hi.", "stream": True, "final_wav": False})
            assert await position(behind) == 2
            if reset:
                stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, RESET)
            await trio.aclose_forcefully(stream)
            await until_waiting(server, 1)
            assert await position(behind) == 1
        await holder.send({"command": "cancel"})
        await behind.until("success")
    await until(lambda: engine.sessions == 0)
    assert len(engine.options) == 2
    assert engine.said == ["Stuck.", "Hi."]
    assert (await info(server))["queue_size"] == 0
