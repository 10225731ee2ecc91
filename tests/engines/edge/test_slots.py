"""The bound on turns under way."""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.testing

from tts_provider.engines.edge.slots import TurnSlots


async def test_no_more_than_the_total_are_under_way(autojump_clock: trio.testing.MockClock) -> None:
    slots = TurnSlots(3)
    under_way = peak = 0

    async def turn() -> None:
        nonlocal under_way, peak
        async with slots.slot(first=False, timeout_s=60):
            under_way += 1
            peak = max(peak, under_way)
            assert slots.taken <= 3
            await trio.sleep(1)
            under_way -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(turn)
    assert peak == 3
    assert slots.taken == 0
    assert trio.current_time() == pytest.approx(4)


async def test_first_turns_go_before_later_ones_and_each_kind_in_order(autojump_clock: trio.testing.MockClock) -> None:
    slots = TurnSlots(1)
    order: list[str] = []

    async def turn(name: str, *, first: bool) -> None:
        async with slots.slot(first=first, timeout_s=60):
            order.append(name)
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for name in ("running", "later 1", "later 2", "first 1", "first 2"):
            nursery.start_soon(partial(turn, name, first=name.startswith("first")))
            await trio.testing.wait_all_tasks_blocked()
        assert slots.waiting == 4
    assert order == ["running", "first 1", "first 2", "later 1", "later 2"]


async def test_who_waits_too_long_is_told(autojump_clock: trio.testing.MockClock) -> None:
    slots = TurnSlots(1)
    async with slots.slot(first=True, timeout_s=1):
        with pytest.raises(trio.TooSlowError):
            async with slots.slot(first=True, timeout_s=5):
                raise AssertionError("unreachable")
        assert trio.current_time() == pytest.approx(5)
        assert slots.waiting == 0
    assert slots.taken == 0


async def test_the_timeout_is_for_waiting_only(autojump_clock: trio.testing.MockClock) -> None:
    async with TurnSlots(1).slot(first=True, timeout_s=1):
        await trio.sleep(10)


async def test_a_cancelled_waiter_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    slots = TurnSlots(1)

    async def wait(scope: trio.CancelScope) -> None:
        with scope:
            async with slots.slot(first=False, timeout_s=60):
                raise AssertionError("unreachable")

    waiting, handed = trio.CancelScope(), trio.CancelScope()
    async with trio.open_nursery() as nursery, slots.slot(first=True, timeout_s=60):
        nursery.start_soon(wait, handed)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wait, waiting)
        await trio.testing.wait_all_tasks_blocked()
        waiting.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert slots.waiting == 1
        handed.cancel()  # it is handed the slot before it can tell that it has left
    assert slots.taken == 0
    assert slots.waiting == 0


async def test_a_failure_gives_the_slot_back() -> None:
    slots = TurnSlots(1)
    with pytest.raises(KeyError):
        async with slots.slot(first=True, timeout_s=1):
            raise KeyError
    assert slots.taken == 0


def test_there_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="at least one"):
        TurnSlots(0)
