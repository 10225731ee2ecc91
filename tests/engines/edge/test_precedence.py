"""Where many speak at once, those who have not been heard go first."""

from __future__ import annotations

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tts_provider.engines.edge.precedence import Precedence
from tts_provider.engines.edge.turn import Turn

CROWD = 20


async def test_one_that_was_not_heard_waits_for_no_crowd(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    precedence, hurried, worked = Precedence(), Turn(), list[str]()

    async def work() -> None:
        turn = Turn()
        for _ in range(5):
            await precedence.give_way(turn)
            worked.append("other")

    async def hurry() -> None:
        for _ in range(5):
            await precedence.give_way(hurried)
            worked.append("hurried")

    with precedence.first(hurried):
        for _ in range(CROWD):
            nursery.start_soon(work)
        nursery.start_soon(hurry)
        await wait_all_tasks_blocked()
    assert len(worked) == 5 * CROWD + 5
    assert "hurried" not in worked[CROWD:], "it was through before each of the others had worked once"


async def test_nobody_gives_way_when_all_have_been_heard() -> None:
    """Not even for a moment: the next task's turn comes only where this one waits for something."""
    precedence, turn = Precedence(), Turn()
    passed = []

    async def other() -> None:
        passed.append("other")

    async with trio.open_nursery() as nursery:
        with precedence.first(turn):
            precedence.heard(turn)
            nursery.start_soon(other)
            await precedence.give_way(Turn())
            passed.append("this")
    assert passed == ["this", "other"]
