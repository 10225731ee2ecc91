"""Trimming, resampling, bytes and frames; all of it whatever the cuts between blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.quality import join_faults, measure_joins, measure_silence
from tests.voice import speak
from tts_provider.engines.base import Samples
from tts_provider.streaming.pcm import Framer, Resampler, Trimmer, silence, to_s16

RATE = 24000
SLOW = 1000  # Hz; a millisecond is a sample: fades of 5, margins of 25 and 50, 1200 held back

steady = settings(deadline=None, derandomize=True)  # other work on the machine must not fail a test

# Signals as runs: (samples, whether they are loud).
runs = st.lists(st.tuples(st.integers(1, 1500), st.booleans()), max_size=6)
cuts = st.lists(st.integers(0, 900), max_size=12)


def rendered(signal: Sequence[tuple[int, bool]]) -> Samples:
    """The runs as noise, a thousandth or a half of full scale."""
    random = np.random.default_rng(len(signal))
    parts = [
        random.uniform(0.3, 0.5, count) * (1.0 if loud else 0.002) * random.choice([-1, 1], count) for count, loud in signal
    ]
    return np.concatenate([np.zeros(0), *parts]).astype(np.float32)


def blocks(samples: Samples, sizes: Iterable[int]) -> list[Samples]:
    """`samples` cut into blocks of `sizes`; the last block is the rest."""
    return np.split(samples, np.minimum(np.cumsum(list(sizes), dtype=int), len(samples)))


def trimmed(samples: Samples, sizes: Iterable[int] = (), sample_rate: int = SLOW) -> tuple[Samples, float]:
    trimmer = Trimmer(sample_rate)
    parts = [trimmer.feed(block) for block in blocks(samples, sizes)]
    return np.concatenate([*parts, trimmer.finish()]), trimmer.head_s


def edge(length: int) -> Samples:
    return (0.5 - 0.5 * np.cos(np.pi * (np.arange(length) + 0.5) / length)).astype(np.float32)


# to_s16


def test_samples_become_little_endian_16_bit_integers_rounded_to_the_nearest() -> None:
    samples = np.array([0.0, 1.0, -1.0, 0.5, 1.6 / 32767, -1.4 / 32767], np.float32)
    assert np.frombuffer(to_s16(samples), "<i2").tolist() == [0, 32767, -32767, 16384, 2, -1]


def test_bytes_are_made_without_touching_the_samples() -> None:
    samples = np.array([0.3, -1.0], np.float32)
    to_s16(samples)
    assert samples.tolist() == np.array([0.3, -1.0], np.float32).tolist()


def test_no_samples_are_no_bytes() -> None:
    assert to_s16(silence(0.0, RATE)) == b""


def test_silence_lasts_as_long_as_asked() -> None:
    assert silence(0.15, 22050).shape == (3308,)
    assert silence(0.15, 22050).dtype == np.float32
    assert not silence(1.0, RATE).any()


# Trimmer


def test_speech_keeps_25_ms_before_and_50_ms_after_and_gets_soft_edges() -> None:
    samples = rendered([(400, False), (300, True), (500, False)])
    out, head_s = trimmed(samples)
    expected = samples[375:750].copy()
    expected[:5] *= edge(5)
    expected[-5:] *= edge(5)[::-1]
    assert np.array_equal(out, expected)
    assert head_s == 0.375


def test_speech_without_silence_round_it_is_kept_whole_with_soft_edges() -> None:
    samples = rendered([(300, True)])
    out, head_s = trimmed(samples)
    assert np.array_equal(out[5:-5], samples[5:-5])
    assert np.array_equal(out[:5], samples[:5] * edge(5))
    assert np.array_equal(out[-5:], samples[-5:] * edge(5)[::-1])
    assert head_s == 0.0


@steady
@given(st.integers(0, 5000), cuts)
def test_silence_alone_yields_nothing_at_all(count: int, sizes: list[int]) -> None:
    out, head_s = trimmed(rendered([(count, False)] if count else []), sizes)
    assert len(out) == 0
    assert head_s == 0.0


@steady
@given(runs, cuts)
def test_the_cuts_between_blocks_change_no_bit(signal: list[tuple[int, bool]], sizes: list[int]) -> None:
    samples = rendered(signal)
    whole, whole_head = trimmed(samples)
    streamed, head = trimmed(samples, sizes)
    assert np.array_equal(streamed, whole)
    assert head == whole_head


@steady
@given(runs, cuts)
def test_what_comes_out_is_a_stretch_of_what_went_in_holding_all_that_is_loud(
    signal: list[tuple[int, bool]], sizes: list[int]
) -> None:
    samples = rendered(signal)
    out, head_s = trimmed(samples, sizes)
    loud = np.flatnonzero(np.abs(samples) > 0.005)
    if len(loud):
        start = round(head_s * SLOW)
        assert np.array_equal(out[5:-5], samples[start + 5 : start + len(out) - 5])
        assert start == max(0, loud[0] - 25)
        tail = len(samples) - loud[-1] - 1
        assert start + len(out) == loud[-1] + 1 + max(min(tail, 50), tail - 1195)


@steady
@given(runs, cuts)
def test_speech_is_never_held_back_by_more_than_a_fade_nor_silence_beyond_the_limit(
    signal: list[tuple[int, bool]], sizes: list[int]
) -> None:
    trimmer = Trimmer(SLOW)
    fed, out, speech_end = 0, 0, 0
    for block in blocks(rendered(signal), sizes):
        loud = np.flatnonzero(np.abs(block) > 0.005)
        speech_end = fed + int(loud[-1]) + 1 if len(loud) else speech_end
        fed += len(block)
        out += len(trimmer.feed(block))
        if speech_end:
            reached = round(trimmer.head_s * SLOW) + out
            assert reached >= min(speech_end, fed - 5)
            assert fed - reached <= 1200


def test_a_pause_inside_speech_is_kept_to_the_sample() -> None:
    samples = rendered([(100, True), (1000, False), (100, True)])
    out, _ = trimmed(samples, [10] * 130)
    assert np.array_equal(out[5:-5], samples[5:-5])


def test_the_start_that_was_cut_is_known_with_the_first_sample() -> None:
    trimmer = Trimmer(SLOW)
    assert len(trimmer.feed(rendered([(200, False)]))) == 0
    assert trimmer.head_s == 0.0
    assert len(trimmer.feed(rendered([(100, True)]))) == 120
    assert trimmer.head_s == 0.175


@pytest.mark.parametrize("count", [1, 2, 4, 5, 6, 9, 10])
def test_a_click_shorter_than_its_fades_stays_within_them(count: int) -> None:
    samples = rendered([(count, True)])
    out, _ = trimmed(samples)
    assert len(out) == count
    assert np.all(np.abs(out) <= np.abs(samples))
    assert abs(out[0]) < 0.5 * abs(samples[0])
    assert abs(out[-1]) < 0.5 * abs(samples[-1])


def test_an_engine_may_reuse_its_buffer_after_a_feed() -> None:
    samples = rendered([(300, True), (100, False), (200, True)])
    expected, _ = trimmed(samples)
    trimmer, buffer, parts = Trimmer(SLOW), np.empty(50, np.float32), []
    for block in blocks(samples, [50] * 11):
        buffer[:] = block
        parts.append(trimmer.feed(buffer))
        buffer[:] = 0.9
    assert np.array_equal(np.concatenate([*parts, trimmer.finish()]), expected)


# Resampler


@pytest.mark.parametrize(
    ("from_rate", "to_rate"), [(22050, 24000), (24000, 44100), (24000, 16000), (44100, 8000), (16000, 48000)]
)
@steady
@given(sizes=st.lists(st.integers(0, 4000), max_size=12), count=st.integers(0, 9000))
def test_a_stream_resampled_is_the_whole_resampled_bit_for_bit(
    from_rate: int, to_rate: int, sizes: list[int], count: int
) -> None:
    samples = np.random.default_rng(count).uniform(-0.5, 0.5, count).astype(np.float32)
    resampler = Resampler(from_rate, to_rate)
    out = np.concatenate([*[resampler.feed(block) for block in blocks(samples, sizes)], resampler.finish()])
    assert abs(len(out) - count * to_rate / from_rate) <= 0.5
    assert out.dtype == np.float32
    if count:
        assert np.array_equal(out, soxr.resample(samples, from_rate, to_rate, "HQ"))


def test_equal_rates_pass_through_untouched_and_at_once() -> None:
    samples = np.array([0.1, 1.0, 0.3], np.float32)
    resampler = Resampler(RATE, RATE)
    assert np.array_equal(resampler.feed(samples), samples)
    assert len(resampler.finish()) == 0


def test_a_tone_near_the_top_of_the_band_is_still_that_tone_and_nothing_else() -> None:
    tone = (0.5 * np.sin(2 * np.pi * 9600 * np.arange(RATE) / RATE)).astype(np.float32)
    resampler = Resampler(RATE, 44100)
    out = np.concatenate([*[resampler.feed(block) for block in blocks(tone, [960] * 24)], resampler.finish()])[4410:-4410]
    phase = 2 * np.pi * 9600 * np.arange(4410, 44100 - 4410) / 44100
    base = np.stack((np.sin(phase), np.cos(phase)))
    (in_phase, quadrature), *_ = np.linalg.lstsq(base.T, out, rcond=None)
    error = out - in_phase * base[0] - quadrature * base[1]
    assert in_phase == pytest.approx(0.5, rel=0.001)
    assert abs(quadrature) < 1e-4
    assert 10 * np.log10(0.125 / np.mean(error**2)) > 120


def test_the_overshoot_of_the_filter_is_full_scale_and_never_wraps() -> None:
    square = np.sign(np.sin(2 * np.pi * 500 * np.arange(4800) / RATE)).astype(np.float32)
    assert np.abs(soxr.resample(square, RATE, 44100, "HQ")).max() > 1.05
    resampler = Resampler(RATE, 44100)
    out = np.concatenate([resampler.feed(square[:2000]), resampler.feed(square[2000:]), resampler.finish()])
    assert np.abs(out).max() == 1.0
    s16 = np.frombuffer(to_s16(out), "<i2")
    assert np.array_equal(np.sign(s16), np.sign(np.rint(out * 32767)))


def test_little_stays_inside_between_feeds() -> None:
    """At the rates of our engines under 50 ms, so that a frame never waits for a whole further block."""
    for from_rate, to_rate in ((22050, 24000), (24000, 22050), (24000, 48000), (24000, 16000), (44100, 24000)):
        resampler, out = Resampler(from_rate, to_rate), 0
        for fed in range(1, 51):
            out += len(resampler.feed(silence(0.04, from_rate)))
            assert 0.04 * fed - out / to_rate < 0.05


# Framer


@steady
@given(st.lists(st.binary(max_size=700), max_size=12))
def test_frames_joined_are_the_bytes_that_came_and_no_frame_splits_a_sample(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    framer = Framer(SLOW)
    frames = [frame for piece in pieces for frame in framer.feed(piece)]
    if len(data) % 2:
        with pytest.raises(ValueError, match="incomplete"):
            framer.finish()
    else:
        last = framer.finish()
        assert b"".join([*frames, *last]) == data
        assert all(len(frame) % 2 == 0 and frame for frame in [*frames, *last])
        assert all(len(frame) == 200 for frame in frames[1:])
        assert all(0 < len(frame) <= 200 for frame in [*frames[:1], *last])


def test_the_first_frame_goes_out_with_the_first_sample_and_later_ones_when_they_are_full() -> None:
    framer = Framer(SLOW, frame_ms=100)
    assert framer.feed(b"\0") == []
    assert framer.feed(b"\0\0") == [b"\0\0"]
    assert framer.feed(bytes(198)) == []
    assert framer.feed(bytes(1)) == [bytes(200)]


def test_much_at_once_becomes_frames_of_the_usual_size() -> None:
    framer = Framer(RATE, frame_ms=100)
    assert [len(frame) for frame in framer.feed(bytes(4800 * 5 + 10))] == [4800] * 5
    assert framer.finish() == [bytes(10)]
    assert framer.finish() == []


def test_a_framer_goes_on_with_full_frames_after_the_end_of_a_sentence() -> None:
    framer = Framer(SLOW)
    assert framer.feed(bytes(150)) == [bytes(150)]
    assert framer.feed(bytes(50)) == []
    assert framer.finish() == [bytes(50)]
    assert framer.feed(bytes(60)) == []
    assert framer.feed(bytes(140)) == [bytes(200)]


# The whole way: chunk, pause, chunk


@pytest.mark.parametrize("to_rate", [22050, 24000, 48000])
@pytest.mark.parametrize("edges_s", [0.0, 0.3], ids=["cut in loud speech", "with silence round it"])
def test_a_join_has_no_click_and_exactly_the_pause_that_was_asked(edges_s: float, to_rate: int) -> None:
    pause_s, rng = 0.15, np.random.default_rng(3)
    resampler, parts, joins, position = Resampler(RATE, to_rate), [], [], 0
    for frequency in (330.0, 440.0):
        tone = 0.5 * np.sin(2 * np.pi * frequency * np.arange(RATE) / RATE + 1.0)
        room = silence(edges_s, RATE)
        chunk = np.concatenate((room, tone.astype(np.float32), room)) + rng.normal(0, 1e-4, RATE + 2 * len(room)).astype(
            np.float32
        )
        trimmer = Trimmer(RATE)
        for piece in (*[trimmer.feed(block) for block in blocks(chunk, [2400] * 20)], trimmer.finish(), silence(pause_s, RATE)):
            parts.append(resampler.feed(piece))
            position += len(piece)
        joins += [position - round(pause_s * RATE), position]
    out = np.concatenate([*parts, resampler.finish()])
    there = [round(join * to_rate / RATE) for join in joins]
    assert join_faults(measure_joins(out, to_rate, there[:3])) == []
    heard = measure_silence(out, to_rate)
    margins = 0.075 if edges_s else 0.0
    assert heard.longest_inner_s == pytest.approx(pause_s + margins, abs=0.002)
    assert heard.lead_s == pytest.approx(0.025 if edges_s else 0.0, abs=0.002)


def test_without_the_edges_the_same_join_would_click() -> None:
    tone = (0.5 * np.sin(2 * np.pi * 330.0 * np.arange(RATE) / RATE + 1.0)).astype(np.float32)
    joined = np.concatenate((tone, silence(0.15, RATE), tone))
    assert len(join_faults(measure_joins(joined, RATE, [len(tone), len(joined) - len(tone)]))) == 2


def test_trimmed_speech_is_cut_to_the_speech_and_otherwise_unchanged() -> None:
    utterance = speak("Hello there, how are you?", RATE, lead_s=0.4, tail_s=0.9)
    out, head_s = trimmed(utterance.samples, [1440] * 60, RATE)
    heard = measure_silence(out, RATE)
    assert heard.lead_s == pytest.approx(0.025, abs=0.001)
    assert heard.tail_s == pytest.approx(0.050, abs=0.001)
    first_word = utterance.words[0].start_s - head_s
    assert 0.0 <= first_word < 0.06
