"""What the server costs while it does little: start-up, modules, idle connections, an hour of audio to one client.

python -m benchmarks.idle [--connections 500] [--hours 1]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from contextlib import AsyncExitStack

import trio

from benchmarks.harness import ServerProcess, connection, hear, long_text, machine, server

HEAVY = ("torch", "transformers", "aiohttp", "av", "edge_tts")


def start_up(times: int) -> None:
    listening = []
    for _ in range(times):
        with server(default_model="espeak") as running:
            listening.append(running.listening_after_s)
    print(f"listening after, s: median {statistics.median(listening):.3f}, worst {max(listening):.3f}   ({times} starts)")
    program = f"import sys, tts_provider.cli, tts_provider.server.lifecycle; print([m for m in {HEAVY!r} if m in sys.modules])"
    print("heavy modules loaded while serving:", subprocess.check_output([sys.executable, "-c", program], text=True).strip())


def idle_connections(count: int) -> None:
    async def hold(running: ServerProcess) -> float:
        async with AsyncExitStack() as stack:
            for _ in range(count // 5):
                await stack.enter_async_context(connection(running.port))
            before = running.rss_mb()
            for _ in range(count):
                await stack.enter_async_context(connection(running.port))
            await trio.sleep(1)
            return (running.rss_mb() - before) * 1e6 / 1024 / count

    with server(default_model="espeak", max_connections=10 * count) as running:
        print(f"memory of an idle connection: {trio.run(hold, running):.1f} KiB   ({count} connections)")


def long_stream(hours: float) -> None:
    async def listen(running: ServerProcess) -> tuple[float, list[float]]:
        heard = 0.0
        memory = []
        text = long_text(600)
        async with connection(running.port) as websocket:
            await hear(websocket, long_text(60), model="espeak")
            while heard < 3600 * hours:
                heard += (await hear(websocket, text, model="espeak")).audio_s
                memory.append(running.rss_mb())
        return heard, memory

    with server(default_model="espeak") as running:
        begun = time.perf_counter()
        heard, memory = trio.run(listen, running)
        print(
            f"memory over {heard / 3600:.2f} h of audio to one client: {memory[0]:.1f} MB at first, {memory[-1]:.1f} at last, "
            f"range {max(memory) - min(memory):.1f} MB   ({time.perf_counter() - begun:.0f} s of wall time)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=500)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--starts", type=int, default=5)
    arguments = parser.parse_args()
    print(machine())
    start_up(arguments.starts)
    idle_connections(arguments.connections)
    long_stream(arguments.hours)


if __name__ == "__main__":
    main()
