"""The lane lets through what is audio, and nothing else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tts_provider.errors import SynthesisFailed
from tts_provider.streaming.events import AudioFrame, Event
from tts_provider.streaming.lane import LOUDEST, Encoded, Lane, LaneItem, Rendered

GOOD = np.linspace(-1, 1, 240, dtype=np.float32)


@pytest.mark.parametrize("loudest", [1.0, 1.5, LOUDEST])
async def test_audio_passes_as_it_is_and_clipped_where_it_is_too_loud(loudest: float) -> None:
    lane = Lane(24_000, 10.0)
    pushed = GOOD * np.float32(loudest)
    await lane.audio(pushed)
    lane.close()
    item = await lane.take()
    assert isinstance(item, np.ndarray)
    assert np.array_equal(item, np.clip(pushed, -1.0, 1.0))
    assert pushed[-1] == loudest, "the engine's own array is left alone"
    assert lane.pushed_s == 0.01


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, LOUDEST * 1.01, -LOUDEST * 1.01, 32767.0])
@pytest.mark.parametrize("place", [0, 120, 239])
async def test_one_value_that_is_no_sample_is_found_wherever_it_is(bad: float, place: int) -> None:
    samples = GOOD.copy()
    samples[place] = bad
    lane = Lane(24_000, 10.0)
    with pytest.raises(SynthesisFailed, match="no samples"):
        await lane.audio(samples)


@pytest.mark.parametrize(
    "audio",
    [GOOD.astype(np.float64), GOOD.astype(np.int16), GOOD.reshape(2, 120), GOOD.tobytes(), list(GOOD), None, b"\x00" * 3],
)
async def test_what_is_not_mono_float32_is_refused(audio: Any) -> None:
    with pytest.raises(SynthesisFailed, match="mono float32"):
        await Lane(24_000, 10.0).audio(audio)


async def test_what_comes_while_the_listener_waits_is_heard_where_it_is_pushed(nursery: trio.Nursery) -> None:
    """What cannot be delivered so is taken, in its place."""
    lane = Lane(24_000, 10.0)
    heard: list[object] = []
    taken: list[object] = []
    left: list[Event] = []

    def hear(item: LaneItem) -> list[Event]:
        heard.append(item)
        return left

    async def take() -> None:
        while (item := await lane.take()) is not None:
            taken.append(item)
            await trio.lowlevel.checkpoint()

    await lane.audio(GOOD)
    lane.play(hear)
    nursery.start_soon(take)
    await wait_all_tasks_blocked()
    assert (len(taken), len(heard)) == (1, 0), "it was there before"
    await lane.audio(GOOD)
    await lane.audio(GOOD)
    assert (len(taken), len(heard)) == (1, 2)
    left.append(AudioFrame(b"rest"))
    await lane.audio(GOOD)
    await lane.audio(GOOD)
    assert (len(taken), len(heard)) == (1, 3), "what comes behind the rest waits"
    lane.close()
    await wait_all_tasks_blocked()
    assert len(heard) == 3
    assert [type(item) for item in taken] == [np.ndarray, Rendered, np.ndarray]
    assert lane.seconds == pytest.approx(0.0)
    assert lane.pushed_s == pytest.approx(0.05)


async def test_a_cancelled_engine_is_not_heard(nursery: trio.Nursery) -> None:
    lane = Lane(24_000, 10.0)
    heard: list[object] = []
    lane.play(lambda item: heard.append(item) or [])  # type: ignore[func-returns-value]
    nursery.start_soon(lane.take)
    await wait_all_tasks_blocked()
    with trio.CancelScope() as scope:
        scope.cancel()
        await lane.audio(GOOD)
    assert scope.cancelled_caught
    assert heard == []
    nursery.cancel_scope.cancel()


async def test_encoded_audio_passes_where_it_was_asked_for() -> None:
    lane = Lane(24_000, 10.0, encoded=True)
    await lane.encoded(b"mp3", 0.2)
    assert await lane.take() == Encoded(b"mp3", 0.2)
    with pytest.raises(SynthesisFailed):
        await lane.audio(GOOD)


async def test_encoded_audio_is_refused_elsewhere() -> None:
    """It would be noise among samples."""
    with pytest.raises(SynthesisFailed, match="nobody asked"):
        await Lane(24_000, 10.0).encoded(b"mp3", 0.5)


@pytest.mark.parametrize(("data", "seconds"), [("mp3", 0.5), (b"mp3", math.nan), (b"mp3", -1.0), (b"mp3", math.inf)])
async def test_encoded_audio_of_no_length_is_refused(data: Any, seconds: float) -> None:
    with pytest.raises(SynthesisFailed):
        await Lane(24_000, 10.0, encoded=True).encoded(data, seconds)
