"""How many streams one process holds: paced 100 ms blocks, 99 % of them received within 40 ms, and no player runs dry.

    python -m benchmarks.load                     search the highest number; exit 1 if it is below 500
    python -m benchmarks.load --streams 300       one step

The same is searched for a bare trio-websocket loop that sends the same frames at the same moments: what that does not hold is
too much for the machine. Then the processor time for a frame of both is compared, in turns.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.harness import machine
from benchmarks.load_client import Listener, Listening, disconnect, listen

FLOOR: Final = 500
"""Streams that one process must hold."""
P99_S: Final = 0.040
RATIO: Final = 1.3
"""Of our processor time for a frame to that of the bare loop."""
OVER: Final = 0.4
"""Share of a stream's length over which the streams begin, and then end, one after another. All of it counts for lateness."""
SETTLE_S: Final = 0.5
"""Between the last stream's beginning and the time that counts for processor time and memory: until the first one ends."""
TRIES: Final = 3
"""Of a step that fails, before it counts: somebody else may have had the machine."""
STEP: Final = 50
MOST: Final = 4_000
NAMES: Final = {"speech": "ours", "bare": "bare"}


class Server:
    """A server in a process of its own, as the system sees it."""

    def __init__(self, pid: int, port: int) -> None:
        self.port = port
        self._proc = Path(f"/proc/{pid}")

    def cpu_s(self) -> float:
        """Processor time of all its threads."""
        return sum(int(file.read_text().split()[0]) for file in self._proc.glob("task/*/schedstat")) / 1e9

    def rss_kib(self) -> float:
        """Resident memory."""
        return int((self._proc / "statm").read_text().split()[1]) * resource.getpagesize() / 1024


@contextmanager
def server(kind: str, *flags: str) -> Iterator[Server]:
    command = [sys.executable, "-m", "benchmarks.load_server", kind, *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            yield Server(child.pid, int(child.stdout.readline()))
        finally:
            child.terminate()
            child.wait(20)


@dataclass
class Step:
    """What so many streams cost, and how they were heard."""

    streams: int
    heard: Listening
    cpu_us: float
    """For a frame."""
    core: float
    """Share of a core that the server used."""
    idle_kib: float
    streaming_kib: float
    """Memory of a connection that waits, and of one that streams."""

    @property
    def quantiles(self) -> tuple[float, float, float]:
        """Median, 99th percentile and worst lateness, seconds."""
        late = sorted(self.heard.lateness) or [float("inf")]
        return statistics.median(late), late[int(0.99 * (len(late) - 1))], late[-1]

    @property
    def good(self) -> bool:
        return not self.heard.errors and not self.heard.underruns and self.quantiles[1] < P99_S

    def __str__(self) -> str:
        median, p99, worst = (1000 * value for value in self.quantiles)
        errors = f", {len(self.heard.errors)} failed: {self.heard.errors[0]}" if self.heard.errors else ""
        return (
            f"{self.streams:5} streams: late p50 {median:6.1f}  p99 {p99:6.1f}  worst {worst:6.1f} ms, "
            f"{self.heard.underruns} underruns, {self.cpu_us:5.1f} us of CPU a frame, {self.core:4.0%} of a core, "
            f"{self.idle_kib:4.1f} KiB idle, {self.streaming_kib:4.1f} KiB streaming{errors}"
        )


def run(kind: str, streams: int, seconds: float, *flags: str) -> Step:
    """One step, with a server of its own."""
    with server(kind, *flags) as running:
        first = Listener(running.port)  # what the first connection loads belongs to none
        listen([first], 0.3)
        empty = running.rss_kib()
        listeners = [Listener(running.port) for _ in range(streams)]
        time.sleep(0.2)
        idle = running.rss_kib()
        seen: list[tuple[float, float, float]] = []

        def look() -> None:
            seen.append((time.perf_counter(), running.cpu_s(), running.rss_kib()))

        heard = listen(listeners, seconds, over_s=OVER * seconds, at=[(OVER * seconds + SETTLE_S, look), (seconds - 0.1, look)])
        disconnect([*listeners, first])
    (begun, cpu_before, _), (ended, cpu_after, streaming) = seen
    frames = streams * (ended - begun) * 10
    return Step(
        streams,
        heard,
        1e6 * (cpu_after - cpu_before) / frames,
        (cpu_after - cpu_before) / (ended - begun),
        (idle - empty) / streams,
        (streaming - empty) / streams,
    )


def run_and_print(kind: str, streams: int, seconds: float) -> Step:
    step = run(kind, streams, seconds)
    print(f"{NAMES[kind]}  {step}", flush=True)
    return step


def attempt(kind: str, streams: int, seconds: float) -> bool:
    """Whether a step goes well, at once or when it is tried again."""
    return any(run_and_print(kind, streams, seconds).good for _ in range(TRIES))


def search(kind: str, seconds: float) -> int:
    """The highest number of streams that goes well, to the nearest `STEP`."""
    good, bad = 0, 250
    while bad <= MOST and attempt(kind, bad, seconds):
        good, bad = bad, 2 * bad
    while bad - good > STEP:
        middle = (good + bad) // 2 // STEP * STEP
        if middle == good:
            middle += STEP
        if attempt(kind, middle, seconds):
            good = middle
        else:
            bad = middle
    return good


def compare(streams: int, seconds: float, rounds: int) -> None:
    """Print our processor time for a frame beside the bare loop's, in turns."""
    ours, bare = [], []
    for _ in range(rounds):
        bare.append(run_and_print("bare", streams, seconds))
        ours.append(run_and_print("speech", streams, seconds))
    medians = [statistics.median(step.cpu_us for step in steps) for steps in (ours, bare)]
    print(
        f"CPU a frame with {streams} streams: {medians[0]:.1f} us, bare trio-websocket {medians[1]:.1f} us, "
        f"ratio {medians[0] / medians[1]:.2f} (at most {RATIO})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, help="one step with so many, and no search")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each stream, from 2 to 25 (default: 10)")
    parser.add_argument("--rounds", type=int, default=5, help="of the comparison with the bare loop (default: 5)")
    arguments = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65_536)), hard))
    print(machine(), flush=True)
    if arguments.streams:
        compare(arguments.streams, arguments.seconds, arguments.rounds)
        return
    highest, machines = [search(kind, arguments.seconds) for kind in ("speech", "bare")]
    print(
        f"highest number of streams: {highest} (at least {FLOOR}), the bare loop's: {machines}; load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    compare(min(highest, FLOOR) or STEP, arguments.seconds, arguments.rounds)
    sys.exit(highest < FLOOR)


if __name__ == "__main__":
    main()
