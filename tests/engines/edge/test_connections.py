"""Connections that are opened ahead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trio
import trio.testing

from tests.edge_service import EdgeService, Rule, Settings, speak
from tests.engines.edge.harness import engine_on, failure_of, happened, say
from tts_provider.engines.edge import Deadlines
from tts_provider.engines.edge.connections import MAX_IDLE_S, Connections
from tts_provider.engines.edge.dial import Address, Dialer
from tts_provider.engines.edge.mp3 import Mp3Decoder
from tts_provider.errors import EngineUnavailable

TEXT = "Already connected."
WHOLE = Mp3Decoder().decode(speak(TEXT).mp3, last=True)


async def ready(service: EdgeService, count: int) -> None:
    """Wait until so many connections are open, and the engine knows of them."""
    await happened(service, "opened", count)
    await trio.testing.wait_all_tasks_blocked(0.05)


async def test_by_default_none_is_opened_before_it_is_needed(service: EdgeService, tmp_path: Path) -> None:
    async with engine_on(service, tmp_path) as engine:
        await happened(service, "voices")
        assert service.journal.events("connected") == []
        await say(engine, TEXT)
    assert len(service.journal.events("connected")) == 1


async def test_each_turn_has_its_own_connection(service: EdgeService, tmp_path: Path) -> None:
    async with engine_on(service, tmp_path, preconnect=1) as engine:
        for _ in range(5):
            await say(engine, TEXT)
    turns = service.journal.events("turn")
    assert len({turn.connection for turn in turns}) == len(turns) == 5


async def test_a_connection_opened_ahead_spares_the_handshake(tmp_path: Path) -> None:
    with EdgeService(Settings(connect_delay_s=0.5)) as service:
        async with engine_on(service, tmp_path, preconnect=2) as engine:
            await ready(service, 2)
            started = trio.current_time()
            await say(engine, TEXT)
            assert trio.current_time() - started < 0.4
            await happened(service, "opened", 3)  # and another is opened in its place
        assert service.journal.stats().peak_connections <= 3


async def test_a_connection_that_the_service_closed_meanwhile_is_replaced(tmp_path: Path) -> None:
    with EdgeService(Settings(idle_close_s=0.1)) as service:
        async with engine_on(service, tmp_path, preconnect=1) as engine:
            await happened(service, "left", 2)
            service.settings.idle_close_s = None
            sink = await say(engine, TEXT)
            assert np.array_equal(sink.audio_samples, WHOLE)


@pytest.mark.parametrize("fault", ["drop_start", "close_start"])
async def test_a_connection_that_dies_when_it_is_used_does_not_count_as_a_try(
    service: EdgeService, tmp_path: Path, fault: str
) -> None:
    service.plan.add(Rule(fault, times=3))  # type: ignore[arg-type]
    async with engine_on(service, tmp_path, preconnect=1) as engine:
        await ready(service, 1)
        sink = await say(engine, TEXT)
    assert np.array_equal(sink.audio_samples, WHOLE)


async def test_refused_connections_ahead_leave_the_service_alone(service: EdgeService, tmp_path: Path) -> None:
    service.plan.add(Rule("forbidden"))
    async with engine_on(service, tmp_path, preconnect=3) as engine:
        await failure_of(engine, TEXT)
        asked = len(service.journal.events("connected"))
        assert asked <= 4, "two for the connection ahead, and two for the request, which came at the same time"
        assert isinstance(await failure_of(engine, TEXT), EngineUnavailable)
        assert len(service.journal.events("connected")) == asked


async def test_a_dead_connection_is_never_handed_out(service: EdgeService) -> None:
    service.settings.idle_close_s = 0.05
    service.plan.add(Rule("unavailable", skip=1))  # so that no other takes its place
    connections = Connections(Dialer(Address.parse(service.endpoint)), Deadlines(), ahead=2)
    async with trio.open_nursery() as nursery:
        await nursery.start(connections.run)
        await happened(service, "left", 2)
        await trio.sleep(0.1)
        assert connections.idle() is None
        nursery.cancel_scope.cancel()


async def test_an_old_connection_is_replaced_before_its_token_expires(
    service: EdgeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tts_provider.engines.edge.connections.MAX_IDLE_S", 0.2)
    connections = Connections(Dialer(Address.parse(service.endpoint)), Deadlines(), ahead=1)
    async with trio.open_nursery() as nursery:
        await nursery.start(connections.run)
        await happened(service, "opened", 3)
        await happened(service, "left", 2)
        nursery.cancel_scope.cancel()
    opened = [event.at for event in service.journal.events("opened")]
    assert opened[1] - opened[0] >= 0.2
    assert MAX_IDLE_S < 300
