"""The circuit breaker."""

from __future__ import annotations

import contextlib

import pytest
import trio
import trio.testing

from tts_provider.engines.edge.gate import Gate
from tts_provider.errors import EngineUnavailable, Overloaded

REFUSAL = EngineUnavailable("Go away.")


async def test_it_is_open_at_first_and_failures_alone_do_not_shut_it() -> None:
    gate = Gate()
    for _ in range(10):
        with pytest.raises(KeyError), gate.attempt():
            raise KeyError
    with gate.attempt():
        pass


async def test_shut_it_refuses_and_says_for_how_long(autojump_clock: trio.testing.MockClock) -> None:
    gate = Gate()
    gate.close(REFUSAL, 60)
    await trio.sleep(20)
    with pytest.raises(EngineUnavailable, match="Go away") as caught, gate.attempt():
        raise AssertionError("unreachable")
    assert caught.value.retry_after_ms == 40_000
    assert gate.shut


async def test_after_its_time_one_attempt_is_let_through(autojump_clock: trio.testing.MockClock) -> None:
    gate = Gate()
    gate.close(REFUSAL, 60)
    await trio.sleep(60)
    with gate.attempt(), pytest.raises(EngineUnavailable), gate.attempt():
        raise AssertionError("a second probe")
    with gate.attempt(), gate.attempt():
        assert not gate.shut, "the probe succeeded"


async def test_a_probe_that_fails_otherwise_lets_the_next_one_try(autojump_clock: trio.testing.MockClock) -> None:
    gate = Gate()
    gate.close(REFUSAL, 60)
    await trio.sleep(60)
    with pytest.raises(OSError, match="no network"), gate.attempt():
        raise OSError("no network")
    with gate.attempt(), pytest.raises(EngineUnavailable), gate.attempt():
        raise AssertionError("a second probe")


async def test_a_probe_that_is_refused_shuts_it_again(autojump_clock: trio.testing.MockClock) -> None:
    gate = Gate()
    gate.close(REFUSAL, 60)
    await trio.sleep(60)
    with contextlib.suppress(KeyError), gate.attempt():
        gate.close(Overloaded("Later."), 30)
        raise KeyError
    with pytest.raises(Overloaded), gate.attempt():
        raise AssertionError("unreachable")


async def test_an_attempt_from_before_does_not_open_it() -> None:
    gate = Gate()
    with gate.attempt():
        gate.close(REFUSAL, 60)
    assert gate.shut


async def test_no_refusal_lasts_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    gate = Gate()
    gate.close(REFUSAL, 1e9)
    await trio.sleep(300)
    with gate.attempt():
        pass
