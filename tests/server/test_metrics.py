"""What the server counts, as Prometheus reads it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock

from tests.conftest import RunningServer, StartServer
from tests.fake_engine import FakeEngine
from tests.server.waiting import until
from tts_provider.engines.base import Capabilities
from tts_provider.server.metrics import LAG_PERIOD_S, EngineReading, Metrics, Reading

Samples = dict[str, float]
"""Values by name and labels, as ``name{label=value}``."""


def parse(text: str) -> Samples:
    return {
        sample.name + "".join(f"{{{name}={value}}}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@asynccontextmanager
async def http(server: RunningServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{server.address.host}:{server.address.port}", timeout=60) as client:
        yield client


async def measured(server: RunningServer) -> Samples:
    async with http(server) as client:
        return parse((await client.get("/metrics")).text)


async def test_a_request_is_counted_in_every_dialect(start_server: StartServer) -> None:
    """Its first audio, its wait, its bytes and seconds, and that it was done."""
    server = await start_server(FakeEngine())
    async with server.connect() as wire:
        _, wav = await wire.legacy({"text": "Hello there, world."})
    async with http(server) as client:
        answer = await client.post("/v1/audio/speech", json={"input": "Hello there, world.", "response_format": "pcm"})
    found = await measured(server)
    assert found["tts_requests_total{engine=fake}{outcome=done}"] == 2
    assert found["tts_first_audio_seconds_count{engine=fake}"] == 2
    assert found["tts_queue_seconds_count{engine=fake}"] == 2
    assert found["tts_audio_bytes_total{engine=fake}"] == len(wav) - 44 + len(answer.content)
    assert found["tts_audio_seconds_total{engine=fake}"] == pytest.approx(2 * len(answer.content) / 48_000, abs=0.01)
    assert found["tts_underruns_total{engine=fake}"] == 0


async def test_the_time_to_the_first_audio_is_the_users(start_server: StartServer, autojump_clock: MockClock) -> None:
    """From the request on: the load and the wait for a slot are part of it."""
    autojump_clock.autojump_threshold = 0.01
    server = await start_server(FakeEngine(load_s=2, block_delay_s=0.05))
    async with server.connect() as wire:
        await wire.send({"text": "Hi.", "stream": True, "final_wav": False})
        await wire.until("success")
    found = await measured(server)
    assert 2 <= found["tts_queue_seconds_sum{engine=fake}"] < 2.05
    assert 2.1 <= found["tts_first_audio_seconds_sum{engine=fake}"] < 2.5


async def test_the_wait_for_the_clients_own_text_is_no_queue(start_server: StartServer, autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.01
    server = await start_server(FakeEngine(load_s=2))
    async with server.connect() as wire:
        await wire.send({"command": "begin", "stream": True, "final_wav": False})
        await wire.until("streaming")
        await trio.sleep(50)
        await wire.send({"command": "append", "text": "Hi."})
        await wire.send({"command": "end"})
        await wire.until("success")
    assert 2 <= (await measured(server))["tts_queue_seconds_sum{engine=fake}"] < 2.05


async def test_a_request_is_active_until_it_is_cancelled(start_server: StartServer) -> None:
    server = await start_server(FakeEngine(block_delay_s=0.05, capabilities=Capabilities(sample_rate=24_000, slots=4)))
    async with server.connect() as wire:
        await wire.send({"text": "A text that takes a while to be spoken.", "stream": True, "request_id": "1"})
        while not isinstance(await wire.receive(), bytes):
            pass
        during = await measured(server)
        await wire.send({"command": "cancel"})
        await wire.until("cancelled")
        after = await measured(server)
    assert (during["tts_active_streams{engine=fake}"], after["tts_active_streams{engine=fake}"]) == (1, 0)
    assert (during["tts_connections"], during["tts_engine_slots{engine=fake}"]) == (2, 4)
    assert during["tts_engine_state{engine=fake}{state=ready}"] == 1
    assert after["tts_requests_total{engine=fake}{outcome=cancelled}"] == 1


async def test_a_client_that_goes_counts_as_cancelled(start_server: StartServer) -> None:
    """Not as an error of the server, though it is met while sending."""
    engine = FakeEngine(block_delay_s=0.01)
    server = await start_server(engine)
    body = json.dumps({"input": "A text that takes a while. " * 20, "response_format": "pcm"}).encode()
    stream = await trio.open_tcp_stream(server.address.host, server.address.port)
    async with stream:
        await stream.send_all(b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await stream.receive_some()
        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await until(lambda: engine.sessions == 0)
    found = await measured(server)
    assert found["tts_requests_total{engine=fake}{outcome=cancelled}"] == 1
    assert not any(name.startswith("tts_errors") for name in found)


async def test_errors_are_counted_by_code_and_once(start_server: StartServer) -> None:
    """Whatever the dialect, and wherever they come from: the engine, the text, the message itself."""
    server = await start_server(FakeEngine(faults={"broken": "before", "bug": "bug", "half": "after"}))
    async with server.connect() as wire, http(server) as client:
        for text in ("broken", "bug", "half of it", "", "fine"):
            await wire.send({"text": text, "stream": True, "final_wav": False})
            await wire.until("error", "success")
            with contextlib.suppress(httpx.RemoteProtocolError):
                await client.post("/v1/audio/speech", json={"input": text})
        for message in ("{", {"text": "fine", "model": "nope"}, {"command": "end"}):
            await wire.send(message)
            await wire.until("error")
        await client.post("/v1/audio/speech", content=b"{")
    found = await measured(server)
    errors = {name: value for name, value in found.items() if name.startswith("tts_errors_total")}
    assert errors == {
        "tts_errors_total{code=synthesis_failed}": 6,
        "tts_errors_total{code=empty_text}": 2,
        "tts_errors_total{code=unknown_model}": 1,
        "tts_errors_total{code=invalid_json}": 2,
        "tts_errors_total{code=invalid_request}": 1,
    }
    assert found["tts_requests_total{engine=fake}{outcome=failed}"] == 6
    assert found["tts_requests_total{engine=fake}{outcome=done}"] == 2


async def test_work_turned_away_is_counted(start_server: StartServer) -> None:
    server = await start_server(FakeEngine(block_delay_s=0.05), max_queued_requests=0)
    async with server.connect() as wire:
        await wire.send({"text": "This keeps the connection busy.", "stream": True})
        await wire.send({"text": "This is one too many.", "stream": True})
        await wire.until("error")
    found = await measured(server)
    assert found["tts_shed_total{reason=busy}"] == found["tts_errors_total{code=busy}"] == 1


async def test_an_engine_slower_than_speech_leads_to_underruns(start_server: StartServer, autojump_clock: MockClock) -> None:
    """Blocks of 50 ms each 60 ms: whoever plays at once runs dry now and then. Half as long, and nobody does."""
    autojump_clock.autojump_threshold = 0.01
    slow = FakeEngine(block_delay_s=0.06)
    quick = FakeEngine("quick", block_delay_s=0.025)
    server = await start_server(slow, quick)
    async with http(server) as client:
        for model in ("fake", "quick"):
            body = {"input": "A text that takes two seconds to speak.", "response_format": "pcm", "model": model}
            await client.post("/v1/audio/speech", json=body)
    found = await measured(server)
    assert found["tts_underruns_total{engine=fake}"] > 2
    assert found["tts_underruns_total{engine=quick}"] == 0


def test_a_client_that_is_slow_is_no_underrun() -> None:
    """It takes five seconds for the first tenth; what counts is what it then waits for the engine."""
    metrics = Metrics()
    with metrics.request("a", 0.0) as meter:
        meter.audio_made(1.0)
        meter.audio_taken(4800, 0.1, waited_s=5.0)
        meter.audio_made(6.05)
        meter.audio_taken(4800, 0.2, waited_s=0.0)
        assert parse(metrics.exposition().decode())["tts_underruns_total{engine=a}"] == 0
        meter.audio_made(6.25)
    assert parse(metrics.exposition().decode())["tts_underruns_total{engine=a}"] == 1


async def test_connections_over_the_limit_are_counted(start_server: StartServer) -> None:
    server = await start_server(FakeEngine(), max_connections=1)
    async with http(server) as client:
        await client.get("/health")
        async with http(server) as other:
            assert (await other.get("/health")).status_code == 503
        found = parse((await client.get("/metrics")).text)
    assert found["tts_connections_turned_away_total"] == 1


async def test_the_loops_lag_is_measured(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    metrics = Metrics()
    nursery.start_soon(metrics.watch_loop)
    await trio.sleep(10.5 * LAG_PERIOD_S)
    assert parse(metrics.exposition().decode())["tts_event_loop_lag_seconds_count"] == 10
    nursery.cancel_scope.cancel()


def test_two_servers_in_one_process_do_not_mix() -> None:
    """Each has a registry of its own."""
    one, other = Metrics(), Metrics()
    one.read_with(lambda: Reading(1, 2, 3, (EngineReading("a", "ready", None),)))
    with one.request("a", 0):
        pass
    assert parse(one.exposition().decode())["tts_requests_total{engine=a}{outcome=done}"] == 1
    assert not any(name.startswith("tts_requests") for name in parse(other.exposition().decode()))
