"""What the benchmarks share: a server in its own process, a lean client, and what the system says of a process."""

from __future__ import annotations

import math
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil
from trio_websocket import WebSocketConnection, open_websocket_url

from benchmarks.lean_client import BINARY, TEXT, LeanClient, watch

SPEED_S = 2.0
WINDOW_S = 0.01
LISTEN_TIMEOUT_S = 20.0
MAX_MESSAGE_BYTES = 2**24
ANSWER_S = 60.0


def machine() -> str:
    """The machine in one line, for the head of a table. It takes `SPEED_S`."""
    name = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    return f"{name}, {_speed()}"


def _speed() -> str:
    """How fast a bare loop is now, and how much slower at times: shared machines change by half, and stop for moments."""
    counts = []
    for _ in range(round(SPEED_S / WINDOW_S)):
        count, end = 0, time.perf_counter() + WINDOW_S
        while time.perf_counter() < end:
            count += 1
        counts.append(count)
    median = statistics.median(counts)
    slowest = sorted(counts)[len(counts) // 20]
    return f"{median / WINDOW_S / 1e6:.1f} M loops/s, for a twentieth of the time below {slowest / median:.0%} of that"


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class ServerProcess:
    """A running `python -m tts_provider`."""

    port: int
    process: psutil.Process
    listening_after_s: float
    """From the start of the process until it accepted a connection."""

    def rss_mb(self) -> float:
        """Resident memory now, 10^6 bytes."""
        return float(self.process.memory_info().rss) / 1e6

    def peak_rss_mb(self) -> float:
        """Highest resident memory so far, 10^6 bytes (Linux)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        return kib * 1024 / 1e6

    def cpu_s(self) -> float:
        """Processor time of the process and its children."""
        times = [p.cpu_times() for p in (self.process, *self.process.children(recursive=True))]
        return float(sum(t.user + t.system for t in times))


@contextmanager
def server(**settings: object) -> Iterator[ServerProcess]:
    """Start a server with these settings on a free port, and end it."""
    port = free_port()
    environment = os.environ | {f"TTS_{name.upper()}": str(value) for name, value in settings.items()}
    environment |= {"TTS_PORT": str(port), "TTS_LOG_LEVEL": "warning"}
    begun = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "tts_provider"], env=environment)
    try:
        wait_until_listening(port, child)
        yield ServerProcess(port, psutil.Process(child.pid), time.perf_counter() - begun)
    finally:
        child.terminate()
        child.wait(20)


def wait_until_listening(port: int, child: subprocess.Popen[bytes]) -> None:
    """Return as soon as `port` accepts a connection."""
    deadline = time.perf_counter() + LISTEN_TIMEOUT_S
    while time.perf_counter() < deadline:
        if child.poll() is not None:
            raise RuntimeError(f"the process ended with {child.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.005)
        else:
            return
    raise TimeoutError("nothing listens")


@dataclass(frozen=True)
class Heard:
    """What one streamed request brought. Times are seconds since it was sent."""

    first_audio_s: float
    total_s: float
    audio_s: float


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[WebSocketConnection]:
    """A WebSocket connection to the server."""
    url = f"ws://127.0.0.1:{port}"
    async with open_websocket_url(
        url, max_message_size=MAX_MESSAGE_BYTES, message_queue_size=64, receive_buffer_size=2**16
    ) as websocket:
        yield websocket


async def hear(websocket: WebSocketConnection, text: str, **fields: Any) -> Heard:
    """Stream `text` and take all of its audio as fast as it comes."""
    request = {"text": text, "stream": True, "final_wav": False} | fields
    begun = time.perf_counter()
    await websocket.send_message(msgspec.json.encode(request).decode())
    first: float | None = None
    while True:
        message = await websocket.get_message()
        if isinstance(message, bytes):
            first = first or time.perf_counter()
            continue
        reply: dict[str, Any] = msgspec.json.decode(message)
        if reply["status"] == "error":
            raise RuntimeError(reply["message"])
        if reply["status"] == "success":
            ended = time.perf_counter()
            return Heard((first or ended) - begun, ended - begun, reply["duration_ms"] / 1000)


def side_by_side(port: int, clients: int, text: str, **fields: Any) -> tuple[list[Heard], float]:
    """Each of `clients` hears `text` on a connection of its own, all at once; what they heard, and the wall time."""
    connections = [LeanClient(port) for _ in range(clients)]
    heard = [Heard(math.inf, math.inf, 0.0)] * clients
    firsts: dict[int, float] = {}
    request = msgspec.json.encode({"text": text, "stream": True, "final_wav": False} | fields)
    begun: list[float] = []

    def read(number: int) -> bool:
        for opcode, _, payload in connections[number].read():
            now = time.perf_counter() - begun[number]
            if opcode == BINARY:
                firsts.setdefault(number, now)
            elif opcode == TEXT:
                reply: dict[str, Any] = msgspec.json.decode(payload)
                if reply["status"] == "error":
                    raise RuntimeError(reply["message"])
                if reply["status"] == "success":
                    heard[number] = Heard(firsts.get(number, now), now, reply["duration_ms"] / 1000)
        return math.isfinite(heard[number].total_s)

    for connected in connections:
        begun.append(time.perf_counter())
        connected.send(TEXT, request)
    watch(connections, read, lambda: ANSWER_S)
    wall = time.perf_counter() - begun[0]
    for connected in connections:
        connected.socket.close()
    return heard, wall


def milliseconds(seconds: Sequence[float]) -> str:
    """Median and 95th percentile, for a table."""
    ordered = sorted(seconds)
    return f"{1000 * statistics.median(ordered):7.1f} {1000 * ordered[int(0.95 * (len(ordered) - 1))]:7.1f}"


SENTENCES = (
    "The quick brown fox jumps over a lazy dog in the village.",
    "A server that speaks should begin at once and never stop.",
    "All sentences of this text have about the same length here.",
    "When clients are many, each still expects the first sound.",
    "Numbers such as 42 or 3.14 belong to ordinary speech too.",
)


def long_text(sentences: int) -> str:
    """A text of so many sentences of about 65 characters, five seconds each."""
    return " ".join(f"{SENTENCES[i % len(SENTENCES)][:-1]}, part {i}." for i in range(sentences))
