"""The servers under load: ours with an engine that speaks at the pace of speech, and the least that trio-websocket can do.

    python -m benchmarks.load_server speech|bare [--profile FILE]     prints its port, serves until SIGTERM

A client names the moment at which its stream begins, on CLOCK_MONOTONIC, which all processes of a machine share; block n comes
`BLOCK_S` x n later, from either server. So whoever receives a frame knows how late it is.

In both one task keeps the time for all streams, as one task deals out what a batching engine made: with a timer for each stream
Trio's timers would be a third of what is measured.
"""

from __future__ import annotations

import argparse
import cProfile
import heapq
import itertools
import json
import math
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket

from tts_provider.engines.base import (
    Capabilities,
    ProgressReport,
    QueueReport,
    Session,
    Sink,
    SpeechChunk,
    SpeechOptions,
    Voice,
    VoiceChoice,
    VoiceRequest,
)
from tts_provider.engines.catalog import Entry
from tts_provider.logs import configure_logging
from tts_provider.server.lifecycle import ServerAddress, serve, tune_garbage_collection
from tts_provider.settings import Settings

__all__ = ["BLOCK_S", "FRAME_BYTES", "SAMPLE_RATE"]

SAMPLE_RATE: Final = 24_000
BLOCK_S: Final = 0.1
FRAME_BYTES: Final = 4_800
"""Of a block, as the clients get it."""
TICK_S: Final = 0.002
"""Blocks that fall due within this are dealt out together, which counts as lateness. A batching engine's step is longer."""
VOICE: Final = Voice("tone", "Tone", "en-US")
LIMITS: Final = ("max_connections", "max_connections_per_address", "max_active")
"""Settings that would turn clients of one machine away; those that there are."""
MANY: Final = 100_000


def _tone() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """One block of 440 Hz: a whole number of periods, so that blocks join."""
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(SAMPLE_RATE * BLOCK_S) / SAMPLE_RATE)).astype(np.float32)


def trio_time(monotonic: float) -> float:
    """The moment `monotonic` on Trio's clock, which is the same one from another beginning."""
    return monotonic + trio.current_time() - time.perf_counter()


class Pacer:
    """Wakes many tasks in time with one timer."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, trio.lowlevel.Task]] = []
        self._numbers = itertools.count()
        self._alarm = trio.CancelScope()
        self._not_before = -math.inf

    async def until(self, moment: float) -> None:
        """Wait until `moment`, on Trio's clock."""
        waiting = (moment, next(self._numbers), trio.lowlevel.current_task())
        heapq.heappush(self._due, waiting)
        if moment < self._alarm.deadline:
            self._alarm.deadline = max(moment, self._not_before)

        def leave(_: object) -> trio.lowlevel.Abort:
            self._due.remove(waiting)
            heapq.heapify(self._due)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)

    async def run(self) -> None:
        """Keep the time."""
        while True:
            wake_at = max(self._due[0][0], self._not_before) if self._due else math.inf
            with trio.CancelScope(deadline=wake_at) as self._alarm:
                await trio.sleep_forever()
            now = trio.current_time()
            self._not_before = now + TICK_S
            while self._due and self._due[0][0] <= now:
                trio.lowlevel.reschedule(heapq.heappop(self._due)[2])


class PacedEngine:
    """Says anything as a tone, in blocks that come in time: of `blocks` blocks, the first at `start`, both options."""

    name = "paced"
    capabilities = Capabilities(sample_rate=SAMPLE_RATE, options=frozenset({"start", "blocks"}))

    def __init__(self) -> None:
        self._pacer = Pacer()

    async def run(self, report: ProgressReport, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await self._pacer.run()

    def voices(self) -> Sequence[Voice]:
        return [VOICE]

    def resolve(self, request: VoiceRequest) -> VoiceChoice:
        return VoiceChoice(VOICE, VOICE.language)

    @asynccontextmanager
    async def session(
        self, choice: VoiceChoice, options: SpeechOptions, queued: QueueReport | None = None
    ) -> AsyncIterator[Session]:
        yield _PacedSession(self._pacer, options.extra["start"], options.extra["blocks"])


@dataclass
class _PacedSession:
    pacer: Pacer
    start: float
    blocks: int

    async def say(self, chunk: SpeechChunk, sink: Sink) -> None:
        start = trio_time(self.start)
        block = _tone()
        for number in range(self.blocks):
            await self.pacer.until(start + number * BLOCK_S)
            await sink.audio(block)


async def serve_speech() -> None:
    """Our server, as users run it."""
    raised: dict[str, Any] = {name: MANY for name in LIMITS if name in Settings.__dataclass_fields__}
    settings = Settings(port=0, default_model="paced", **raised)

    class Started:
        def started(self, address: ServerAddress) -> None:
            print(address.port, flush=True)

    entry = Entry(name="paced", sample_rate=SAMPLE_RATE, create=PacedEngine, light=True)
    await serve(settings, entries=[entry], task_status=Started())  # type: ignore[arg-type]


async def serve_bare() -> None:
    """A loop that sends frames made beforehand over trio-websocket, and nothing else; its garbage collector as ours."""
    pacer = Pacer()

    async def handle(request: WebSocketRequest) -> None:
        websocket = await request.accept()
        frame = bytes(FRAME_BYTES)
        try:
            while True:
                asked = json.loads(await websocket.get_message())["extra_params"]
                start = trio_time(asked["start"])
                for number in range(asked["blocks"]):
                    await pacer.until(start + number * BLOCK_S)
                    await websocket.send_message(frame)
                await websocket.send_message('{"status": "success"}')
        except ConnectionClosed:
            pass

    class Started:
        def started(self, server: Any) -> None:
            print(server.port, flush=True)

    tune_garbage_collection()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_end_with_sigterm, nursery.cancel_scope)
        nursery.start_soon(pacer.run)
        await serve_websocket(handle, "127.0.0.1", 0, None, task_status=Started())  # type: ignore[arg-type]


async def _end_with_sigterm(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["speech", "bare"])
    parser.add_argument("--profile", metavar="FILE", help="what cProfile saw, written at the end; it slows everything down")
    arguments = parser.parse_args()
    configure_logging("error", "text")
    run = serve_speech if arguments.kind == "speech" else serve_bare
    if arguments.profile:
        profile = cProfile.Profile()
        profile.runcall(trio.run, run)
        profile.dump_stats(arguments.profile)
    else:
        trio.run(run)


if __name__ == "__main__":
    main()
