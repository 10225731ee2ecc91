"""Places, the line before them, and what is turned away; without sockets, on a clock that jumps."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.fake_engine import FakeEngine
from tts_provider.engines.base import Capabilities, SpeechOptions, VoiceRequest
from tts_provider.errors import Overloaded
from tts_provider.server.admission import MIN_QUEUE, RETRY_RANGE_MS, TELL_PERIOD_S, Admission
from tts_provider.server.admitted import AdmittedEngine
from tts_provider.settings import Settings


def engine_with(slots: int | None) -> FakeEngine:
    return FakeEngine(capabilities=Capabilities(sample_rate=24_000, slots=slots))


def admission_with(**changes: Any) -> Admission:
    return Admission(Settings(**changes))


@dataclass
class Request:
    """One that asks for a place, holds it for `hold_s`, and tells how it went."""

    client: Hashable
    hold_s: float = 1.0
    positions: list[int] = field(default_factory=list)
    error: Overloaded | None = None
    asked_at: float = 0.0
    placed_at: float | None = None
    ended: bool = False
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def run(self, admission: Admission, engine: FakeEngine) -> None:
        self.asked_at = trio.current_time()
        with self.scope:
            try:
                async with admission.place(engine, self.client, self.positions.append):
                    self.placed_at = trio.current_time()
                    await trio.sleep(self.hold_s)
            except Overloaded as error:
                self.error = error
        self.ended = True

    @property
    def waits(self) -> bool:
        return not self.ended and self.placed_at is None


@dataclass
class Office:
    """An admission with its task, one engine, and requests that come one after the other."""

    nursery: trio.Nursery
    admission: Admission
    engine: FakeEngine
    requests: list[Request] = field(default_factory=list)

    async def ask(self, client: Hashable, hold_s: float = 1.0) -> Request:
        request = Request(client, hold_s)
        self.requests.append(request)
        self.nursery.start_soon(request.run, self.admission, self.engine)
        await wait_all_tasks_blocked()
        return request

    @property
    def used(self) -> int:
        return self.admission.occupancy("fake").used

    @property
    def waiting(self) -> int:
        return self.admission.occupancy("fake").waiting


async def open_office(nursery: trio.Nursery, slots: int | None, **changes: Any) -> Office:
    office = Office(nursery, admission_with(**changes), engine_with(slots))
    nursery.start_soon(office.admission.run)
    await wait_all_tasks_blocked()
    return office


# --- Places ---


async def test_places_are_the_engines_slots(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    office = await open_office(nursery, 2)
    first, second, third = [await office.ask(client) for client in "abc"]
    assert (office.used, office.waiting) == (2, 1)
    assert (first.positions, second.positions, third.positions) == ([], [], [1])
    await trio.sleep(1.5)
    assert third.placed_at == first.asked_at + 1
    await trio.sleep(1)
    assert (office.used, office.waiting) == (0, 0)


async def test_an_engine_without_slots_has_as_many_places_as_the_server_keeps_in_time(nursery: trio.Nursery) -> None:
    office = await open_office(nursery, None, max_active=3)
    for client in range(4):
        await office.ask(client)
    assert (office.admission.total(office.engine), office.used, office.waiting) == (3, 3, 1)
    assert admission_with().total(office.engine) == 500


async def test_each_engine_has_its_own_line(nursery: trio.Nursery) -> None:
    office = await open_office(nursery, 1)
    other = FakeEngine(name="other", capabilities=Capabilities(sample_rate=24_000, slots=1))
    await office.ask("a")
    await office.ask("a")
    async with office.admission.place(other, "a"):
        assert office.admission.occupancy("other").used == 1
    assert office.admission.waiting() == 1


async def test_a_place_is_given_back_however_the_request_ends(nursery: trio.Nursery) -> None:
    office = await open_office(nursery, 1)
    with pytest.raises(ZeroDivisionError):
        async with office.admission.place(office.engine, "a"):
            raise ZeroDivisionError
    request = await office.ask("a", hold_s=1000)
    assert office.used == 1
    request.scope.cancel()
    await wait_all_tasks_blocked()
    assert office.used == 0


async def test_a_session_of_the_engine_is_open_only_with_a_place(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """However many ask, the engine never has more sessions than slots."""
    engine, admission = engine_with(2), admission_with()
    most = 0

    async def use(client: int) -> None:
        nonlocal most
        admitted = AdmittedEngine(engine, admission, client)
        assert (admitted.name, admitted.capabilities, admitted.voices()) == (engine.name, engine.capabilities, engine.voices())
        choice = admitted.resolve(VoiceRequest())
        async with admitted.session(choice, SpeechOptions()):
            most = max(most, engine.sessions)
            await trio.sleep(1)

    async with trio.open_nursery() as users:
        for client in range(7):
            users.start_soon(use, client)
    assert (most, engine.sessions, len(engine.options)) == (2, 0, 7)


# --- The line ---


async def test_one_client_with_many_requests_does_not_starve_another(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Eight of one and two of another take turns; the second client does not wait for the first one's eight."""
    office = await open_office(nursery, 1, queue_s=100, queue_per_slot=20)
    greedy = [await office.ask("greedy") for _ in range(9)]
    modest = [await office.ask("modest") for _ in range(2)]
    assert [request.positions for request in modest] == [[2], [4]]
    await trio.sleep(20)
    order = sorted((request for request in office.requests), key=lambda request: request.placed_at or 0)
    assert [order.index(request) for request in modest] == [2, 4]
    assert [order.index(request) for request in greedy] == [0, 1, 3, 5, 6, 7, 8, 9, 10]


async def test_positions_are_told_again_when_they_change(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """When a place is given, when somebody leaves, and when one comes whose turn is sooner."""
    office = await open_office(nursery, 1)
    await office.ask("a", hold_s=5)
    first, second, third = [await office.ask("a", hold_s=5) for _ in range(3)]
    assert [request.positions for request in (first, second, third)] == [[1], [2], [3]]
    await trio.sleep(2 * TELL_PERIOD_S)
    other = await office.ask("b", hold_s=5)
    await trio.sleep(2 * TELL_PERIOD_S)
    assert [request.positions for request in (first, other, second, third)] == [[1], [2], [2, 3], [3, 4]]
    first.scope.cancel()
    await trio.sleep(2 * TELL_PERIOD_S)
    assert [request.positions[-1] for request in (second, other, third)] == [1, 2, 3]
    await trio.sleep(5)
    assert second.placed_at is not None
    assert (other.positions[-1], third.positions[-1]) == (1, 2)


async def test_positions_that_change_fast_are_told_now_and_then(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    office = await open_office(nursery, 1, queue_per_slot=100)
    await office.ask("a", hold_s=0.01)
    requests = [await office.ask("a", hold_s=0.01) for _ in range(60)]
    await trio.sleep(2)
    assert all(request.placed_at for request in requests)
    assert 2 <= len(requests[-1].positions) <= 5
    assert requests[-1].positions == sorted(requests[-1].positions, reverse=True)


async def test_one_that_is_cancelled_leaves_the_line_at_once(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    office = await open_office(nursery, 1)
    await office.ask("a", hold_s=5)
    first, second = await office.ask("b"), await office.ask("c")
    first.scope.cancel()
    await wait_all_tasks_blocked()
    assert (office.used, office.waiting) == (1, 1)
    await trio.sleep(7)
    assert first.placed_at is None
    assert second.placed_at == second.asked_at + 5


async def test_a_place_given_to_one_that_is_cancelled_in_that_instant_goes_on(nursery: trio.Nursery) -> None:
    office = await open_office(nursery, 1)
    holder, first, second = [await office.ask(client, hold_s=1000) for client in "abc"]
    holder.scope.cancel()
    first.scope.cancel()  # both run in one turn of the loop: the place is handed to one that is gone
    await wait_all_tasks_blocked()
    assert first.placed_at is None
    assert second.placed_at is not None
    assert (office.used, office.waiting) == (1, 0)


# --- Turning away ---


@pytest.mark.parametrize(("slots", "per_slot", "limit"), [(1, 4, MIN_QUEUE), (4, 4, 16), (3, 5, 15), (2, 0, 0)])
async def test_a_full_line_turns_away_at_once(nursery: trio.Nursery, slots: int, per_slot: int, limit: int) -> None:
    office = await open_office(nursery, slots, queue_per_slot=per_slot)
    for client in range(slots + limit):
        await office.ask(client)
    assert (office.used, office.waiting) == (slots, limit)
    refused = await office.ask("late")
    assert refused.ended
    assert refused.error is not None
    assert (refused.error.code, refused.error.retryable, refused.positions) == ("overloaded", True, [])
    assert office.admission.occupancy("fake").shed == {"full": 1}


async def test_nobody_waits_when_waiting_is_off(nursery: trio.Nursery) -> None:
    office = await open_office(nursery, 1, queue_s=0)
    await office.ask("a")
    assert (await office.ask("b")).error is not None


async def test_a_wait_that_would_be_too_long_is_refused_early(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """From how long places were held: at 6 s each and two places, the fourth in line would wait 12 s."""
    office = await open_office(nursery, 2, queue_s=10)
    for client in "ab":
        await office.ask(client, hold_s=6)
    await trio.sleep(7)
    waiting = [await office.ask(client, hold_s=6) for client in range(5)]
    refused = await office.ask("late")
    assert [request.error for request in waiting] == [None] * 5
    assert refused.error is not None
    assert refused.error.retry_after_ms == 12_000
    assert office.admission.occupancy("fake").shed == {"slow": 1}


async def test_the_estimate_follows_the_last_requests(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A long reading does not turn clients away for ever."""
    office = await open_office(nursery, 1, queue_s=10)
    await office.ask("a", hold_s=300)
    await trio.sleep(301)
    await office.ask("a", hold_s=1)
    assert (await office.ask("b")).error is not None
    for _ in range(20):
        await trio.sleep(1.5)
        await office.ask("a", hold_s=1)
    assert (await office.ask("b")).waits


async def test_without_figures_nobody_is_refused_early(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    office = await open_office(nursery, 1, queue_s=1)
    for client in range(1 + MIN_QUEUE):
        await office.ask(client, hold_s=1000)
    assert office.waiting == MIN_QUEUE


async def test_who_waited_long_enough_is_told_to_come_back(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    office = await open_office(nursery, 1, queue_s=10)
    await office.ask("a", hold_s=1000)
    first = await office.ask("b")
    await trio.sleep(9)
    second = await office.ask("c")
    await trio.sleep(1.1)
    assert first.error is not None
    assert second.waits
    assert second.positions == [2, 1]
    assert office.admission.occupancy("fake").shed == {"waited": 1}


async def test_a_full_line_makes_room_for_a_client_that_has_none_in_it(nursery: trio.Nursery) -> None:
    """By turning away the last of the client with the most, so that no connection can take the whole line for itself."""
    office = await open_office(nursery, 1)
    greedy = [await office.ask("greedy", hold_s=1000) for _ in range(1 + MIN_QUEUE)]
    modest = await office.ask("modest")
    assert (modest.waits, modest.positions, office.waiting) == (True, [2], MIN_QUEUE)
    assert [request for request in greedy if request.error] == greedy[-1:]
    assert (await office.ask("greedy")).error is not None
    assert office.admission.occupancy("fake").shed == {"displaced": 1, "full": 1}


async def test_retry_after_stays_within_reason(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    office = await open_office(nursery, 1, queue_per_slot=0)
    low, high = RETRY_RANGE_MS
    await office.ask("a", hold_s=0.001)
    await trio.sleep(1)
    await office.ask("a", hold_s=80_000)
    assert (error := (await office.ask("b")).error) is not None
    assert error.retry_after_ms == low
    await trio.sleep(80_000)
    await office.ask("a", hold_s=1)
    assert (error := (await office.ask("b")).error) is not None
    assert error.retry_after_ms == high


async def test_whether_a_newcomer_would_be_turned_away(nursery: trio.Nursery) -> None:
    """Not by a line that one client fills: a newcomer is let into that."""
    office = await open_office(nursery, 1)
    assert office.admission.turns_away("fake") is None
    for _ in range(1 + MIN_QUEUE):
        await office.ask("greedy")
    assert office.admission.turns_away("fake") is None
    for client in range(MIN_QUEUE):
        await office.ask(client)
    wait_s = office.admission.turns_away("fake")
    assert wait_s is not None
    assert wait_s > 0


# --- Whatever happens ---

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from("abc"), st.integers(1, 12)),
        st.tuples(st.just("cancel"), st.integers(0, 50), st.just(0)),
        st.tuples(st.just("wait"), st.integers(1, 4), st.just(0)),
    ),
    max_size=40,
)


@hypothesis_settings(deadline=None, max_examples=150)
@given(STEPS, st.integers(1, 3), st.integers(1, 6))
def test_positions_have_no_gaps_and_places_no_more_than_slots(
    steps: list[tuple[str, Any, int]], slots: int, per_slot: int
) -> None:
    """Whoever comes, leaves, waits too long or is turned away. Everything happens at whole seconds, and is checked between."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            office = await open_office(nursery, slots, queue_per_slot=per_slot)
            for step, value, hold_s in steps:
                if step == "ask":
                    await office.ask(value, hold_s)
                elif step == "cancel" and office.requests:
                    office.requests[value % len(office.requests)].scope.cancel()
                elif step == "wait":
                    await trio.sleep(value)
                await wait_all_tasks_blocked()
                assert office.used <= slots
                await trio.sleep(0.5)
                line = [request for request in office.requests if request.waits]
                speaking = [request for request in office.requests if request.placed_at is not None and not request.ended]
                assert sorted(request.positions[-1] for request in line) == list(range(1, len(line) + 1))
                assert (office.waiting, office.used) == (len(line), len(speaking))
                assert len(line) <= max(MIN_QUEUE, slots * per_slot)
                assert len(speaking) == slots or not line
                await trio.sleep(0.5)
            await trio.sleep(1000)
            assert all(request.ended for request in office.requests)
            assert (office.used, office.waiting) == (0, 0)
            waits = [request.placed_at - request.asked_at for request in office.requests if request.placed_at is not None]
            assert all(wait_s <= 10 for wait_s in waits)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))
