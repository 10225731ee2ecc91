"""A model that speaks numbers: each frame of a row is one sample, so a test can read what was made, when and for whom."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tts_provider.engines.base import ProgressReport
from tts_provider.engines.codec_lm import FinishReason, Join, Output

__all__ = ["FakeModel", "Say"]


@dataclass(frozen=True, slots=True)
class Say:
    """A prompt: frames ``first``, ``first + 1``, ... (``count`` of them); None never ends by itself."""

    first: int
    count: int | None


@dataclass(slots=True)
class _Row:
    next: int
    left: int | None
    until_cap: int


@dataclass(slots=True)
class Step:
    """What one call of `FakeModel.step` was asked for."""

    joins: tuple[Join[Say], ...]
    leaves: tuple[int, ...]
    running: tuple[int, ...]
    """Slots that were computed."""


@dataclass
class FakeModel:
    """A real `SlotModel` without a network in it."""

    slots: int = 2
    gated: bool = False
    """True: each step with a running row waits for one `allow`."""
    honours_cap: bool = True
    on_load: Callable[[ProgressReport], None] = lambda report: report(1.0, "ready")
    on_step: Callable[[int], None] = lambda number: None
    """Called with the step's number, in the worker thread; may raise."""
    steps: list[Step] = field(default_factory=list)
    unloads: int = 0
    overlaps: int = 0
    """How often two calls ran at once; stays 0."""

    def __post_init__(self) -> None:
        self._rows: dict[int, _Row] = {}
        self.kept: dict[int, int] = {}
        """Slot → the last number that its request heard, for continuing."""
        self._allowed = threading.Semaphore(0)
        self._busy = threading.Lock()

    def allow(self, steps: int = 1) -> None:
        """Let a gated model make `steps` steps."""
        self._allowed.release(steps)

    def load(self, report: ProgressReport) -> None:
        self.on_load(report)

    def unload(self) -> None:
        self.unloads += 1

    def step(self, joins: Sequence[Join[Say]], leaves: Sequence[int], frames: int) -> Sequence[Output]:
        if not self._busy.acquire(blocking=False):
            self.overlaps += 1
            return []
        try:
            return self._step(joins, leaves, frames)
        finally:
            self._busy.release()

    def _step(self, joins: Sequence[Join[Say]], leaves: Sequence[int], frames: int) -> Sequence[Output]:
        for slot in leaves:
            self._rows.pop(slot, None)
            self.kept.pop(slot, None)
        for join in joins:
            assert join.slot not in self._rows, "a row is joined only when it is not running"
            assert join.fresh == (join.slot not in self.kept), "fresh says whether the row goes on"
            first = join.prompt.first if join.fresh else self.kept.pop(join.slot) + 1
            self._rows[join.slot] = _Row(first, join.prompt.count, join.max_frames)
        self.steps.append(Step(tuple(joins), tuple(leaves), tuple(sorted(self._rows))))
        if self._rows and self.gated:
            assert self._allowed.acquire(timeout=10), "the test never allowed the step"
        self.on_step(len(self.steps))
        return [self._frames(slot, row, frames) for slot, row in sorted(self._rows.items())]

    def _frames(self, slot: int, row: _Row, frames: int) -> Output:
        count = frames if row.left is None else min(frames, row.left)
        if self.honours_cap:
            count = min(count, row.until_cap)
        audio = np.arange(row.next, row.next + count, dtype=np.float32)
        row.next += count
        row.until_cap -= count
        if row.left is not None:
            row.left -= count
        finish = None
        if row.left == 0:
            finish = FinishReason.STOP
        elif self.honours_cap and row.until_cap == 0:
            finish = FinishReason.LENGTH
        if finish is not None:
            del self._rows[slot]
            self.kept[slot] = row.next - 1
        return Output(slot, audio, count, finish)
