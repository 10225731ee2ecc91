"""Slots are joined and left at frame boundaries, and nobody waits for anybody else."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests.engines.codec_lm.fake_model import FakeModel, Say
from tts_provider.engines.base import ProgressReport
from tts_provider.engines.codec_lm import FinishReason, Join, Output, Scheduler, Slot, Speech
from tts_provider.engines.codec_lm.memory import free_memory, is_out_of_memory, no_memory
from tts_provider.errors import EngineUnavailable, Overloaded, SynthesisFailed, SynthesisTimeout, TTSError


def ignore(share: float | None, doing: str) -> None:
    """A progress report that nobody reads."""


@asynccontextmanager
async def serving(
    model: FakeModel, *, queue_limit: int = 32, prefill_budget: int = 512, frames_per_step: int = 1
) -> AsyncIterator[Scheduler[Say]]:
    """A scheduler that runs while the block does, and no longer."""
    scheduler = Scheduler(model, queue_limit=queue_limit, prefill_budget=prefill_budget, frames_per_step=frames_per_step)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(scheduler.run, ignore)
            yield scheduler
            model.allow(10_000)  # a gated model must not keep its thread
            nursery.cancel_scope.cancel()


async def hear(slot: Slot[Say], prompt: Say, max_frames: int = 100, tokens: int = 0) -> list[float]:
    """All that the slot says."""
    async with slot.speak(prompt, max_frames=max_frames, tokens=tokens) as speech:
        return [float(sample) async for block in speech for sample in block]


async def until_idle(scheduler: Scheduler[Say]) -> None:
    """Wait until no slot is held or computed, and the model has been told."""
    while scheduler.statistics().held or scheduler.statistics().running:
        await trio.lowlevel.checkpoint()


async def test_a_speech_brings_all_frames_in_order_and_the_reason_for_its_end() -> None:
    async with serving(FakeModel()) as scheduler, scheduler.slot() as slot:
        async with slot.speak(Say(10, 5), max_frames=8) as speech:
            heard = [float(sample) async for block in speech for sample in block]
        assert heard == [10, 11, 12, 13, 14]
        assert (speech.finish, speech.frames) == (FinishReason.STOP, 5)


async def test_the_cap_ends_a_speech() -> None:
    async with serving(FakeModel()) as scheduler, scheduler.slot() as slot:
        async with slot.speak(Say(0, None), max_frames=4) as speech:
            heard = [float(sample) async for block in speech for sample in block]
        assert (heard, speech.finish) == ([0, 1, 2, 3], FinishReason.LENGTH)


async def test_a_model_that_ignores_the_cap_is_cut_off_and_the_slot_starts_anew() -> None:
    """The channel has room for the cap only: no model may make it block."""
    model = FakeModel(slots=1, honours_cap=False)
    async with serving(model) as scheduler, scheduler.slot() as slot:
        assert await hear(slot, Say(0, None), max_frames=3) == [0, 1, 2]
        assert slot.fresh
        assert await hear(slot, Say(50, 2)) == [50, 51]
        assert 0 in model.steps[-2].leaves + model.steps[-3].leaves


async def test_a_second_speech_in_the_slot_continues_the_first() -> None:
    async with serving(FakeModel()) as scheduler, scheduler.slot() as slot:
        fresh = [slot.fresh]
        assert await hear(slot, Say(10, 2)) == [10, 11]
        fresh.append(slot.fresh)
        assert await hear(slot, Say(99, 2)) == [12, 13]
    assert fresh == [True, False]


async def test_a_freed_slot_starts_fresh_for_the_next_request() -> None:
    async with serving(FakeModel(slots=1)) as scheduler:
        async with scheduler.slot() as slot:
            await hear(slot, Say(10, 2))
        async with scheduler.slot() as slot:
            assert await hear(slot, Say(70, 1)) == [70]


async def test_rows_run_side_by_side_and_join_while_others_run() -> None:
    model = FakeModel(slots=2, gated=True)
    heard: dict[str, list[float]] = {}

    async def request(name: str, prompt: Say) -> None:
        async with scheduler.slot() as slot:
            heard[name] = await hear(slot, prompt)

    async with serving(model) as scheduler, trio.open_nursery() as requests:
        requests.start_soon(request, "early", Say(0, 6))
        model.allow(2)
        while scheduler.statistics().frames < 2:
            await trio.lowlevel.checkpoint()
        requests.start_soon(request, "late", Say(100, 3))
        await trio.testing.wait_all_tasks_blocked()
        model.allow(20)
    assert heard == {"early": [0, 1, 2, 3, 4, 5], "late": [100, 101, 102]}
    assert any(step.running == (0, 1) for step in model.steps)
    assert model.overlaps == 0


async def test_several_frames_can_be_asked_of_one_step() -> None:
    model = FakeModel(slots=1)
    async with serving(model, frames_per_step=4) as scheduler, scheduler.slot() as slot:
        assert await hear(slot, Say(0, 10)) == [float(number) for number in range(10)]
        assert len([step for step in model.steps if step.running]) == 3


async def test_leaving_a_speech_early_stops_its_row_at_the_next_step() -> None:
    model = FakeModel(slots=1, gated=True)
    async with serving(model) as scheduler, scheduler.slot() as slot:
        async with slot.speak(Say(0, None), max_frames=50) as speech:
            model.allow(1)
            assert (await anext(speech))[0] == 0
        before = scheduler.statistics().frames
        model.allow(1)  # the step under way; no other may follow
        await trio.testing.wait_all_tasks_blocked()
        while not (model.steps[-1].leaves == (0,) and model.steps[-1].running == ()):
            await trio.lowlevel.checkpoint()
        assert scheduler.statistics().frames == before
        assert slot.fresh
        model.allow(5)
        assert await hear(slot, Say(30, 2)) == [30, 31]


async def test_a_speech_cancelled_before_its_first_step_never_reaches_the_model() -> None:
    model = FakeModel(slots=2, gated=True)
    async with serving(model) as scheduler, scheduler.slot() as busy, scheduler.slot() as slot:
        async with busy.speak(Say(0, 1), max_frames=5) as speech:
            while not model.steps:
                await trio.lowlevel.checkpoint()
            async with slot.speak(Say(10, 3), max_frames=5):
                pass
            model.allow(5)
            await anext(speech)
        assert await hear(busy, Say(0, 1)) == [1]  # a step after it
        assert all(join.slot == 0 for step in model.steps for join in step.joins)


async def test_a_slow_reader_holds_nobody_up_and_loses_nothing() -> None:
    async with (
        serving(FakeModel(slots=2)) as scheduler,
        scheduler.slot() as slow,
        scheduler.slot() as quick,
        slow.speak(Say(0, 200), max_frames=200) as speech,
    ):
        assert len(await hear(quick, Say(0, 200), max_frames=200)) == 200
        while speech.finish is None:
            await trio.lowlevel.checkpoint()
        assert [float(sample) async for block in speech for sample in block] == [float(number) for number in range(200)]


async def test_prefills_of_one_step_stay_within_the_budget_and_new_requests_go_first() -> None:
    model = FakeModel(slots=4, gated=True)

    async def request(slot: Slot[Say], tokens: int) -> None:
        await hear(slot, Say(0, 1), tokens=tokens)

    async with serving(model, prefill_budget=100) as scheduler:
        async with scheduler.slot() as a, scheduler.slot() as b, scheduler.slot() as c, scheduler.slot() as d:
            model.allow(1)
            await hear(b, Say(0, 1))
            async with trio.open_nursery() as requests:
                requests.start_soon(request, a, 10)
                while model.steps[-1].joins[0].slot != 0:
                    await trio.lowlevel.checkpoint()  # the thread is in a step: all that follows waits together
                requests.start_soon(request, b, 50)
                await trio.testing.wait_all_tasks_blocked()
                requests.start_soon(request, c, 300)
                await trio.testing.wait_all_tasks_blocked()
                requests.start_soon(request, d, 60)
                await trio.testing.wait_all_tasks_blocked()
                model.allow(50)
        joined = [[join.slot for join in step.joins] for step in model.steps if step.joins]
    assert joined == [[1], [0], [2], [3], [1]], "c is too long for any budget and goes alone; b continues, so it goes last"


async def test_waiting_requests_are_told_their_true_positions_and_served_in_order() -> None:
    told: dict[str, list[int]] = {"b": [], "c": [], "d": []}
    served: list[str] = []

    async def request(name: str, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            async with scheduler.slot(told[name].append):
                served.append(name)

    async with serving(FakeModel(slots=1)) as scheduler, trio.open_nursery() as requests, scheduler.slot():
        scopes = []
        for name in told:
            scopes.append(await requests.start(request, name))
            await trio.testing.wait_all_tasks_blocked()
        assert told == {"b": [1], "c": [2], "d": [3]}
        scopes[1].cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert told == {"b": [1], "c": [2], "d": [3, 2]}
    assert served == ["b", "d"]
    assert told["d"] == [3, 2, 1]


async def test_a_full_line_refuses_with_a_time_to_come_back() -> None:
    async with serving(FakeModel(slots=1), queue_limit=0) as scheduler, scheduler.slot():
        with pytest.raises(Overloaded, match="All 1 slots") as refused:
            async with scheduler.slot():
                pass
        assert refused.value.retry_after_ms is not None
        assert 500 <= refused.value.retry_after_ms <= 60_000


async def test_a_slot_taken_without_waiting_is_only_had_when_it_is_free() -> None:
    async with serving(FakeModel(slots=2)) as scheduler, scheduler.slot():
        async with scheduler.slot(wait=False) as extra:
            assert await hear(extra, Say(5, 1)) == [5]
            with pytest.raises(Overloaded):
                async with scheduler.slot(wait=False):
                    pass
        assert scheduler.statistics().held == 1


async def test_a_request_cancelled_as_its_slot_is_handed_over_gives_it_back() -> None:
    async with serving(FakeModel(slots=1)) as scheduler, trio.open_nursery() as requests:
        scope = trio.CancelScope()

        async def request() -> None:
            with scope:
                async with scheduler.slot():
                    pytest.fail("it was cancelled before it had the slot")

        async with scheduler.slot():
            requests.start_soon(request)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()  # it still stands in line when the slot is handed on
        await until_idle(scheduler)
        async with scheduler.slot() as slot:
            assert await hear(slot, Say(1, 1)) == [1]


async def test_a_failing_step_fails_all_who_speak_and_ends_the_run() -> None:
    def fail(number: int) -> None:
        if number == 3:
            raise RuntimeError("the device is gone")

    model = FakeModel(slots=2, on_step=fail)
    scheduler = Scheduler(model)

    async def request() -> None:
        async with scheduler.slot() as slot:
            with pytest.raises(SynthesisFailed, match="model failed"):
                await hear(slot, Say(0, None))
            with pytest.raises(SynthesisFailed):
                await hear(slot, Say(0, 1))

    with pytest.RaisesGroup(pytest.RaisesExc(EngineUnavailable, match="model failed")):
        async with trio.open_nursery() as nursery:
            await nursery.start(scheduler.run, ignore)
            async with trio.open_nursery() as requests:
                requests.start_soon(request)
                requests.start_soon(request)
    assert model.unloads == 1
    with pytest.raises(SynthesisFailed):
        async with scheduler.slot():
            pass


async def test_unloading_fails_those_who_speak_and_those_who_wait_and_frees_the_model() -> None:
    model = FakeModel(slots=1, gated=True)
    scheduler = Scheduler(model)
    failures: list[str] = []

    async def speak(*, task_status: trio.TaskStatus[Speech]) -> None:
        async with scheduler.slot() as slot, slot.speak(Say(0, None), max_frames=50) as speech:
            task_status.started(speech)
            with pytest.raises(EngineUnavailable, match="unloaded"):
                _ = [block async for block in speech]
            failures.append("speaking")

    async def wait() -> None:
        with pytest.raises(EngineUnavailable, match="unloaded"):
            async with scheduler.slot():
                pass
        failures.append("waiting")

    async with trio.open_nursery() as requests, trio.open_nursery() as nursery:
        await nursery.start(scheduler.run, ignore)
        await requests.start(speak)
        requests.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        model.allow(100)
    assert sorted(failures) == ["speaking", "waiting"]
    assert model.unloads == 1


async def test_loading_reports_from_any_thread() -> None:
    seen: list[tuple[float | None, str]] = []

    def load(report: ProgressReport) -> None:
        report(0.25, "here")
        helper = threading.Thread(target=report, args=(0.5, "elsewhere"))
        helper.start()
        helper.join()

    async with trio.open_nursery() as nursery:
        scheduler = Scheduler(FakeModel(on_load=load))
        await nursery.start(scheduler.run, lambda share, doing: seen.append((share, doing)))
        nursery.cancel_scope.cancel()
    assert seen == [(0.25, "here"), (0.5, "elsewhere")]


async def test_a_cancelled_load_stops_at_its_next_report_and_unloads() -> None:
    began, cancelled = threading.Event(), threading.Event()
    after: list[str] = []

    def load(report: ProgressReport) -> None:
        began.set()
        assert cancelled.wait(10)
        while True:
            try:
                report(0.1, "a file")
            except Exception:  # downloads survive what they can; they must not survive this
                after.append("survived")

    model = FakeModel(on_load=load)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Scheduler(model).run, ignore)
        while not began.is_set():
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
        cancelled.set()
    assert after == []
    assert model.unloads == 1


async def test_an_error_while_loading_is_told_as_unavailable_and_unloads() -> None:
    def load(report: ProgressReport) -> None:
        raise ValueError("a broken file in /some/folder")

    model = FakeModel(on_load=load)
    with pytest.raises(EngineUnavailable) as refused:
        await Scheduler(model).run(ignore)
    assert "/some/folder" not in refused.value.message
    assert model.unloads == 1


async def test_an_idle_scheduler_makes_no_steps() -> None:
    model = FakeModel()
    async with serving(model) as scheduler:
        async with scheduler.slot() as slot:
            await hear(slot, Say(0, 2))
        await until_idle(scheduler)
        await trio.testing.wait_all_tasks_blocked()
        made = len(model.steps)
        await trio.testing.wait_all_tasks_blocked()
        assert len(model.steps) == made


async def test_low_slots_are_used_first() -> None:
    async with serving(FakeModel(slots=3)) as scheduler, scheduler.slot() as first:
        async with scheduler.slot() as second:
            assert (first.index, second.index) == (0, 1)
        async with scheduler.slot() as again:
            assert again.index == 1


# --- Memory ---


async def test_memory_that_runs_out_in_a_step_fails_those_who_took_part_and_nobody_after_them() -> None:
    """The model is told to forget them all, for they were half-way in a frame."""

    def fail(number: int) -> None:
        if number == 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    model = FakeModel(slots=2, on_step=fail)
    async with serving(model) as scheduler:
        failures: list[Overloaded] = []

        async def request() -> None:
            async with scheduler.slot() as slot:
                with pytest.raises(Overloaded, match="no memory") as caught:
                    await hear(slot, Say(0, None))
                failures.append(caught.value)
                assert slot.fresh
                assert await hear(slot, Say(5, 3)) == [5, 6, 7]

        async with trio.open_nursery() as requests:
            requests.start_soon(request)
            requests.start_soon(request)
    assert len(failures) == 2
    assert all(failure.retryable and failure.retry_after_ms for failure in failures)
    assert model.steps[3].leaves == (0, 1)
    assert model.unloads == 1  # by the end of the test


async def test_the_first_words_of_a_request_are_kept_when_its_neighbour_finds_no_memory() -> None:
    """A model that says which prompt it could not take in loses nobody else."""

    class Tight(FakeModel):
        def step(self, joins: Sequence[Join[Say]], leaves: Sequence[int], frames: int) -> Sequence[Output]:
            fitting = [join for join in joins if join.prompt.first < 100]
            refused = [no_memory(join.slot) for join in joins if join.prompt.first >= 100]
            return [*super().step(fitting, leaves, frames), *refused]

    async with serving(Tight(slots=2)) as scheduler, scheduler.slot() as small, scheduler.slot() as large:
        async with small.speak(Say(0, 50), max_frames=100) as speech:
            heard = [float((await anext(speech))[0])]
            with pytest.raises(Overloaded):
                await hear(large, Say(100, 5))
            heard += [float(sample) async for block in speech for sample in block]
            assert await hear(large, Say(10, 2)) == [10, 11]
        assert heard == list(range(50))


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_memory_that_is_short_is_told_apart(error: Exception, short: bool) -> None:
    assert is_out_of_memory(error) is short


def test_torchs_own_error_is_one_of_them() -> None:
    torch = pytest.importorskip("torch")
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    free_memory()  # nothing happens without a GPU


# --- A step that is stuck ---


@asynccontextmanager
async def stuck_scheduler(slots: int = 2) -> AsyncIterator[tuple[FakeModel, Scheduler[Say]]]:
    """A scheduler whose first step is under way and will be called stuck at once."""
    model = FakeModel(slots=slots, gated=True)
    scheduler = Scheduler(model, stuck_s=0.01)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(scheduler.run, ignore)
            try:
                yield model, scheduler
            finally:
                model.allow(10_000)
            nursery.cancel_scope.cancel()


async def test_a_stuck_step_fails_who_speaks_and_who_waits_and_refuses_newcomers() -> None:
    failures: list[TTSError] = []

    async def wait(scheduler: Scheduler[Say]) -> None:
        with pytest.raises(EngineUnavailable, match="stuck") as caught:
            async with scheduler.slot():
                pass
        failures.append(caught.value)

    async with stuck_scheduler(slots=1) as (_, scheduler), trio.open_nursery() as nursery:
        async with scheduler.slot() as slot:
            nursery.start_soon(wait, scheduler)
            with pytest.raises(SynthesisTimeout, match="stuck") as caught:
                await hear(slot, Say(0, None))
            assert caught.value.everyone
            with pytest.raises(EngineUnavailable, match="stuck"):
                await hear(slot, Say(0, 1))
        await wait(scheduler)
        assert len(failures) == 2
        assert all(isinstance(error, EngineUnavailable) and error.everyone and error.retry_after_ms for error in failures)


async def test_a_stuck_step_that_comes_back_is_forgiven() -> None:
    """What it made is dropped, its rows are forgotten, and the model serves again."""
    async with stuck_scheduler(slots=1) as (model, scheduler):
        async with scheduler.slot() as slot:
            with pytest.raises(SynthesisTimeout):
                await hear(slot, Say(0, None))
        model.allow(10_000)
        while True:
            try:
                async with scheduler.slot() as slot:
                    assert await hear(slot, Say(7, 2)) == [7, 8]
                break
            except (EngineUnavailable, SynthesisTimeout):  # not back yet; or called stuck again on a busy machine
                await trio.sleep(0.001)
        assert any(0 in step.leaves for step in model.steps[1:])


async def test_a_server_ends_though_a_step_is_stuck() -> None:
    """The thread cannot be ended; it is left behind, and the model with it."""
    model = FakeModel(slots=1, gated=True)
    scheduler = Scheduler(model, stuck_s=0.01)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(scheduler.run, ignore)
            async with scheduler.slot() as slot:
                with pytest.raises(SynthesisTimeout):
                    await hear(slot, Say(0, None))
            nursery.cancel_scope.cancel()
    assert model.unloads == 0
    model.allow(1)
