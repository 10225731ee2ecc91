"""One after another, in order, and nobody is forgotten."""

from __future__ import annotations

import time

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tts_provider.turnstile import ROUND_S, Turnstile

CROWD = 20


class Rounds(trio.abc.Instrument):
    """Counts the rounds of the event loop."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


async def test_a_crowd_goes_through_in_order_one_in_a_round(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    rounds, turnstile, passed = Rounds(), Turnstile(), list[tuple[int, int]]()
    trio.lowlevel.add_instrument(rounds)

    async def go(number: int) -> None:
        await turnstile.pass_through()
        passed.append((number, rounds.count))

    for number in range(CROWD):
        nursery.start_soon(go, number)
        await trio.lowlevel.checkpoint()
    await wait_all_tasks_blocked()
    assert [number for number, _ in passed] == list(range(CROWD))
    assert len({round for _, round in passed}) == CROWD


async def test_who_comes_alone_waits_one_round() -> None:
    rounds, turnstile = Rounds(), Turnstile()
    trio.lowlevel.add_instrument(rounds)
    await turnstile.pass_through()
    await turnstile.pass_through()
    assert rounds.count == 2


async def test_long_rounds_let_more_through(nursery: trio.Nursery) -> None:
    """While the event loop is busy with something else, a crowd does not wait a round of that for each of its members."""
    rounds, turnstile, left = Rounds(), Turnstile(), CROWD
    ended = trio.Event()

    async def go() -> None:
        nonlocal left
        await turnstile.pass_through()
        left -= 1
        if not left:
            ended.set()

    for _ in range(CROWD):
        nursery.start_soon(go)
    trio.lowlevel.add_instrument(rounds)
    while not ended.is_set():
        until = time.perf_counter() + 5 * ROUND_S
        while time.perf_counter() < until:
            pass
        await trio.lowlevel.checkpoint()
    assert rounds.count < CROWD


@pytest.mark.parametrize("attempt", range(10))
async def test_who_gives_up_is_not_waited_for(attempt: int, autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Also not who gives up in the moment in which he is let in. Trio draws lots for who is first, hence the attempts."""
    turnstile, passed = Turnstile(), list[int]()
    scopes = [trio.CancelScope() for _ in range(CROWD)]

    async def go(number: int) -> None:
        with scopes[number]:
            await turnstile.pass_through()
            passed.append(number)

    for number in range(CROWD):
        nursery.start_soon(go, number)
    await trio.lowlevel.checkpoint()
    for number in range(0, CROWD, 2):
        scopes[number].cancel()
    await wait_all_tasks_blocked()
    assert set(range(1, CROWD, 2)) <= set(passed)
    with trio.fail_after(1):
        await turnstile.pass_through()
