"""An engine for tests over the real batching loop: tones from a worker thread, and faults of a device that a text chooses."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import trio

from tests.fake_engine import FakeEngine, chunk_audio
from tts_provider.engines.base import (
    Capabilities,
    ProgressReport,
    QueueReport,
    Samples,
    Session,
    Sink,
    SpeechChunk,
    SpeechOptions,
    VoiceChoice,
)
from tts_provider.engines.codec_lm import FinishReason, Join, Output, Scheduler, Slot
from tts_provider.engines.codec_lm.memory import no_memory
from tts_provider.errors import EngineUnavailable

__all__ = ["SlotEngine", "ToneModel"]

FRAME: Final = 1920
"""Samples in a frame: 80 ms."""


@dataclass
class ToneModel:
    """A `SlotModel`. A text with "oom" finds no memory when it joins, one with "full" in a frame, one with "cuda" breaks the
    device, one with "stuck" holds a step until `free` is set; each once."""

    slots: int = 2
    free: threading.Event = field(default_factory=threading.Event)
    loads: int = 0
    happened: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._rows: dict[int, Samples] = {}
        self._texts: dict[int, str] = {}

    def load(self, report: ProgressReport) -> None:
        self.loads += 1

    def unload(self) -> None:
        self._rows.clear()

    def step(self, joins: Sequence[Join[SpeechChunk]], leaves: Sequence[int], frames: int) -> Sequence[Output]:
        for slot in leaves:
            self._rows.pop(slot, None)
        refused = []
        for join in joins:
            if self._happens("oom", join.prompt.text):
                refused.append(no_memory(join.slot))
                continue
            self._rows[join.slot] = chunk_audio(join.prompt, 24_000)
            self._texts[join.slot] = join.prompt.text
        for slot in self._rows:
            if self._happens("full", self._texts[slot]):
                raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB.")
            if self._happens("cuda", self._texts[slot]):
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            if self._happens("stuck", self._texts[slot]):
                assert self.free.wait(30), "the test never let the step go on"
        return [*map(self._frame, list(self._rows)), *refused]

    def _frame(self, slot: int) -> Output:
        audio, self._rows[slot] = np.split(self._rows[slot], [FRAME])
        if self._rows[slot].size:
            return Output(slot, audio, 1)
        del self._rows[slot]
        return Output(slot, audio, 1, FinishReason.STOP)

    def _happens(self, fault: str, text: str) -> bool:
        if fault not in text or fault in self.happened:
            return False
        self.happened.add(fault)
        return True


@dataclass
class SlotEngine(FakeEngine):
    """Implements `Engine` as CSM and Zonos do."""

    name: str = "slots"
    capabilities: Capabilities = field(default_factory=lambda: Capabilities(sample_rate=24_000, slots=2))
    model: ToneModel = field(default_factory=ToneModel)

    _scheduler: Scheduler[SpeechChunk] | None = None

    async def run(self, report: ProgressReport, *, task_status: trio.TaskStatus[None]) -> None:
        self._scheduler = Scheduler(self.model)
        try:
            await self._scheduler.run(report, task_status=task_status)
        finally:
            self._scheduler = None

    @asynccontextmanager
    async def session(
        self, choice: VoiceChoice, options: SpeechOptions, queued: QueueReport | None = None
    ) -> AsyncIterator[Session]:
        if self._scheduler is None:
            raise EngineUnavailable("The slots are not loaded.")
        async with self._scheduler.slot(queued) as slot:
            yield _Session(slot)


class _Session:
    def __init__(self, slot: Slot[SpeechChunk]) -> None:
        self._slot = slot

    async def say(self, chunk: SpeechChunk, sink: Sink) -> None:
        async with self._slot.speak(chunk, max_frames=1000) as speech:
            async for block in speech:
                await sink.audio(block)
