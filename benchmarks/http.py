"""What HTTP costs beside the WebSocket, how soon MP3 comes, and whether the server still answers while it streams.

    python -m benchmarks.http [--frames 20000] [--streams 50]

The engine is a fake that makes tones, so that nothing but the server is measured. Figures that are compared come from the same
run, in turns: on a machine with other work the ratios hold where the milliseconds do not.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psutil
import trio
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from benchmarks.harness import machine
from tests.fake_engine import BLOCK_S, HEAD_S, FakeEngine, entry
from tts_provider.logs import configure_logging
from tts_provider.server.app import build_app
from tts_provider.server.http_bridge import HttpBridge
from tts_provider.server.lifecycle import ServerAddress, serve
from tts_provider.server.listener import Connection, Listener
from tts_provider.server.metrics import Metrics
from tts_provider.server.session import Session, Sessions
from tts_provider.settings import Settings

FRAME = bytes(4_800)
"""100 ms at 24 kHz, as the server sends it."""
PAUSE_S = 0.0005
"""Between frames that are to go alone: without it the WebSocket's outbox joins up to eight into one write."""
ROUNDS = 5
TEXT = "This sentence is spoken again and again while others are. "
SETTINGS = Settings(port=0, default_model="fake", max_connections=2_000)


# --- Servers, each in a process of its own ---


async def serve_frames() -> None:
    """Send as many frames as asked for, over either transport, with nothing behind them."""

    async def over_http(scope: Scope, receive: Receive, send: Send) -> None:
        count, pause = scope["path_params"]["count"], scope["path_params"]["pause"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(count):
            await send({"type": "http.response.body", "body": FRAME, "more_body": True})
            if pause:
                await trio.sleep(PAUSE_S)
        await send({"type": "http.response.body"})

    async def over_websocket(session: Session) -> None:
        while True:
            count, pause = map(int, str(await session.receive()).split())
            for _ in range(count):
                await session.outbox.put(FRAME, session)
                if pause:
                    await trio.sleep(PAUSE_S)

    class Frames:
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await over_http(scope, receive, send)

    sessions = Sessions(SETTINGS)

    async def session(connection: Connection) -> None:
        await sessions.serve(connection, over_websocket)

    route = Route("/frames/{count:int}/{pause:int}", Frames())
    app = build_app([route], metrics=Metrics(), ready=lambda: True, describe=lambda: None)
    listener = Listener(SETTINGS, session, HttpBridge(app, max_body_bytes=1_000))
    sockets = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(sockets[0].socket.getsockname()[1], flush=True)
    async with trio.open_nursery() as nursery:
        await listener.run(sockets, nursery)


async def serve_speech() -> None:
    """Speak tones at the pace of speech."""
    async with trio.open_nursery() as nursery:

        async def run(*, task_status: trio.TaskStatus[ServerAddress]) -> None:
            engine = FakeEngine(block_delay_s=BLOCK_S)
            await serve(SETTINGS, entries=[entry(engine)], task_status=task_status)

        print((await nursery.start(run)).port, flush=True)


@contextmanager
def server(mode: str) -> Iterator[tuple[int, psutil.Process]]:
    child = subprocess.Popen([sys.executable, "-m", "benchmarks.http", mode], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        yield int(child.stdout.readline()), psutil.Process(child.pid)
    finally:
        child.kill()
        child.wait()


# --- Measurements ---


async def cpu_of_frames(port: int, process: psutil.Process, request: bytes, count: int) -> float:
    """Microseconds of the server's CPU for each frame that answers `request`; the client only counts bytes."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        if request.startswith(b"GET /ws"):
            head, _, request = request.partition(b"\r\n\r\n")
            await stream.send_all(head + b"\r\n\r\n")
            await stream.receive_some()
        before = process.cpu_times()
        await stream.send_all(request)
        left = count * len(FRAME)
        while left > 0:
            left -= len(await stream.receive_some(2**20))
        after = process.cpu_times()
    return float(1e6 * (after.user + after.system - before.user - before.system) / count)


def frames(count: int) -> None:
    """Compare a chunk with a frame: joined, where the transport can, and alone."""
    handshake = (
        b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    with server("serve-frames") as (port, process):
        for pause, name in ((0, "as fast as they go"), (1, "each alone")):
            number = count // (10 if pause else 1)
            ask = b"%d %d" % (number, pause)
            # A text frame of a client, masked with zeros.
            websocket = handshake + bytes([0x81, 0x80 | len(ask), 0, 0, 0, 0]) + ask
            http = b"GET /frames/%d/%d HTTP/1.1\r\nHost: x\r\n\r\n" % (number, pause)
            costs: dict[str, list[float]] = {"http": [], "websocket": []}
            for _ in range(ROUNDS):
                costs["http"].append(trio.run(cpu_of_frames, port, process, http, number))
                costs["websocket"].append(trio.run(cpu_of_frames, port, process, websocket, number))
            medians = {key: statistics.median(values) for key, values in costs.items()}
            print(
                f"4,800 bytes, {name}: HTTP chunk {medians['http']:.1f} us of CPU, WebSocket frame "
                f"{medians['websocket']:.1f} us, ratio {medians['http'] / medians['websocket']:.2f} (at most 2)"
            )


async def answers_of(path: str, port: int, times: int, pause_s: float) -> list[float]:
    """Milliseconds of each of `times` answers."""
    taken = []
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        await client.get(path)
        for _ in range(times):
            begun = time.perf_counter()
            (await client.get(path)).raise_for_status()
            taken.append(1000 * (time.perf_counter() - begun))
            await trio.sleep(pause_s)
    return taken


def health(streams: int) -> None:
    """How soon `/health` is answered while `streams` others hear PCM or MP3 at the pace of speech."""

    async def stream(port: int, format: str) -> None:
        body = b'{"input":"%s","response_format":"%s"}' % (TEXT.encode() * 100, format.encode())
        async with await trio.open_tcp_stream("127.0.0.1", port) as connection:
            head = b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
            await connection.send_all(head + body)
            while await connection.receive_some(2**16):
                pass

    async def measure(port: int, format: str) -> tuple[list[float], list[float]]:
        quiet = await answers_of("/health", port, 100, 0.01)
        async with trio.open_nursery() as nursery:
            for _ in range(streams):
                nursery.start_soon(stream, port, format)
                await trio.sleep(1.03 * BLOCK_S)  # not all at once: their blocks shall not come in step
            busy = await answers_of("/health", port, 300, 0.02)
            nursery.cancel_scope.cancel()
        return quiet, busy

    for format in ("pcm", "mp3"):
        with server("serve-speech") as (port, _):
            quiet, busy = trio.run(measure, port, format)
        p99 = [statistics.quantiles(values, n=100)[98] for values in (quiet, busy)]
        print(
            f"/health with {streams} streams of {format}: p50 {statistics.median(busy):.1f} ms, p99 {p99[1]:.1f} ms "
            f"(under 50); with none p50 {statistics.median(quiet):.1f} ms, p99 {p99[0]:.1f} ms"
        )


async def delay_of(format: str, speed: float) -> float:
    """Milliseconds from the engine's first sound to the first byte; the median of ten requests."""
    engine = FakeEngine(block_delay_s=BLOCK_S / speed)
    delays = []

    async def run(*, task_status: trio.TaskStatus[ServerAddress]) -> None:
        await serve(SETTINGS, entries=[entry(engine)], own_process=False, task_status=task_status)

    async with trio.open_nursery() as nursery:
        address = await nursery.start(run)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{address.port}") as client:
            for _ in range(10):
                delays.append(await delay_of_one(client, engine, format))
        nursery.cancel_scope.cancel()
    return 1000 * statistics.median(delays)


async def delay_of_one(client: httpx.AsyncClient, engine: FakeEngine, format: str) -> float:
    first_block = engine.blocks + 1 + round(HEAD_S / BLOCK_S)  # what is before it is silence
    arrivals: list[float] = []

    async def hear() -> None:
        async with client.stream("POST", "/v1/audio/speech", json={"input": TEXT, "response_format": format}) as answer:
            arrivals.extend([time.perf_counter() async for _ in answer.aiter_raw()])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear)
        while engine.blocks < first_block:  # noqa: ASYNC110  # the engine tells of nothing
            await trio.sleep(0.0002)
        sound_at = time.perf_counter()
    return arrivals[0] - sound_at


def first_bytes() -> None:
    """How soon after the engine's first sound MP3 comes, for engines of several speeds."""
    for speed in (1, 2, 4, 50):
        mp3, pcm = trio.run(delay_of, "mp3", speed), trio.run(delay_of, "pcm", speed)
        print(f"first byte after the first sound, engine {speed} x real time: mp3 {mp3:.0f} ms (at most 60), pcm {pcm:.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", nargs="?", choices=["serve-frames", "serve-speech"], help=argparse.SUPPRESS)
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--streams", type=int, default=50)
    arguments = parser.parse_args()
    configure_logging("error", "text")
    if arguments.mode is not None:
        trio.run(serve_frames if arguments.mode == "serve-frames" else serve_speech)
        return
    print(machine())
    frames(arguments.frames)
    health(arguments.streams)
    first_bytes()


if __name__ == "__main__":
    main()
