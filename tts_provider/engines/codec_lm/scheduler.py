"""One task that steps a model in a thread and deals the audio out to those who asked for it.

    idle ──▶ joins and leaves collected ──▶ model.step in the thread ──▶ outputs dealt out ──▶ (again, while any row runs)

* The step never waits for a listener: each speech has a channel with room for all its frames, so dealing out never blocks. A
  slow reader costs memory up to its cap on frames, nobody's time.
* Leaving a speech early takes effect at the next step; what the step under way still makes for it is dropped.
* One thread per device: the limiter holds one token and no step is ever abandoned, so a cancelled `run` waits for one step.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import trio

from tts_provider.engines.base import ProgressReport, QueueReport, Samples
from tts_provider.engines.codec_lm.admission import SlotPool
from tts_provider.engines.codec_lm.loading import load_in_thread
from tts_provider.engines.codec_lm.model import FinishReason, Join, Output, SlotModel
from tts_provider.errors import EngineUnavailable, SynthesisFailed, TTSError

__all__ = ["DEFAULT_PREFILL_BUDGET", "DEFAULT_QUEUE_LIMIT", "Scheduler", "SchedulerStatistics", "Slot", "Speech"]

logger = logging.getLogger(__name__)

PromptT = TypeVar("PromptT")

MakeError = Callable[[], TTSError]
"""A new error each time: an exception raised in two tasks would carry both their tracebacks."""

DEFAULT_QUEUE_LIMIT: Final = 32
"""Requests that may wait for a slot. At 8 slots and some seconds each, the last in line waits about 20 s."""
DEFAULT_PREFILL_BUDGET: Final = 512
"""Positions prefilled in one step, so that joins cost the rows that are running a few ms at most."""


@dataclass(frozen=True, slots=True)
class SchedulerStatistics:
    """A snapshot for metrics."""

    slots: int
    held: int
    """Slots that a request holds, speaking or between two sentences."""
    running: int
    """Slots that the next step computes, those about to join included."""
    waiting: int
    """Requests in line."""
    steps: int
    """Calls of the model's step since it was loaded."""
    frames: int
    """Frames dealt out since it was loaded; times the frame's length, over the time spent, this is the speed."""


class Speech:
    """What one prompt becomes: blocks of audio in order (iterate over it), and the reason for its end."""

    def __init__(self, max_frames: int) -> None:
        self.max_frames: Final = max_frames
        self.frames = 0
        """Frames computed so far, those not yet read included."""
        self.finish: FinishReason | None = None
        """Why it ended; None while it goes on."""
        self._error: TTSError | None = None
        # One block a frame at most, and one more that finishes: dealing out never blocks.
        self._send, self._receive = trio.open_memory_channel[Samples](max_frames + 1)

    def __aiter__(self) -> Speech:
        return self

    async def __anext__(self) -> Samples:
        """The next block: float32 mono, any length above 0.

        Raises:
            SynthesisFailed, EngineUnavailable: the model failed or was unloaded before the end.
        """
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            if self._error is not None:
                raise self._error from None
            raise StopAsyncIteration from None

    def _deal(self, output: Output) -> None:
        self.frames += output.frames
        if output.audio.size:
            self._send.send_nowait(output.audio)
        if output.finish is not None:
            self._end(output.finish)

    def _end(self, finish: FinishReason) -> None:
        self.finish = finish
        self._send.close()

    def _fail(self, error: TTSError) -> None:
        self._error = error
        self._send.close()

    def _close(self) -> None:
        self._send.close()
        self._receive.close()


class Slot(Generic[PromptT]):
    """A row of the model, held by one request. Made by `Scheduler.slot`."""

    def __init__(self, scheduler: Scheduler[PromptT], index: int) -> None:
        self._scheduler = scheduler
        self.index: Final = index

    @property
    def fresh(self) -> bool:
        """Whether the next `speak` starts from nothing: there was none yet, or the last one was cut off."""
        return self.index not in self._scheduler._kept

    @asynccontextmanager
    async def speak(self, prompt: PromptT, *, max_frames: int, tokens: int = 0) -> AsyncIterator[Speech]:
        """Speak `prompt`, after what this slot has said before; one at a time.

        Leaving the block before the speech's end stops the row at the next frame boundary and forgets its context.

        Args:
            prompt: what the model's `Join.prompt` shall be.
            max_frames: the longest that it may get; also what a slow reader may cost in memory.
            tokens: positions to prefill, counted against the scheduler's `prefill_budget`.
        """
        scheduler = self._scheduler
        speech = Speech(max_frames)
        scheduler._enter(Join(self.index, prompt, max_frames, self.fresh), tokens, speech)
        try:
            yield speech
        finally:
            scheduler._cut(self.index, speech)
            speech._close()


@dataclass(slots=True)
class _Entry(Generic[PromptT]):
    """A join that waits for the next step."""

    join: Join[PromptT]
    tokens: int
    speech: Speech


class Scheduler(Generic[PromptT]):
    """Serves one loaded model: make one for each `Engine.run`."""

    def __init__(
        self,
        model: SlotModel[PromptT],
        *,
        queue_limit: int = DEFAULT_QUEUE_LIMIT,
        prefill_budget: int = DEFAULT_PREFILL_BUDGET,
        frames_per_step: int = 1,
    ) -> None:
        """
        Args:
            model: not loaded yet.
            queue_limit: requests that may wait for a slot; more are refused.
            prefill_budget: positions prefilled in one step; a single longer prompt is let through alone.
            frames_per_step: frames asked of one `SlotModel.step`. A round trip to the thread costs 0.1 ms: 1 suits frames of
                several ms; a model with frames near 1 ms asks for 4 to 8, and joins and cancels wait that long.
        """
        self._model = model
        self._pool = SlotPool(model.slots, queue_limit)
        self._prefill_budget = prefill_budget
        self._frames_per_step = frames_per_step
        self._limiter = trio.CapacityLimiter(1)
        self._entries: list[_Entry[PromptT]] = []
        self._leaves: set[int] = set()
        self._kept: set[int] = set()
        """Slots whose last speech was finished by the model and may be continued."""
        self._running: dict[int, Speech] = {}
        self._work = trio.Event()
        self._steps = 0
        self._frames = 0
        self._closed: MakeError | None = None

    async def run(self, report: ProgressReport, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load the model, say so through `task_status`, step it while anybody speaks; unload when cancelled.

        Raises:
            EngineUnavailable: it could not be loaded, or a step failed. Those who were speaking got `SynthesisFailed`.
        """
        try:
            await self._load(report)
            task_status.started()
            await self._serve()
        finally:
            self._close(lambda: EngineUnavailable("The engine was unloaded before the speech was complete. Try again."))
            with trio.CancelScope(shield=True):  # bounded by the model: freeing memory takes well under a second
                await trio.to_thread.run_sync(self._model.unload, limiter=self._limiter)

    @asynccontextmanager
    async def slot(self, queued: QueueReport | None = None, *, wait: bool = True) -> AsyncIterator[Slot[PromptT]]:
        """Hold a slot, waiting in line for it; the first in line is served first.

        Args:
            queued: told the position in line, at once when there is a line and at each change.
            wait: False takes a slot only if one is free, for work beside what the request already holds.

        Raises:
            Overloaded: the line is full, with `retry_after_ms`; or `wait` is false and no slot is free.
            EngineUnavailable: the model was unloaded.
        """
        index = await self._pool.acquire(queued, wait=wait)
        try:
            yield Slot(self, index)
        finally:
            self._forget(index)
            self._pool.release(index)

    def statistics(self) -> SchedulerStatistics:
        """What is going on now."""
        return SchedulerStatistics(
            slots=self._model.slots,
            held=self._model.slots - self._pool.free,
            running=len(self._running) + len(self._entries),
            waiting=self._pool.waiting,
            steps=self._steps,
            frames=self._frames,
        )

    async def _load(self, report: ProgressReport) -> None:
        try:
            await load_in_thread(self._model.load, report, limiter=self._limiter)
        except TTSError:
            raise
        except Exception as error:
            logger.exception("The model could not be loaded")
            raise EngineUnavailable("The model could not be loaded; the server's log tells why.") from error

    async def _serve(self) -> None:
        while True:
            if not (self._entries or self._leaves or self._running):
                self._work = trio.Event()
                await self._work.wait()
            # The order matters: a slot that changed hands is in both.
            leaves = sorted(self._leaves)
            self._leaves.clear()
            joins = self._take_joins()
            taking_part = dict(self._running)
            try:
                outputs = await trio.to_thread.run_sync(
                    self._model.step, joins, leaves, self._frames_per_step, limiter=self._limiter
                )
            except Exception as error:
                logger.exception("A step of the model failed")
                self._close(lambda: SynthesisFailed("The model failed while it was speaking; the server's log tells why."))
                raise EngineUnavailable("The model failed and was unloaded; the server's log tells why.") from error
            self._steps += 1
            self._deal(outputs, taking_part)

    def _take_joins(self) -> Sequence[Join[PromptT]]:
        """Those who enter now: new requests first, as many as the prefill budget allows and at least one."""
        self._entries.sort(key=lambda entry: not entry.join.fresh)  # stable: otherwise in the order of asking
        joins: list[Join[PromptT]] = []
        budget = self._prefill_budget
        while self._entries and (not joins or self._entries[0].tokens <= budget):
            entry = self._entries.pop(0)
            budget -= entry.tokens
            joins.append(entry.join)
            self._running[entry.join.slot] = entry.speech
        return joins

    def _deal(self, outputs: Sequence[Output], taking_part: dict[int, Speech]) -> None:
        for output in outputs:
            speech = taking_part[output.slot]
            if self._running.get(output.slot) is not speech:
                continue  # cut off while the step was under way
            self._frames += output.frames
            speech._deal(output)
            if speech.finish is None and speech.frames >= speech.max_frames:
                speech._end(FinishReason.LENGTH)  # the model should have; the channel has no room for more
                self._forget(output.slot)
            elif speech.finish is not None:
                del self._running[output.slot]
                self._kept.add(output.slot)

    def _enter(self, join: Join[PromptT], tokens: int, speech: Speech) -> None:
        if self._closed is not None:
            raise self._closed()
        self._entries.append(_Entry(join, tokens, speech))
        self._work.set()

    def _cut(self, slot: int, speech: Speech) -> None:
        """Stop `speech` if it has not ended: it waits to enter, or runs."""
        self._entries = [entry for entry in self._entries if entry.speech is not speech]
        if self._running.get(slot) is speech:
            self._forget(slot)

    def _forget(self, slot: int) -> None:
        """Let the model drop the slot at the next frame boundary."""
        self._running.pop(slot, None)
        self._kept.discard(slot)
        self._leaves.add(slot)
        self._work.set()

    def _close(self, error: MakeError) -> None:
        """Fail all who speak or wait; the first error counts."""
        if self._closed is not None:
            return
        self._closed = error
        for speech in [*self._running.values(), *(entry.speech for entry in self._entries)]:
            speech._fail(error())
        self._running.clear()
        self._entries.clear()
        self._pool.close(error)
