"""The streaming DAC decoder against transformers' decoding of whole clips."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engines.zonos.models import tiny_dac, tiny_dac_double, torch
from tts_provider.engines.base import Samples
from tts_provider.engines.zonos.dac import Push, StreamingDac
from tts_provider.errors import EngineUnavailable

LAG = 4757
Frames = list[list[int]]


def frames_of(count: int, seed: int) -> Frames:
    """Random codes."""
    codes: Frames = np.random.RandomState(seed).randint(0, 1024, size=(count, 9)).tolist()
    return codes


def whole(frames: Frames, *, double: bool = True) -> Samples:
    """What transformers makes of a clip."""
    dac = tiny_dac_double() if double else tiny_dac()
    with torch.inference_mode():
        audio: Samples = dac.decode(audio_codes=torch.tensor(frames).T[None]).audio_values[0].numpy()
    return audio


def streamed(dac: StreamingDac, frames: Frames, sizes: Sequence[int], slot: int = 0) -> Samples:
    """The same clip in pushes of `sizes`, the rest in the last one."""
    dac.reset(slot)
    blocks, at = [], 0
    with torch.inference_mode():
        for size in sizes:
            blocks += dac.push([Push(slot, frames[at : at + size])])
            at += size
        blocks += dac.push([Push(slot, frames[at:], last=True)])
    return np.concatenate(blocks)


@settings(max_examples=12, deadline=None)
@given(count=st.integers(1, 40), sizes=st.lists(st.integers(1, 12), max_size=6), seed=st.integers(0, 9))
def test_any_chunking_equals_the_whole_clip(count: int, sizes: list[int], seed: int) -> None:
    """However a clip is cut, its samples are the same as decoded at once."""
    frames = frames_of(count, seed)
    expected = whole(frames)
    actual = streamed(StreamingDac(tiny_dac_double(), 1), frames, [size for size in sizes if size <= count])
    assert actual.shape == expected.shape == (512 * count,)
    np.testing.assert_allclose(actual, expected, atol=1e-12)


@pytest.mark.parametrize("count", range(1, 13))
def test_a_short_clip_equals_itself_decoded_at_once(count: int) -> None:
    """Clips shorter than the decoder's reach have both edges in every layer."""
    frames = frames_of(count, 3)
    expected = whole(frames)
    np.testing.assert_allclose(streamed(StreamingDac(tiny_dac_double(), 1), frames, [1] * (count - 1)), expected, atol=1e-12)


def test_single_precision_differs_by_its_rounding_alone() -> None:
    """In fp32, as the engine runs it, 200 frames differ by at most 1e-5 of the peak."""
    frames = frames_of(200, 4)
    expected = whole(frames, double=False)
    actual = streamed(StreamingDac(tiny_dac(), 1), frames, [14, 8, 16, 24, 24, 24])
    assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()


def test_the_lag_is_the_same_for_every_push() -> None:
    """After n frames, 512 n - 4757 samples are out, never fewer."""
    dac = StreamingDac(tiny_dac_double(), 1)
    assert dac.lag == LAG
    out = 0
    with torch.inference_mode():
        for count in range(1, 30):
            out += dac.push([Push(0, frames_of(1, count))])[0].size
            assert out == max(512 * count - LAG, 0)


def test_slots_in_one_batch_do_not_touch_each_other() -> None:
    """Clips at different places, one beginning and one ending, decoded side by side, each equal themselves alone."""
    clips = [frames_of(count, count) for count in (30, 26, 9)]
    dac = StreamingDac(tiny_dac_double(), 3)
    blocks: list[list[Samples]] = [[], [], []]

    def push(*pushes: Push) -> None:
        for item, samples in zip(pushes, dac.push(pushes), strict=True):
            blocks[item.slot].append(samples)

    with torch.inference_mode():
        push(Push(0, clips[0][:14]))
        push(Push(0, clips[0][14:22]), Push(1, clips[1][:8]))
        push(Push(0, clips[0][22:], last=True), Push(1, clips[1][8:16]), Push(2, clips[2][:8]))
        push(Push(1, clips[1][16:], last=True), Push(2, clips[2][8:], last=True))
    for clip, parts in zip(clips, blocks, strict=True):
        expected = whole(clip)
        np.testing.assert_allclose(np.concatenate(parts), expected, atol=1e-12)


def test_a_slot_that_is_reset_remembers_nothing() -> None:
    """A clip after a broken-off one equals the clip alone, NaN in the memories included."""
    dac = StreamingDac(tiny_dac_double(), 1)
    with torch.inference_mode():
        dac.push([Push(0, frames_of(20, 1))])
        for memory in dac._memories:
            memory._tail.fill_(torch.nan)
    frames = frames_of(15, 2)
    expected = whole(frames)
    np.testing.assert_allclose(streamed(dac, frames, [7]), expected, atol=1e-12)


def test_memory_does_not_grow_with_the_clip() -> None:
    """Tails have a fixed size."""
    dac = StreamingDac(tiny_dac_double(), 1)

    def held() -> int:
        return sum(memory._tail.numel() for memory in dac._memories)

    before = held()
    with torch.inference_mode():
        for _ in range(20):
            dac.push([Push(0, frames_of(8, 1))])
    assert held() == before


def test_a_decoder_of_another_build_is_refused() -> None:
    """A layer that is not the one expected is told at load, not heard."""
    dac = tiny_dac()
    conv = dac.decoder.conv2
    dac.decoder.conv2 = torch.nn.Conv1d(conv.in_channels, 1, kernel_size=7, padding=2)
    try:
        with pytest.raises(EngineUnavailable, match="not built as expected"):
            StreamingDac(dac, 1)
    finally:
        dac.decoder.conv2 = conv


def test_another_codec_is_refused() -> None:
    """A DAC with other codebooks cannot speak these codes."""
    dac = tiny_dac()
    dac.config.n_codebooks = 12
    try:
        with pytest.raises(EngineUnavailable, match="9 codebooks"):
            StreamingDac(dac, 1)
    finally:
        dac.config.n_codebooks = 9
