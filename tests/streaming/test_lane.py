"""The lane lets through what is audio, and nothing else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tts_provider.errors import SynthesisFailed
from tts_provider.streaming.lane import LOUDEST, Encoded, Lane

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


async def test_encoded_audio_passes_where_it_was_asked_for() -> None:
    lane = Lane(24_000, 10.0, encoded=True)
    await lane.encoded(b"mp3", 0.5)
    assert await lane.take() == Encoded(b"mp3", 0.5)
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
