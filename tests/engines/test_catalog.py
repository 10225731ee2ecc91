"""The catalog: engines by name, loaded once, unloaded when idle."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from tests.fake_engine import FakeEngine, entry
from tts_provider.engines.base import ProgressReport
from tts_provider.engines.catalog import Catalog, EngineState
from tts_provider.errors import EngineUnavailable, UnknownModel


async def started(nursery: trio.Nursery, *engines: FakeEngine, idle_unload_s: float = float("inf")) -> Catalog:
    catalog = Catalog([entry(engine) for engine in engines], default=engines[0].name, idle_unload_s=idle_unload_s)
    await nursery.start(catalog.run)
    return catalog


def test_names_and_aliases_are_found_in_any_capitals() -> None:
    catalog = Catalog([entry(FakeEngine(name="edge"), "edge-tts"), entry(FakeEngine(name="sesame"), "csm")], default="Edge")
    assert [catalog.find(name).name for name in ("EDGE", "edge-TTS", "CSM", None)] == ["edge", "edge", "sesame", "edge"]


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    catalog = Catalog([entry(FakeEngine(name="edge"), "edge-tts")], default="edge")
    with pytest.raises(UnknownModel, match="edge, edge-tts"):
        catalog.find("gpt")


def test_a_default_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UnknownModel):
        Catalog([entry(FakeEngine())], default="gpt")


async def test_many_users_load_an_engine_once(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    engine = FakeEngine(load_s=5)
    catalog = await started(nursery, engine)
    seen = []

    async def use() -> None:
        async with catalog.use("fake") as loaded:
            seen.append(loaded)

    async with trio.open_nursery() as users:
        for _ in range(10):
            users.start_soon(use)
    assert engine.loads == 1
    assert seen == [engine] * 10
    assert catalog.state("fake") is EngineState.READY


async def test_a_failed_load_is_told_to_everybody_and_tried_again(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    engine = FakeEngine(load_s=5, load_error=True)
    catalog = await started(nursery, engine)
    failures = []

    async def use() -> None:
        with pytest.raises(EngineUnavailable) as caught:
            await catalog.preload("fake")
        failures.append(caught.value.message)

    async with trio.open_nursery() as users:
        for _ in range(3):
            users.start_soon(use)
    assert failures == ["The fake engine was told not to load."] * 3
    assert catalog.detail("fake") == "The fake engine was told not to load."
    engine.load_error = False
    await catalog.preload("fake")
    assert (engine.loads, catalog.detail("fake")) == (2, None)


async def test_a_bug_in_loading_is_told_without_its_insides(nursery: trio.Nursery) -> None:
    class Broken(FakeEngine):
        async def run(self, report: ProgressReport, *, task_status: trio.TaskStatus[None]) -> None:
            raise ZeroDivisionError("/secret/path")

    catalog = await started(nursery, Broken())
    with pytest.raises(EngineUnavailable, match="could not be loaded") as caught:
        await catalog.preload("fake")
    assert "secret" not in caught.value.message


async def test_an_unavailable_engine_says_why(nursery: trio.Nursery) -> None:
    catalog = Catalog([entry(FakeEngine(), unavailable=lambda: "pip install it")], default="fake")
    await nursery.start(catalog.run)
    assert catalog.state("fake") is EngineState.UNAVAILABLE
    with pytest.raises(EngineUnavailable, match="pip install it") as caught:
        await catalog.preload("fake")
    assert caught.value.retryable is False


async def test_progress_and_places_are_told_while_loading(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """To each waiting client with its own place, and not at all when the load is quick."""
    catalog = await started(nursery, FakeEngine(load_s=8), FakeEngine(name="quick", load_s=0.1))
    told: dict[str, list[tuple[float | None, int]]] = {"a": [], "b": [], "quick": []}

    async def use(client: str, engine: str) -> None:
        async with catalog.use(engine, lambda progress, place: told[client].append((progress, place))):
            pass

    async with trio.open_nursery() as users:
        users.start_soon(use, "a", "fake")
        await trio.sleep(0.01)
        users.start_soon(use, "b", "fake")
        users.start_soon(use, "quick", "quick")
    assert {place for _, place in told["a"]} == {1}
    assert {place for _, place in told["b"]} == {2}
    assert told["a"][-1][0] == 0.75
    assert told["quick"] == []


async def test_an_idle_engine_is_unloaded_and_comes_back(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Not while somebody uses it, however long."""
    engine = FakeEngine()
    catalog = await started(nursery, engine, idle_unload_s=60)
    running = [engine.running]
    async with catalog.use("fake"):
        await trio.sleep(600)
        running.append(engine.running)
    for pause in (50, 80):
        await trio.sleep(pause)
        running.append(engine.running)
    assert running == [False, True, True, False]
    assert catalog.state("fake") is EngineState.UNLOADED
    await catalog.preload("fake")
    assert (engine.running, engine.loads) == (True, 2)


async def test_an_engine_that_dies_is_loaded_again_by_the_next_request(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    class Mortal(FakeEngine):
        async def run(self, report: ProgressReport, *, task_status: trio.TaskStatus[None]) -> None:
            self.loads += 1
            task_status.started()
            await trio.sleep(10)
            raise OSError("the GPU fell off")

    engine = Mortal()
    catalog = await started(nursery, engine)
    await catalog.preload("fake")
    await trio.sleep(20)
    assert catalog.state("fake") is EngineState.UNLOADED
    await catalog.preload("fake")
    assert engine.loads == 2


async def test_a_client_that_gives_up_leaves_the_load_to_the_others(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    engine = FakeEngine(load_s=10)
    catalog = await started(nursery, engine)
    with trio.move_on_after(2):
        await catalog.preload("fake")
    assert catalog.waiting() == 0
    await catalog.preload("fake")
    assert engine.loads == 1
