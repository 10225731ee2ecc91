"""A soak: good clients of each dialect, one in ten hostile, for as long as you like; what the server has lost afterwards.

    python -m benchmarks.soak [--minutes 2] [--clients 20]

The first quarter goes without the hostile ones, for comparison. Prints memory's slope (least squares, after warming up), open
descriptors and threads before and after, errors by code, and how long good clients waited for their first audio. Exit 1 when
the process died or faulted, descriptors or threads were lost, memory grew absurdly, or a good client was failed. The engine is
espeak-ng or, where that is missing, the tests' tones. A slope over minutes is mostly noise: judge it over hours.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle
from typing import IO, Final

import psutil
import trio

from benchmarks.harness import free_port, machine, wait_until_listening
from benchmarks.soak_clients import GOOD, HOSTILE, Client, Seen, one_round
from tts_provider.engines.espeak import availability

__all__ = ["Report", "soak"]

CLIENTS: Final = 20
HOSTILE_SHARE: Final = 0.1
QUIET_SHARE: Final = 0.25
"""Of the time, before the hostile ones come."""
WARM_SHARE: Final = 0.25
"""Of the time, during which memory is not yet looked at."""
PAUSE_S: Final = 2.0
"""Between two rounds of a client, at most: the machine shall be busy and not full."""
SAMPLE_S: Final = 0.25
BACK_S: Final = 30.0
"""For descriptors and threads to be what they were; idle threads end after 10 s."""
MAX_GROWTH_MIB: Final = 32.0
"""Of memory over the time looked at, as the slope tells it, or a slope is absurd. A leak of a stream's audio is more."""
SERVER: Final = {"TTS_SEND_STALL_S": "3", "TTS_HANDSHAKE_S": "3", "TTS_LOG_LEVEL": "warning", "TTS_LOG_FORMAT": "json"}
"""Shorter deadlines than the default, so that hostile clients come again and again."""


@dataclass
class Usage:
    """What the server holds."""

    descriptors: int
    threads: int
    children: int


@dataclass
class Report:
    """What a soak found."""

    seconds: float
    before: Usage
    after: Usage
    quiet: Seen
    mixed: Seen
    memory: list[tuple[float, float]] = field(default_factory=list)
    """Seconds since the start, and MiB of the server and its children."""
    exit_code: int | None = None
    faults: list[str] = field(default_factory=list)
    """Events of the server's log that tell of a fault."""

    @property
    def looked_at(self) -> list[tuple[float, float]]:
        return [(at, mib) for at, mib in self.memory if at > WARM_SHARE * self.seconds]

    @property
    def slope_mib_h(self) -> float:
        """Of memory, MiB an hour."""
        times, mib = zip(*self.looked_at, strict=True)
        return 3600 * statistics.linear_regression(times, mib).slope

    @property
    def problems(self) -> list[str]:
        """Why the soak failed; none if it did not."""
        found = []
        if self.exit_code is not None:
            found.append(f"the process ended with {self.exit_code}")
        if self.faults:
            found.append(f"the server logged {', '.join(sorted(set(self.faults)))}")
        for name in ("descriptors", "threads", "children"):
            if getattr(self.after, name) > getattr(self.before, name):
                found.append(f"{name} grew from {getattr(self.before, name)} to {getattr(self.after, name)}")
        if self.slope_mib_h / 3600 * (1 - WARM_SHARE) * self.seconds > MAX_GROWTH_MIB:
            found.append(f"memory grew by {self.slope_mib_h:.0f} MiB an hour")
        found += [f"{what} ({count} times)" for what, count in (self.quiet.failures + self.mixed.failures).items()]
        silent = [kind for kind in (*GOOD, *HOSTILE) if not self.mixed.done[kind]]
        if silent:
            found.append(f"never came to an end: {', '.join(silent)}")
        return found

    def __str__(self) -> str:
        memory = [mib for _, mib in self.looked_at]
        rounds = self.quiet.done + self.mixed.done
        return "\n".join(
            (
                f"memory {memory[0]:.1f} MiB at first, {memory[-1]:.1f} at last, slope {self.slope_mib_h:+.1f} MiB/h "
                f"over {(1 - WARM_SHARE) * self.seconds:.0f} s",
                f"descriptors {self.before.descriptors} before, {self.after.descriptors} after; "
                f"threads {self.before.threads}, {self.after.threads}; processes {self.before.children}, {self.after.children}",
                f"first audio, quiet:        {_milliseconds(self.quiet.first_audio)}",
                f"first audio, with hostile: {_milliseconds(self.mixed.first_audio)}",
                f"good rounds: {', '.join(f'{kind} {rounds[kind]}' for kind in GOOD)}",
                f"hostile rounds: {', '.join(f'{kind} {rounds[kind]}' for kind in HOSTILE)}",
                f"errors told: {', '.join(f'{code} {count}' for code, count in sorted(self.mixed.errors.items()))}",
                *(f"PROBLEM: {problem}" for problem in self.problems),
            )
        )


def _milliseconds(seconds: list[float]) -> str:
    ordered = sorted(seconds) or [float("nan")]
    return (
        f"p50 {1000 * statistics.median(ordered):.1f} ms, p99 {1000 * ordered[int(0.99 * (len(ordered) - 1))]:.1f} ms "
        f"({len(seconds)} requests)"
    )


def soak(seconds: float, clients: int = CLIENTS) -> Report:
    """Soak a server of its own for so long; a little more, until it is quiet again."""
    random.seed(0)
    port = free_port()
    engine = "espeak" if availability() is None else "fake"
    environment = os.environ | SERVER | {"TTS_PORT": str(port), "TTS_DEFAULT_MODEL": engine}
    command = [sys.executable, "-m", "tts_provider" if engine == "espeak" else "benchmarks.soak_fake_server"]
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen(command, env=environment, stderr=log) as child:
        try:
            wait_until_listening(port, child)
            report = trio.run(_soak, port, psutil.Process(child.pid), seconds, clients)
            report.exit_code = child.poll()
        finally:
            child.terminate()
            child.wait(20)
        report.faults = _faults(log)
    return report


def _faults(log: IO[str]) -> list[str]:
    log.seek(0)
    events = [str(json.loads(line)["event"]) if line.startswith("{") else line.strip() for line in log]
    return [event for event in events if event.endswith((".fault", ".bug", ".no_response", ".stopped")) or "Error" in event]


async def _soak(port: int, process: psutil.Process, seconds: float, clients: int) -> Report:
    hostile = max(1, round(HOSTILE_SHARE * clients))
    good = cycle(GOOD.items())
    warm, quiet, mixed = Seen(), Seen(), Seen()
    for kind, client in GOOD.items():
        await one_round(kind, client, port, warm)
    await trio.sleep(SAMPLE_S)
    before = _usage(process)
    report = Report(seconds, before, before, quiet, mixed)
    begun = trio.current_time()
    seen = quiet
    end = begun + seconds

    async def again(pick: Callable[[], tuple[str, Client]]) -> None:
        while trio.current_time() < end:
            kind, client = pick()
            await one_round(kind, client, port, seen)
            await trio.sleep(random.uniform(0, PAUSE_S))

    async def be_hostile(kinds: list[str]) -> None:
        await trio.sleep(QUIET_SHARE * seconds)
        nonlocal seen
        seen = mixed
        turn = cycle(kinds)
        await again(lambda: (kind := next(turn), HOSTILE[kind]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch_memory, process, report, begun, end)
        for _ in range(clients - hostile):
            one = next(good)
            nursery.start_soon(again, lambda one=one: one)
        for number in range(hostile):
            nursery.start_soon(be_hostile, list(HOSTILE)[number:] + list(HOSTILE)[:number])
    async with trio.open_nursery() as nursery:
        for kind, client in (GOOD | HOSTILE).items():
            if not mixed.done[kind]:  # a soak so short that its turn did not come
                nursery.start_soon(one_round, kind, client, port, mixed)
    with trio.move_on_after(BACK_S):
        report.after = _usage(process)
        while _more(report.after, before):
            await trio.sleep(SAMPLE_S)
            report.after = _usage(process)
    return report


async def _watch_memory(process: psutil.Process, report: Report, begun: float, end: float) -> None:
    while trio.current_time() < end and process.is_running():
        mib = sum(each.memory_info().rss for each in (process, *process.children())) / 2**20
        report.memory.append((trio.current_time() - begun, mib))
        await trio.sleep(SAMPLE_S)


def _usage(process: psutil.Process) -> Usage:
    return Usage(process.num_fds(), process.num_threads(), len(process.children(recursive=True)))


def _more(now: Usage, before: Usage) -> bool:
    return now.descriptors > before.descriptors or now.threads > before.threads or now.children > before.children


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    arguments = parser.parse_args()
    print(machine(), flush=True)
    begun = time.perf_counter()
    report = soak(60 * arguments.minutes, arguments.clients)
    print(f"{report}\n{time.perf_counter() - begun:.0f} s in all")
    sys.exit(bool(report.problems))


if __name__ == "__main__":
    main()
