"""Edge through the server against edge-tts alone, on the same fake of the service, in one run.

    python -m benchmarks.edge [--clients 1 10 50] [--sentences 60] [--formats mp3 pcm]

The fake answers a handshake after 150 ms, sends the first byte 300 ms after a request and then 20 times faster than real time.
"edge-tts" is the unmodified package: one task a client, MP3 only, nothing decoded and nothing sent on. Of the server's formats
MP3 is the like of it: what Edge made is passed on. PCM is decoded besides, trimmed, and begins with the first word.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import msgspec
import trio

from benchmarks.harness import Heard, connection, long_text, machine, milliseconds, server, side_by_side

HANDSHAKE_S = 0.15
FIRST_BYTE_S = 0.3
PACE = 20.0
VOICE = "en-US-GuyNeural"


@contextlib.contextmanager
def fake_service() -> Iterator[str]:
    """The fake in a process of its own; its endpoint."""
    options = ["--connect-delay", str(HANDSHAKE_S), "--first-byte", str(FIRST_BYTE_S), "--pace", str(PACE)]
    command = [sys.executable, "-m", "tests.edge_service", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def stats(endpoint: str) -> dict[str, int]:
    """What the fake has seen."""
    with urllib.request.urlopen(endpoint.replace("ws", "http", 1) + "/fake/stats") as answer:
        seen: dict[str, int] = msgspec.json.decode(answer.read())
        return seen


def edge_tts_alone(endpoint: str, clients: int, text: str) -> list[Heard]:
    """`clients` texts at once with the unmodified package."""
    import edge_tts.communicate as package
    from edge_tts.constants import WSS_URL

    # The package takes no endpoint; its module's constant is what it reads.
    vars(package)["WSS_URL"] = f"{endpoint}/{WSS_URL.split('/', 3)[3]}"

    async def one() -> Heard:
        begun = time.perf_counter()
        first = None
        size = 0
        async for chunk in package.Communicate(text, VOICE, boundary="WordBoundary").stream():
            if chunk["type"] == "audio":
                first = first or time.perf_counter()
                size += len(chunk["data"])
        ended = time.perf_counter()
        return Heard((first or ended) - begun, ended - begun, size * 8 / 48_000)

    async def together() -> list[Heard]:
        return await asyncio.gather(*[one() for _ in range(clients)])

    return asyncio.run(together())


def row(name: str, clients: int, heard: list[Heard], note: str = "") -> None:
    total = [h.total_s for h in heard]
    print(
        f"{name:10} {clients:3}   first ms {milliseconds([h.first_audio_s for h in heard])}   "
        f"total s {statistics.median(total):6.2f} {max(total):6.2f}   audio s {heard[0].audio_s:6.1f}   {note}",
        flush=True,
    )


def leave_early(endpoint: str, port: int, text: str) -> float:
    """Seconds from a client's leaving until the fake has no open connection."""

    async def leave() -> None:
        async with connection(port) as websocket:
            request = {"text": text, "stream": True, "model": "edge", "voice": VOICE}
            await websocket.send_message(msgspec.json.encode(request).decode())
            while not isinstance(await websocket.get_message(), bytes):
                pass

    trio.run(leave)
    left = time.perf_counter()
    while stats(endpoint)["open_connections"]:
        time.sleep(0.002)
    return time.perf_counter() - left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 10, 50])
    parser.add_argument("--sentences", type=int, default=60)
    parser.add_argument("--formats", nargs="+", default=["mp3", "pcm"])
    arguments = parser.parse_args()
    text = long_text(arguments.sentences)
    print(machine(), f"· {arguments.sentences} sentences · first: p50 p95 · total: median worst")
    for clients in arguments.clients:
        with fake_service() as endpoint:
            edge_tts_alone(endpoint, 1, text)  # the fake makes its MP3 once
            alone = edge_tts_alone(endpoint, clients, text)
            row("edge-tts", clients, alone)
            for format in arguments.formats:
                through = through_the_server(endpoint, clients, text, format)
                firsts = [statistics.median(h.first_audio_s for h in heard) for heard in (through, alone)]
                totals = [statistics.median(h.total_s for h in heard) for heard in (through, alone)]
                print(
                    f"{'':14}   first + {1000 * (firsts[0] - firsts[1]):.0f} ms   total x {totals[0] / totals[1]:.2f}",
                    flush=True,
                )


def through_the_server(endpoint: str, clients: int, text: str, format: str) -> list[Heard]:
    """What `clients` hear through a server of its own, which is printed."""
    with server(edge_endpoint=endpoint, preload="edge") as running:
        time.sleep(1)
        side_by_side(running.port, 1, text, model="edge", voice=VOICE, format=format)
        cpu = running.cpu_s()
        heard, _ = side_by_side(running.port, clients, text, model="edge", voice=VOICE, format=format)
        cpu = 1000 * (running.cpu_s() - cpu) / sum(h.audio_s for h in heard)
        row(f"server {format}", clients, heard, f"{cpu:.2f} ms CPU per audio s, peak {running.peak_rss_mb():.0f} MB")
        if clients == 1:
            print(f"upstream closed {1000 * leave_early(endpoint, running.port, text):.0f} ms after the client left")
    return heard


if __name__ == "__main__":
    main()
