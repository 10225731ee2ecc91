"""The quality checks themselves: good audio passes, and each fault put into it is caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from tests import quality
from tests.voice import speak
from tts_provider.engines.base import Samples, WordMark
from tts_provider.streaming.pcm import to_s16

RATE = 24000
TEXTS = (
    "The quick brown fox jumps over the lazy dog, and then it sleeps for an hour.",
    "Please leave the keys on the kitchen table before seven o'clock tomorrow morning.",
    "We measured the pressure twice; both times the answer was wrong.",
)
DURATION = quality.Range(0.6, 1.6)


@cache
def speakers(text: str) -> tuple[Samples, ...]:
    return speak(text, RATE, f0=110.0).samples, speak(text, RATE, f0=200.0, tract=1.12).samples


def from_s16(data: bytes) -> Samples:
    return np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32) / np.float32(32768)


def noise(size: int, level: float) -> Samples:
    return (level * np.random.default_rng(1).standard_normal(size)).astype(np.float32)


def tone(size: int, frequency: float, level: float) -> Samples:
    return (level * np.sin(2 * np.pi * frequency * np.arange(size) / RATE)).astype(np.float32)


def with_gap(x: Samples) -> Samples:
    return np.concatenate((x[: len(x) // 2], np.zeros(11 * RATE // 10, np.float32), x[len(x) // 2 :]))


def with_wrapped_peaks(x: Samples) -> Samples:
    return from_s16((x / np.abs(x).max() * 1.5 * 32767).astype(np.int64).astype("<i2").tobytes())


def with_a_nan(x: Samples) -> Samples:
    broken = x.copy()
    broken[777] = np.nan
    return broken


FAULTS: dict[str, tuple[Callable[[Samples], Samples], str]] = {
    "silence": (np.zeros_like, "RMS level"),
    "white noise": (lambda x: noise(len(x), 0.1), "flatness"),
    "a tone": (lambda x: tone(len(x), 440.0, 0.3), "syllabic"),
    "compressed bytes as PCM": (lambda x: from_s16(np.random.default_rng(2).bytes(2 * len(x))), "voiced share"),
    "bytes swapped": (lambda x: from_s16(np.frombuffer(to_s16(x), "<i2").byteswap().tobytes()), "voiced share"),
    "off by one byte": (lambda x: from_s16(to_s16(x)[1:]), "voiced share"),
    "wrapped round": (with_wrapped_peaks, "largest step"),
    "clipped hard": (lambda x: np.clip(x * 4 / np.abs(x).max(), -1, 1), "clipped"),
    "a constant offset": (lambda x: x + np.float32(0.05), "DC"),
    "mains hum": (lambda x: x + tone(len(x), 50.0, 0.03), "below 60 Hz"),
    "a gap of a second": (with_gap, "inner silence"),
    "said twice": (lambda x: np.concatenate((x, x)), "duration"),
    "cut off in the middle": (lambda x: x[: len(x) // 2], "duration"),
    "played at half the rate": (lambda x: np.repeat(x, 2), "duration"),
    "played at twice the rate": (lambda x: x[::2].copy(), "duration"),
    "far too quiet": (lambda x: x * np.float32(0.01), "RMS level"),
    "not a number": (with_a_nan, "finite"),
    "a long lead": (lambda x: np.concatenate((np.zeros(RATE // 4, np.float32), x)), "leading silence"),
    "a long tail": (lambda x: np.concatenate((x, np.zeros(RATE // 2, np.float32))), "trailing silence"),
    "nothing at all": (lambda x: x[:0], "cannot be judged"),
}


@pytest.mark.parametrize("text", TEXTS)
def test_good_speech_has_no_faults(text: str) -> None:
    for samples in speakers(text):
        assert quality.speech_faults(samples, RATE, text, duration=DURATION) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught_by_name_in_every_utterance(fault: str) -> None:
    spoil, expected = FAULTS[fault]
    for text in TEXTS:
        for samples in speakers(text):
            found = quality.speech_faults(spoil(samples), RATE, text, duration=DURATION)
            assert any(expected in one for one in found), found


def test_silences_are_measured_to_the_sample() -> None:
    samples = np.zeros(1000, np.float32)
    samples[[100, 500, 600]] = 0.1
    found = quality.measure_silence(samples, 1000)
    assert (found.lead_s, found.longest_inner_s, found.tail_s) == (0.1, 0.399, 0.399)


def test_uncut_speech_has_no_click_anywhere_one_looks() -> None:
    samples = speakers(TEXTS[0])[0]
    assert quality.join_faults(quality.measure_joins(samples, RATE, range(0, len(samples), 997))) == []


def test_a_cut_at_a_loud_sample_is_a_click() -> None:
    samples = speakers(TEXTS[0])[0]
    cut = int(np.abs(samples).argmax())
    joined = np.concatenate((samples[: cut + 1], np.zeros(RATE // 10, np.float32), samples))
    assert quality.join_faults(quality.measure_joins(joined, RATE, [cut + 1]))


def test_one_sample_doubled_at_a_known_place_in_a_tone_is_a_click() -> None:
    samples = tone(RATE, 300.0, 0.4)
    joined = np.concatenate((samples[:5000], samples[5060:]))  # half a period lost
    assert quality.join_faults(quality.measure_joins(joined, RATE, [5000]))


def test_the_words_of_good_speech_have_no_faults() -> None:
    utterance = speak(TEXTS[0], RATE)
    assert quality.word_faults(utterance.words, TEXTS[0], utterance.samples, RATE) == []


def test_each_fault_of_words_is_told() -> None:
    utterance = speak(TEXTS[0], RATE)
    words = list(utterance.words)

    def faults(marks: list[WordMark]) -> str:
        return " ".join(quality.word_faults(marks, TEXTS[0], utterance.samples, RATE))

    late = [replace(word, start_s=word.start_s + 0.4, end_s=word.end_s + 0.4) for word in words]
    assert "outside the audio" in faults(late)
    assert "sound begins" in faults(late)
    assert "outside the text" in faults([replace(words[0], end=1000), *words[1:]])
    assert "out of order" in faults([words[1], words[0], *words[2:]])
    assert "marks for" in faults(words[:5])


def test_a_player_with_steady_frames_never_runs_dry() -> None:
    arrivals = [(0.3 + 0.1 * i, RATE // 10) for i in range(20)]
    played = quality.simulate_player(arrivals, RATE)
    assert (played.underruns, played.first_audio_s) == (0, 0.3)
    assert played.real_time_factor == pytest.approx(2.2 / 2.0)
    assert played.smallest_lead_s == pytest.approx(0.1)


def test_a_late_frame_stalls_the_player_once() -> None:
    arrivals = [(0.0, RATE // 5), (0.1, RATE // 5), (0.9, RATE // 5), (1.0, RATE // 5)]
    played = quality.simulate_player(arrivals, RATE)
    assert played.underruns == 1
    assert played.stalled_s == pytest.approx(0.5)
    assert played.smallest_lead_s == pytest.approx(-0.5)


def test_a_shift_is_found_to_the_sample_in_both_directions() -> None:
    samples = speakers(TEXTS[0])[0]
    later = quality.align(samples, np.concatenate((np.zeros(1105, np.float32), samples)))
    earlier = quality.align(samples, samples[333:])
    assert (later.shift, earlier.shift) == (1105, -333)
    assert later.correlation == pytest.approx(1.0)
    assert earlier.correlation == pytest.approx(1.0)


def test_the_right_text_is_nearest_though_another_voice_says_it() -> None:
    candidates = {text: (speak(text, 22050, f0=200.0, tract=1.12, speed=1.15).samples, 22050) for text in TEXTS}
    for text in TEXTS:
        ranking = quality.rank_by_dtw(speak(text, RATE).samples, RATE, candidates)
        assert ranking[0][0] == text
        assert ranking[0][1] < 0.9 * ranking[1][1]
