"""Signals, killed processes, clients that vanish: what was begun ends whole or with one clear error, and nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest
import trio
from trio_websocket import ConnectionClosed

from tests.conftest import Json, RunningServer, StartServer, Wire, audio_of, replies_of
from tests.fake_engine import FakeEngine
from tests.hostile.messages import message
from tests.processes import END_S, Process, process
from tests.server.frames import CLOSE, frame, upgrade
from tests.server.raw import RawClient, raw_client, upgraded

LONG = "This sentence is one of many that nobody will hear to the end. " * 60
STREAM = {"stream": True, "final_wav": False}


async def first_audio(client: Wire) -> None:
    while not isinstance(await client.receive(), bytes):
        pass


async def close_code(client: Wire) -> int | None:
    try:
        while True:
            await client.receive()
    except ConnectionClosed as closed:
        return closed.reason.code if closed.reason is not None else None


async def ended(server: Process) -> int:
    """The exit status of a process that is about to end."""
    return await trio.to_thread.run_sync(server.child.wait, END_S)


# --- Signals ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_a_stream_end_whole(number: signal.Signals) -> None:
    """Others are refused meanwhile; then everybody is told 1001, and the process and its workers end."""
    with process("--drain-s", "30") as server:
        async with server.server.connect() as idle, server.server.connect() as client:
            whole, _ = await idle.legacy({"text": LONG})
            await client.send({"text": LONG, **STREAM})
            await first_audio(client)
            workers = server.system.children(recursive=True)
            server.child.send_signal(number)
            assert await close_code(idle) == 1001
            with pytest.raises(OSError, match="connect"):
                await trio.open_tcp_stream("127.0.0.1", server.port)
            await client.send({"text": "Too late."})
            messages = await client.until("success")
            (success,) = replies_of(messages, "success")
            assert success["duration_ms"] == pytest.approx(whole["duration_ms"], rel=0.01)
            assert (await client.until("error"))[-1]["code"] == "draining"  # type: ignore[call-overload]
            assert await close_code(client) == 1001
        assert await ended(server) == 0
        _, alive = await trio.to_thread.run_sync(psutil.wait_procs, workers, END_S)
        assert (len(workers), alive) == (1, [])
        assert [record for record in server.whole_log() if record["level"] == "error"] == []


async def test_a_second_signal_stops_at_once() -> None:
    """Even while a client reads nothing of what it asked for."""
    with process("--drain-s", "60", "--send-stall-s", "60") as server:
        async with upgraded(server.port) as client:
            await client.send(message(text=LONG, stream=True, sample_rate=192_000))
            await client.read_until(b'"sentence"')
            server.child.send_signal(signal.SIGTERM)
            await trio.to_thread.run_sync(server.log_until, "server.draining")
            begun = trio.current_time()
            server.child.send_signal(signal.SIGTERM)
            assert await ended(server) == 0
            assert trio.current_time() - begun < END_S / 2
        assert [record for record in server.whole_log() if record["level"] == "error"] == []


# --- Killed processes ---


def worker_of(server: Process) -> psutil.Process:
    (worker,) = server.system.children(recursive=True)
    return worker


async def test_a_killed_worker_of_espeak_is_one_error_at_most() -> None:
    """A new worker has taken its place for the next request, and no process is left over."""
    with process() as server:
        async with server.server.connect() as client:
            await client.legacy({"text": "Hi."})
            before = server.system.num_fds()
            for _ in range(3):
                killed = worker_of(server)
                killed.suspend()  # so that it cannot have ended before it is killed
                await client.send({"text": "One two three.", **STREAM, "request_id": "killed"})
                await client.until("streaming")
                killed.kill()
                messages = await client.until("success", "error")
                errors = replies_of(messages, "error")
                assert [error["code"] for error in errors] in ([], ["synthesis_failed"]), errors
                assert "Traceback" not in str(errors)
                success, data = await client.legacy({"text": "One two three."})
                assert success["length_bytes"] == len(data)
                assert worker_of(server).pid != killed.pid
            assert server.system.num_fds() <= before


@contextmanager
def edge_service(*flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The fake of Edge's service as a process, and its endpoint."""
    command = [sys.executable, "-m", "tests.edge_service", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            yield child, child.stdout.readline().strip()
        finally:
            child.kill()


async def test_a_killed_edge_is_one_error_and_its_return_is_noticed(tmp_path: os.PathLike[str]) -> None:
    with edge_service("--pace", "2") as (edge, endpoint):
        flags = ("--edge-endpoint", endpoint, "--edge-cache-dir", str(tmp_path))
        with process(*flags, model="edge") as server:
            async with server.server.connect() as client:
                await client.legacy({"text": "Hi."})
                before = server.system.num_fds()
                await client.send({"text": LONG, **STREAM})
                await first_audio(client)
                edge.kill()
                edge.wait()
                errors = replies_of(await client.until("success", "error"), "error")
                assert [error["code"] for error in errors] in (["synthesis_failed"], ["engine_unavailable"]), errors
                refused = await client.ask({"text": "Are you there?", "stream": True})
                while refused["status"] in ("streaming", "queued", "sentence"):
                    refused = await client.reply()
                assert refused["code"] in ("synthesis_failed", "engine_unavailable", "timeout"), refused
                with edge_service("--port", endpoint.rpartition(":")[2]):
                    success, _ = await client.legacy({"text": "Hi again."})
                    assert success["status"] == "success"
                    assert server.system.num_fds() <= before + 2


# --- Clients that vanish ---

Phase = Callable[[RawClient], Awaitable[None]]


async def before_the_head(client: RawClient) -> None:
    pass


async def within_the_head(client: RawClient) -> None:
    await client.send(upgrade()[:50])


async def after_the_upgrade(client: RawClient) -> None:
    await client.send(upgrade())
    await client.read_until(b"\r\n\r\n")


async def while_queued(client: RawClient) -> None:
    await after_the_upgrade(client)
    for _ in range(5):
        await client.send(message(text=LONG, stream=True))


async def while_streaming(client: RawClient) -> None:
    await after_the_upgrade(client)
    await client.send(message(text=LONG, stream=True))
    await client.read_until(b'"sentence"')


async def while_its_text_is_open(client: RawClient) -> None:
    await after_the_upgrade(client)
    await client.send(message(command="begin", stream=True))
    await client.send(message(command="append", text="Half a sen"))
    await client.read_until(b'"streaming"')


async def while_the_file_is_sent(client: RawClient) -> None:
    await after_the_upgrade(client)
    await client.send(message(text=LONG[:200], sample_rate=192_000))
    await client.read_until(b'"success"')
    await client.read_until(b"RIFF")


async def while_the_connection_closes(client: RawClient) -> None:
    await while_streaming(client)
    await client.send(frame(CLOSE, b"\x03\xe8"))


async def within_a_body(client: RawClient) -> None:
    await client.send(b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf")


async def while_http_is_answered(client: RawClient) -> None:
    body = b'{"model": "fake", "response_format": "pcm", "input": "' + LONG.encode() + b'"}'
    await client.send(b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await client.read_until(b"\r\n\r\n")


PHASES = [
    before_the_head,
    within_the_head,
    after_the_upgrade,
    while_queued,
    while_streaming,
    while_its_text_is_open,
    while_the_file_is_sent,
    while_the_connection_closes,
    within_a_body,
    while_http_is_answered,
]


async def info_of(server: RunningServer) -> Json:
    async with server.connect() as client:
        return await client.ask({"command": "info"})


@pytest.mark.parametrize("way", ["reset", "close"])
@pytest.mark.parametrize("phase", PHASES)
async def test_a_client_that_vanishes_leaves_nothing(start_server: StartServer, phase: Phase, way: str) -> None:
    """No task, no descriptor, no place at the engine; and the next client is served."""
    engine = FakeEngine(block_delay_s=0.0005)
    server = await start_server(engine)
    await info_of(server)
    async with server.connect() as client:
        await client.legacy({"text": "Hi."})
    await settled(engine, (10**9, 10**9))
    at_rest = held()
    for _ in range(5):
        async with raw_client(server.address.port) as client:
            await phase(client)
            if way == "reset":
                client.reset()
    await settled(engine, at_rest)
    assert held() <= at_rest
    assert (engine.saying, engine.sessions) == (0, 0)
    async with server.connect() as client:
        await client.send({"text": "Hi.", **STREAM})
        assert audio_of(await client.until("success"))


def held() -> tuple[int, int]:
    """Tasks of this program, and descriptors."""
    return trio.lowlevel.current_statistics().tasks_living, psutil.Process().num_fds()


async def settled(engine: FakeEngine, limit: tuple[int, int]) -> None:
    """Wait until as little is held as `limit`, or for so long that it never will be."""
    for _ in range(100):
        await trio.sleep(0.03)
        if all(now <= most for now, most in zip(held(), limit, strict=True)) and not engine.sessions:
            return
