"""One task that steps a model in a thread and deals the audio out to those who asked for it.

    idle ──▶ joins and leaves collected ──▶ model.step in the thread ──▶ outputs dealt out ──▶ (again, while any row runs)

* The step never waits for a listener: each speech has a channel with room for all its frames, so dealing out never blocks. A
  slow reader costs memory up to its cap on frames, nobody's time.
* Leaving a speech early takes effect at the next step; what the step under way still makes for it is dropped.
* One thread per device: the limiter holds one token and no step is abandoned, so a cancelled `run` waits for one step.
* A thread cannot be ended. A step that takes far too long is *stuck*: all who speak or wait fail, and nobody is let in until it
  comes back, if it does. Only a stuck step is abandoned, when `run` is cancelled: a server must be able to end.
* A step that runs out of memory fails those whose step it was, and nobody after them.
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
from tts_provider.engines.codec_lm.memory import free_memory, is_out_of_memory, no_memory, shed
from tts_provider.engines.codec_lm.model import FinishReason, Join, Output, SlotModel
from tts_provider.errors import EngineUnavailable, SynthesisFailed, SynthesisTimeout, TTSError

__all__ = ["DEFAULT_PREFILL_BUDGET", "DEFAULT_QUEUE_LIMIT", "STUCK_S", "Scheduler", "SchedulerStatistics", "Slot", "Speech"]

logger = logging.getLogger(__name__)

PromptT = TypeVar("PromptT")

MakeError = Callable[[], TTSError]
"""A new error each time: an exception raised in two tasks would carry both their tracebacks."""

DEFAULT_QUEUE_LIMIT: Final = 32
"""Requests that may wait for a slot. At 8 slots and some seconds each, the last in line waits about 20 s."""
DEFAULT_PREFILL_BUDGET: Final = 512
"""Positions prefilled in one step, so that joins cost the rows that are running a few ms at most."""

STUCK_S: Final = 15.0
"""A step that takes longer will hardly come back. On a GPU it takes 10 to 100 ms, on a slow CPU some seconds; listeners give up
after 20 s without audio."""
STUCK_RETRY_MS: Final = 5_000
"""What a request is told that comes meanwhile."""


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
            SynthesisTimeout: the model is stuck.
            Overloaded: memory ran out.
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
        stuck_s: float = STUCK_S,
    ) -> None:
        """
        Args:
            model: not loaded yet.
            queue_limit: requests that may wait for a slot; more are refused.
            prefill_budget: positions prefilled in one step; a single longer prompt is let through alone.
            frames_per_step: frames asked of one `SlotModel.step`. A round trip to the thread costs 0.1 ms: 1 suits frames of
                several ms; a model with frames near 1 ms asks for 4 to 8, and joins and cancels wait that long.
            stuck_s: how long a step may take before nobody waits for it any more.
        """
        self._model = model
        self._pool = SlotPool(model.slots, queue_limit)
        self._prefill_budget = prefill_budget
        self._frames_per_step = frames_per_step
        self._stuck_s = stuck_s
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
        self._stepping = trio.Event()
        """Set while a step is under way."""
        self._step_began = 0.0
        self._shield = trio.CancelScope(shield=True)
        """Round the step under way."""
        self._stuck = False
        self._came_back = trio.Event()
        """Set when a stuck step has come back."""

    async def run(self, report: ProgressReport, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load the model, say so through `task_status`, step it while anybody speaks; unload when cancelled.

        Raises:
            EngineUnavailable: it could not be loaded, or a step failed. Those who were speaking got `SynthesisFailed`.
        """
        try:
            await self._load(report)
            task_status.started()
            await self._serve_watched()
        finally:
            self._close(lambda: EngineUnavailable("The engine was unloaded before the speech was complete. Try again."))
            if self._stuck:  # its thread still holds the model, and the limiter's token
                logger.error("The model was left behind in a step that does not end")
            else:
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

    async def _serve_watched(self) -> None:
        failure: EngineUnavailable | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            try:
                await self._serve()
            except EngineUnavailable as error:  # raised below, where no group is wrapped around it
                failure = error
            nursery.cancel_scope.cancel(reason="the model failed")
        if failure is not None:
            raise failure

    async def _watch(self) -> None:
        """Declare a step stuck that takes longer than `stuck_s`."""
        while True:
            await self._stepping.wait()
            began = self._step_began
            await trio.sleep_until(began + self._stuck_s)
            if self._stepping.is_set() and self._step_began == began:
                logger.error("A step of the model has not come back for %g s: nobody is let in until it does", self._stuck_s)
                self._stuck = True
                self._shield.shield = False
                self._fail_all(lambda: SynthesisTimeout("The model is stuck and makes no audio.", everyone=True))
                self._pool.close(_stuck)
                await self._came_back.wait()

    async def _step(self, joins: Sequence[Join[PromptT]], leaves: Sequence[int]) -> Sequence[Output]:
        """Have the model make a step in its thread."""
        await trio.lowlevel.checkpoint_if_cancelled()  # the shield hides it
        self._step_began = trio.current_time()
        self._stepping.set()
        try:
            with trio.CancelScope(shield=True) as self._shield:
                outputs = await trio.to_thread.run_sync(
                    self._model.step,
                    joins,
                    leaves,
                    self._frames_per_step,
                    abandon_on_cancel=True,  # which the shield lets happen only when it is stuck
                    limiter=self._limiter,
                )
        except Exception:
            self._come_back()
            raise
        self._come_back()
        return outputs

    def _come_back(self) -> None:
        self._stepping = trio.Event()
        if self._stuck:
            logger.warning("The step came back after %.0f s", trio.current_time() - self._step_began)
            self._stuck = False
            self._pool.reopen()
            self._came_back.set()
            self._came_back = trio.Event()

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
                outputs = await self._step(joins, leaves)
            except Exception as error:
                if not is_out_of_memory(error):
                    logger.exception("A step of the model failed")
                    self._close(lambda: SynthesisFailed("The model failed while it was speaking; the server's log tells why."))
                    raise EngineUnavailable("The model failed and was unloaded; the server's log tells why.") from error
                logger.warning("Memory ran out in a step of %d rows: %s", len(taking_part), error)
                # Who took what is not known, and the rows are half-way in a frame.
                outputs = [no_memory(slot) for slot in taking_part]
                self._leaves.update(leaves)
            self._steps += 1
            self._deal(outputs, taking_part)
            if any(output.finish is FinishReason.MEMORY for output in outputs):
                await trio.to_thread.run_sync(free_memory, limiter=self._limiter)

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
            if output.finish is FinishReason.MEMORY:
                speech._fail(shed())
                self._forget(output.slot)
                continue
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
        if self._stuck:
            raise _stuck()
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
        self._fail_all(error)
        self._pool.close(error)

    def _fail_all(self, error: MakeError) -> None:
        """Fail all who speak."""
        for speech in [*self._running.values(), *(entry.speech for entry in self._entries)]:
            speech._fail(error())
        for slot in list(self._running):
            self._forget(slot)
        self._entries.clear()


def _stuck() -> EngineUnavailable:
    return EngineUnavailable(
        "The model is stuck; it is used again when it comes back.", retry_after_ms=STUCK_RETRY_MS, everyone=True
    )
