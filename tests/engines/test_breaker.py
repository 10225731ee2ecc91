"""The circuit breaker opens for what is the engine's fault, and for nothing else."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from tts_provider.engines.breaker import (
    CRASHES,
    FAILURES_IN_A_ROW,
    FIRST_COOL_DOWN_S,
    MAX_COOL_DOWN_S,
    WINDOW_S,
    Breaker,
)
from tts_provider.errors import (
    EngineUnavailable,
    NoAudio,
    Overloaded,
    SynthesisFailed,
    SynthesisTimeout,
    TTSError,
    UnknownSpeaker,
)

FAULT = SynthesisFailed("It failed.")


def fail(breaker: Breaker, times: int, text: str | None = None, error: TTSError = FAULT) -> None:
    """So many failures, each of a text of its own unless `text` is given."""
    for number in range(times):
        breaker.failed(error, f"Text {number}." if text is None else text)


async def test_failures_of_different_texts_open_it_and_a_client_is_told_when_to_come_back() -> None:
    breaker = Breaker("fake")
    fail(breaker, FAILURES_IN_A_ROW - 1)
    breaker.check()
    breaker.failed(NoAudio("Nothing."), "One more.")
    with pytest.raises(EngineUnavailable, match="'fake' keeps failing") as caught:
        breaker.check()
    assert caught.value.retryable
    assert caught.value.retry_after_ms == pytest.approx(1000 * FIRST_COOL_DOWN_S, abs=500)
    assert breaker.open


async def test_one_text_that_keeps_failing_does_not_open_it() -> None:
    """It may be the text; a client that tries it again and again takes the engine from nobody."""
    breaker = Breaker("fake")
    fail(breaker, 100, "A bad text.")
    assert not breaker.open


async def test_one_text_that_was_spoken_before_does() -> None:
    """Then it is not the text: a check that says the same each time still finds an engine that is down."""
    breaker = Breaker("fake")
    breaker.succeeded("The check.")
    fail(breaker, FAILURES_IN_A_ROW, "The check.")
    assert breaker.open


async def test_a_success_between_breaks_the_row() -> None:
    breaker = Breaker("fake")
    for _ in range(2):
        fail(breaker, FAILURES_IN_A_ROW - 1)
        breaker.succeeded("Fine.")
    assert not breaker.open


async def test_half_of_many_requests_open_it_though_others_succeed() -> None:
    breaker = Breaker("fake")
    for number in range(5):
        breaker.succeeded("Fine.")
        assert not breaker.open
        breaker.failed(FAULT, f"Text {number}.")
    assert breaker.open


async def test_a_few_of_many_requests_do_not() -> None:
    breaker = Breaker("fake")
    for number in range(40):
        breaker.succeeded("Fine.")
        if number % 2:
            breaker.failed(FAULT, f"Text {number}.")
    assert not breaker.open


async def test_failures_of_long_ago_do_not_count(autojump_clock: MockClock) -> None:
    breaker = Breaker("fake")
    for _ in range(3):
        fail(breaker, FAILURES_IN_A_ROW - 1)
        await trio.sleep(WINDOW_S + 1)
    assert not breaker.open


@pytest.mark.parametrize(
    "error",
    [
        UnknownSpeaker("There is no such speaker."),
        Overloaded("Full."),
        SynthesisFailed("The text crashed it.", retryable=False),
        EngineUnavailable("Not installed.", retryable=False),
    ],
)
async def test_what_says_nothing_of_the_engine_does_not_count(error: TTSError) -> None:
    breaker = Breaker("fake")
    fail(breaker, 100, error=error)
    assert not breaker.open


async def test_a_client_that_leaves_does_not_count() -> None:
    breaker = Breaker("fake")
    for number in range(100):
        breaker.failed(ConnectionResetError(), f"Text {number}.")
    assert not breaker.open


async def test_an_engine_that_can_serve_nobody_opens_it_at_once() -> None:
    breaker = Breaker("fake")
    breaker.failed(SynthesisTimeout("The model is stuck.", everyone=True), "")
    assert breaker.open
    assert breaker.reason == "The model is stuck."


async def test_failures_before_any_text_count_each() -> None:
    """No session could be had, or the engine could not be loaded."""
    breaker = Breaker("fake")
    fail(breaker, FAILURES_IN_A_ROW, "")
    assert breaker.open


async def test_crashes_one_after_the_other_open_it(autojump_clock: MockClock) -> None:
    breaker = Breaker("fake")
    for _ in range(CRASHES + 1):
        breaker.crashed(FAULT)
        await trio.sleep(40)
    assert not breaker.open
    for _ in range(CRASHES - 1):
        breaker.crashed(FAULT)
    assert breaker.open


async def test_probes_that_fail_come_ever_more_seldom(autojump_clock: MockClock) -> None:
    breaker = Breaker("fake")
    breaker.trip(FAULT)
    waits = []
    for _ in range(6):
        assert breaker.due is not None
        waits.append(breaker.due - trio.current_time())
        await trio.sleep_until(breaker.due)
        breaker.probe_failed(FAULT)
    assert waits == pytest.approx([5, 10, 20, 40, MAX_COOL_DOWN_S, MAX_COOL_DOWN_S])


async def test_one_that_opens_again_at_once_is_left_alone_for_longer(autojump_clock: MockClock) -> None:
    breaker = Breaker("fake")
    breaker.trip(FAULT)
    breaker.close()
    breaker.check()
    await trio.sleep(1)
    breaker.trip(FAULT)
    assert breaker.due == pytest.approx(trio.current_time() + 2 * FIRST_COOL_DOWN_S)
    breaker.close()
    await trio.sleep(WINDOW_S + 1)
    breaker.trip(FAULT)
    assert breaker.due == pytest.approx(trio.current_time() + FIRST_COOL_DOWN_S)


async def test_what_was_under_way_when_it_opened_changes_nothing() -> None:
    breaker = Breaker("fake")
    breaker.trip(FAULT)
    due = breaker.due
    fail(breaker, 10)
    breaker.succeeded("A late one.")
    assert (breaker.open, breaker.due) == (True, due)
