"""Leaving: the service's connection is closed at once, whatever it was doing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.edge_service import EdgeService, Rule, Settings
from tests.edge_service.journal import Kind
from tests.engines.edge.harness import RecordingSink, engine_on, happened, running, say
from tts_provider.engines.edge import EdgeEngine
from tts_provider.errors import TTSError

TEXT = "This goes on for quite a while, so that there is time enough to leave."
PROMPT_S = 0.1
"""From the cancel to the closed connection, as the service sees it."""


@pytest.fixture
def slow() -> Iterator[EdgeService]:
    with EdgeService(Settings(pace=1.0)) as service:
        yield service


@pytest.mark.parametrize(
    ("rule", "settings", "moment"),
    [
        pytest.param(Rule("stall_handshake"), Settings(), "fault", id="during the handshake"),
        pytest.param(Rule("hang_start"), Settings(), "fault", id="before the first audio"),
        pytest.param(Rule("slow", delay_s=5.0), Settings(), "fault", id="while the first audio is slow"),
        pytest.param(Rule("hang_mid", after=0.1), Settings(), "fault", id="while the service stalls"),
        pytest.param(None, Settings(pace=1.0), "turn", id="in the middle"),
    ],
)
async def test_a_cancelled_request_closes_its_connection_at_once(
    tmp_path: Path, rule: Rule | None, settings: Settings, moment: Kind
) -> None:
    with EdgeService(settings) as service:
        if rule is not None:
            service.plan.add(rule)
        async with engine_on(service, tmp_path) as engine:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(say, engine, TEXT)
                await happened(service, moment)
                await trio.sleep(0.02)
                cancelled_at = time.monotonic()
                nursery.cancel_scope.cancel()
            assert time.monotonic() - cancelled_at < PROMPT_S
            [left] = await happened(service, "left")
            assert left.at - cancelled_at < PROMPT_S


async def test_fifty_at_once_leave_at_once(slow: EdgeService, tmp_path: Path) -> None:
    async with engine_on(slow, tmp_path) as engine:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(say, engine, TEXT)
            await happened(slow, "turn", 50)
            cancelled_at = time.monotonic()
            nursery.cancel_scope.cancel()
        left = await happened(slow, "left", 50)
        assert max(event.at for event in left) - cancelled_at < 3 * PROMPT_S
        assert slow.journal.open_connections == 0
        slow.settings.pace = None
        assert (await say(engine, "And the engine lives.")).seconds > 1


async def test_who_waits_for_a_place_can_leave(slow: EdgeService, tmp_path: Path) -> None:
    async with engine_on(slow, tmp_path, max_turns=1) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(say, engine, TEXT)
        await happened(slow, "turn")
        with trio.move_on_after(0.05) as scope:
            await say(engine, "Never said.")
        assert scope.cancelled_caught
        nursery.cancel_scope.cancel()
    assert len(slow.journal.events("turn")) == 1


async def test_a_listener_who_pauses_can_leave(service: EdgeService, tmp_path: Path) -> None:
    sink = RecordingSink(gate=trio.Event())
    async with engine_on(service, tmp_path) as engine:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say, engine, TEXT, sink)
            await sink.first_block.wait()
            nursery.cancel_scope.cancel()
        assert len(sink.blocks) == 1


class BrokenSink(RecordingSink):
    """A listener whose connection breaks."""

    async def _pass(self) -> None:
        raise trio.BrokenResourceError


async def test_a_listener_who_breaks_ends_the_turn_with_his_own_error(slow: EdgeService, tmp_path: Path) -> None:
    async with engine_on(slow, tmp_path) as engine:
        with pytest.raises(trio.BrokenResourceError):
            await say(engine, TEXT, BrokenSink())
        broken_at = time.monotonic()
        [left] = await happened(slow, "left")
        assert left.at - broken_at < PROMPT_S


async def test_stopping_the_engine_ends_its_turns_with_an_error_and_closes_everything(
    slow: EdgeService, tmp_path: Path
) -> None:
    engine = EdgeEngine(endpoint=slow.endpoint, cache_dir=tmp_path, preconnect=2)
    failures: list[TTSError] = []

    async def speak() -> None:
        try:
            await say(engine, TEXT)
        except TTSError as error:
            failures.append(error)

    async with trio.open_nursery() as nursery:
        async with running(engine):
            await happened(slow, "opened", 2)
            nursery.start_soon(speak)
            await happened(slow, "turn")
        await happened(slow, "left", len(slow.journal.events("opened")))
    assert len(failures) == 1
    assert slow.journal.open_connections == 0


async def test_a_finished_turn_says_goodbye(service: EdgeService, tmp_path: Path) -> None:
    async with engine_on(service, tmp_path) as engine:
        await say(engine, "Done.")
        await happened(service, "left")
        assert service.journal.open_connections == 0
