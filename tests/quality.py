"""Is this sound speech, whole and clean? Measures without a listener, a model or a network; numpy and soxr only.

    faults = speech_faults(samples, 24000, text="Hello, world.")
    assert not faults, faults

Each `measure_...` returns figures; each figure's dataclass can tell its faults against limits. `speech_faults` asks those
that need nothing but the audio and its text. What they cannot see: a hundred samples lost or inserted inside speech. For
that count samples, check joins at the places where they are known to be (`measure_joins`), and compare bytes.

The ranges hold 30 utterances of espeak-ng in 5 voices with some room; a voice that differs (a whisper) passes its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tests.likeness import rank_by_dtw
from tests.playback import Playback, simulate_player
from tts_provider.engines.base import Samples, WordMark

__all__ = [
    "ORDINARY_PACE",
    "ORDINARY_VOICE",
    "Alignment",
    "Join",
    "Level",
    "Playback",
    "Range",
    "Silences",
    "Speech",
    "SpeechRange",
    "align",
    "duration_faults",
    "join_faults",
    "measure_joins",
    "measure_level",
    "measure_silence",
    "measure_speech",
    "rank_by_dtw",
    "simulate_player",
    "speech_faults",
    "word_faults",
]

Floats = npt.NDArray[np.float64]

SILENCE_LEVEL: Final = 0.005  # -46 dBFS
SECONDS_PER_LETTER: Final = 0.065  # of unhurried speech, spaces and stops included
SECONDS_PER_CJK_CHARACTER: Final = 0.2


class Range(NamedTuple):
    """From `low` to `high`, both included."""

    low: float
    high: float

    def faults(self, name: str, value: float) -> list[str]:
        """Nothing, or one sentence; NaN is always a fault."""
        return [] if self.low <= value <= self.high else [f"{name} is {value:.4g}, not within {self.low:g} to {self.high:g}"]


# Level


@dataclass(frozen=True, slots=True)
class Level:
    """How loud it is."""

    rms_dbfs: float
    peak: float
    clipped_ppm: float
    """Samples at full scale (within one s16 step), parts per million."""
    dc: float
    """Mean of the samples."""
    largest_step: float
    """Between neighbouring samples; near 2 where s16 has wrapped round. Good speech stays below 0.5."""
    all_finite: bool

    def faults(self) -> list[str]:
        return [
            *([] if self.all_finite else ["there are samples that are no finite numbers"]),
            *Range(-35.0, -12.0).faults("RMS level in dBFS", self.rms_dbfs),
            *Range(0.0, 50.0).faults("clipped samples in ppm", self.clipped_ppm),
            *Range(-0.01, 0.01).faults("mean (DC)", self.dc),
            *Range(0.0, 0.9).faults("largest step", self.largest_step),
        ]


def measure_level(samples: Samples) -> Level:
    """Level of the whole, silence included."""
    x = np.nan_to_num(samples.astype(np.float64), nan=0.0, posinf=1.0, neginf=-1.0)
    size = max(1, len(x))
    return Level(
        rms_dbfs=float(10 * np.log10(max(np.dot(x, x) / size, 1e-12))),
        peak=float(np.abs(x).max(initial=0.0)),
        clipped_ppm=1e6 * int(np.count_nonzero(np.abs(x) >= 32766.5 / 32767)) / size,
        dc=float(x.sum() / size),
        largest_step=float(np.abs(np.diff(x)).max(initial=0.0)),
        all_finite=bool(np.isfinite(samples).all()),
    )


# Silence


@dataclass(frozen=True, slots=True)
class Silences:
    """Where nothing is heard, in seconds; an all-silent signal is one lead."""

    lead_s: float
    tail_s: float
    longest_inner_s: float
    share: float
    """Of all time in silences of 50 ms and more."""

    def faults(self) -> list[str]:
        return [
            *Range(0.0, 0.2).faults("leading silence in s", self.lead_s),
            *Range(0.0, 0.5).faults("trailing silence in s", self.tail_s),
            *Range(0.0, 1.0).faults("longest inner silence in s", self.longest_inner_s),
            *Range(0.0, 0.5).faults("share of silence", self.share),
        ]


def measure_silence(samples: Samples, sample_rate: int, level: float = SILENCE_LEVEL) -> Silences:
    """Silences between samples louder than `level`."""
    loud = np.flatnonzero(np.abs(samples) > level)
    if not len(loud):
        return Silences(len(samples) / sample_rate, 0.0, 0.0, 1.0)
    gaps = np.diff(loud, prepend=-1, append=len(samples)) - 1
    return Silences(
        lead_s=float(gaps[0] / sample_rate),
        tail_s=float(gaps[-1] / sample_rate),
        longest_inner_s=float(gaps[1:-1].max(initial=0) / sample_rate),
        share=float(gaps[gaps >= 0.05 * sample_rate].sum() / len(samples)),
    )


# Joins


@dataclass(frozen=True, slots=True)
class Join:
    """What happens at one place where two pieces of audio meet."""

    index: int
    bend: float
    """Largest second difference within 3 samples, against its RMS over 20 ms around."""
    high_db: float
    """Energy above 6 kHz (or half the band) in the 2 ms around, against the loudest 2 ms of the second around."""


def measure_joins(samples: Samples, sample_rate: int, indices: Sequence[int]) -> list[Join]:
    """Clicks at the joins: `indices` are those of the first sample behind each join.

    Look only where joins are: speech is full of sharp places that are none.
    """
    x = samples.astype(np.float64)
    bends = np.abs(np.diff(x, 2, prepend=[0.0], append=[0.0]))
    powers = _high_passed(x, sample_rate) ** 2
    span = max(2, round(0.002 * sample_rate))
    energies = np.convolve(powers, np.ones(span), "same")
    joins = []
    for index in indices:
        around = np.r_[
            bends[max(0, index - sample_rate // 100) : max(0, index - 3)], bends[index + 3 : index + sample_rate // 100]
        ]
        usual = max(float(np.sqrt(np.mean(around**2))) if len(around) else 0.0, 2 / 32767)
        loudest = float(energies[max(0, index - sample_rate // 2) : index + sample_rate // 2].max(initial=0.0))
        join = Join(
            index,
            bend=float(bends[max(0, index - 3) : index + 3].max(initial=0.0)) / usual,
            high_db=10 * float(np.log10((energies[min(index, len(energies) - 1)] + 1e-12) / (loudest + 1e-12))),
        )
        joins.append(join)
    return joins


def join_faults(joins: Sequence[Join]) -> list[str]:
    """Joins at which a click would be heard: a sharp bend that is also loud at high frequencies.

    At 600 places of whole speech the bend stayed below 6; with 5 ms edges at a cut, `high_db` stayed below -23.
    """
    return [f"a click at sample {join.index}: {join}" for join in joins if join.bend > 7.0 and join.high_db > -20.0]


def _high_passed(x: Floats, sample_rate: int) -> Floats:
    spectrum = np.fft.rfft(x)
    spectrum[np.fft.rfftfreq(len(x), 1 / sample_rate) < min(6000.0, sample_rate / 4)] = 0.0
    return np.fft.irfft(spectrum, len(x))


# Speech-likeness


@dataclass(frozen=True, slots=True)
class SpeechRange:
    """Within which figures a voice is taken for speech; the fields are those of `Speech`."""

    voiced_share: Range
    f0_hz: Range
    syllabic_share: Range
    flatness: Range
    rolloff_hz: Range
    low_share: Range


ORDINARY_VOICE: Final = SpeechRange(
    voiced_share=Range(0.5, 0.97),
    f0_hz=Range(60.0, 400.0),
    syllabic_share=Range(0.45, 0.95),
    flatness=Range(0.0, 0.02),
    rolloff_hz=Range(1200.0, 6000.0),
    low_share=Range(0.0, 0.03),
)

ORDINARY_PACE: Final = Range(0.5, 2.0)
"""Duration against the estimate by letters."""


@dataclass(frozen=True, slots=True)
class Speech:
    """How much it is like speech."""

    voiced_share: float
    """Of the frames that are not silent, those that repeat themselves at a pitch."""
    f0_hz: float
    """Median pitch of the voiced frames; NaN without any."""
    syllabic_share: float
    """Of the loudness's changes between 0.5 and 25 Hz, those between 2 and 8 Hz: the pace of syllables."""
    flatness: float
    """Spectral flatness of the median frame: 1 for white noise, 0 for a tone."""
    rolloff_hz: float
    """Frequency below which 95 % of the energy lies."""
    low_share: float
    """Share of the energy below 60 Hz, where no voice is."""

    def faults(self, limits: SpeechRange) -> list[str]:
        return [
            *limits.voiced_share.faults("voiced share", self.voiced_share),
            *limits.f0_hz.faults("pitch in Hz", self.f0_hz),
            *limits.syllabic_share.faults("share of syllabic modulation", self.syllabic_share),
            *limits.flatness.faults("spectral flatness", self.flatness),
            *limits.rolloff_hz.faults("95 % roll-off in Hz", self.rolloff_hz),
            *limits.low_share.faults("share of energy below 60 Hz", self.low_share),
        ]


def measure_speech(samples: Samples, sample_rate: int) -> Speech:
    """Figures over frames of 40 ms every 10 ms; needs half a second of audio."""
    hop, width = sample_rate // 100, sample_rate // 25
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), width)[::hop]
    energies = (frames**2).mean(axis=1)
    frames = frames[energies > max(energies.max() * 1e-4, 1e-9)]
    if not len(frames):
        return Speech(0.0, float("nan"), 0.0, 1.0, 0.0, 0.0)
    window = np.hanning(width)
    size = 1 << (2 * width - 1).bit_length()
    power = np.abs(np.fft.rfft((frames - frames.mean(axis=1, keepdims=True)) * window, size)) ** 2
    pitch, strength = _pitch(
        np.fft.irfft(power)[:, :width], np.fft.irfft(np.abs(np.fft.rfft(window, size)) ** 2)[:width], sample_rate
    )
    frequencies = np.fft.rfftfreq(size, 1 / sample_rate)
    audible = power[:, (frequencies > 60.0) & (frequencies < 0.45 * sample_rate)] + 1e-12
    flatness = np.exp(np.log(audible).mean(axis=1)) / audible.mean(axis=1)
    whole = np.abs(np.fft.rfft(samples.astype(np.float64))) ** 2
    total, shares = np.fft.rfftfreq(len(samples), 1 / sample_rate), np.cumsum(whole) / max(whole.sum(), 1e-12)
    voiced = strength > 0.5
    return Speech(
        voiced_share=float(voiced.mean()),
        f0_hz=float(np.median(pitch[voiced])) if voiced.any() else float("nan"),
        syllabic_share=_syllabic_share(np.sqrt(energies)),
        flatness=float(np.median(flatness)),
        rolloff_hz=float(total[min(int(np.searchsorted(shares, 0.95)), len(total) - 1)]),
        low_share=float(shares[max(0, int(np.searchsorted(total, 60.0)) - 1)]),
    )


def _pitch(correlation: Floats, of_window: Floats, sample_rate: int) -> tuple[Floats, Floats]:
    shortest, longest = sample_rate // 400, sample_rate // 60
    normal = correlation / np.maximum(correlation[:, :1], 1e-12) * (of_window[0] / np.maximum(of_window, of_window[0] * 0.05))
    candidates = normal[:, shortest:longest]
    # The shortest lag nearly as good as the best: a multiple of the period is as good as the period itself.
    lags = shortest + (candidates >= 0.9 * candidates.max(axis=1, keepdims=True)).argmax(axis=1)
    return sample_rate / lags, candidates.max(axis=1)


def _syllabic_share(envelope: Floats) -> float:
    changes = np.abs(np.fft.rfft((envelope - envelope.mean()) * np.hanning(len(envelope)))) ** 2
    frequencies = np.fft.rfftfreq(len(envelope), 0.01)
    all_changes = changes[(frequencies >= 0.5) & (frequencies <= 25.0)].sum()
    return float(changes[(frequencies >= 2.0) & (frequencies <= 8.0)].sum() / max(all_changes, 1e-12))


# Duration, words, the whole


def duration_faults(seconds: float, text: str, limits: Range = ORDINARY_PACE) -> list[str]:
    """Whether `seconds` is a plausible time to say `text`, as a ratio to an estimate by its letters."""
    wide = sum(character >= "\u2e80" for character in text)
    expected = 0.2 + wide * SECONDS_PER_CJK_CHARACTER + (len(text) - wide) * SECONDS_PER_LETTER
    return limits.faults(f"duration against the {expected:.1f} s that the text needs", seconds / expected)


def word_faults(
    marks: Sequence[WordMark], text: str, samples: Samples, sample_rate: int, tolerance_s: float = 0.06
) -> list[str]:
    """Whether word marks are in order, inside text and audio, cover nine tenths of the words, and begin where sound begins.

    "Begin where sound begins" is asked only of words that follow a silence of 80 ms: others have no rise of their own.
    """
    faults = []
    for mark in marks:
        if not (0 <= mark.start < mark.end <= len(text)):
            faults.append(f"outside the text: {mark}")
        if not (0.0 <= mark.start_s <= mark.end_s <= len(samples) / sample_rate + 0.01):
            faults.append(f"outside the audio: {mark}")
    for one, two in pairwise(marks):
        if two.start < one.end or two.start_s < one.start_s:
            faults.append(f"out of order: {one}, {two}")
    words = "".join(character if character.isalnum() else " " for character in text).split()
    if len(marks) < 0.9 * len(words):
        faults.append(f"{len(marks)} marks for {len(words)} words")
    loud = np.flatnonzero(np.abs(samples) > SILENCE_LEVEL)
    rises = loud[np.diff(loud, prepend=-sample_rate) > 0.08 * sample_rate] / sample_rate
    starts = np.array([mark.start_s for mark in marks])
    for rise in rises:
        if len(starts) and np.abs(starts - rise).min() > tolerance_s:
            faults.append(
                f"sound begins at {rise:.3f} s, but the nearest word at {starts[np.abs(starts - rise).argmin()]:.3f} s"
            )
    return faults


def speech_faults(
    samples: Samples,
    sample_rate: int,
    text: str | None = None,
    limits: SpeechRange = ORDINARY_VOICE,
    duration: Range = ORDINARY_PACE,
) -> list[str]:
    """Everything that is wrong with `samples` as a recording of somebody saying `text`; empty when all is well."""
    level = measure_level(samples)
    if not level.all_finite or len(samples) < sample_rate // 2:
        return [*level.faults(), f"{len(samples)} samples at {sample_rate} Hz cannot be judged"]
    return [
        *level.faults(),
        *measure_silence(samples, sample_rate).faults(),
        *measure_speech(samples, sample_rate).faults(limits),
        *(duration_faults(len(samples) / sample_rate, text, duration) if text is not None else []),
    ]


# Copies


@dataclass(frozen=True, slots=True)
class Alignment:
    """How one signal lies in another."""

    shift: int
    """Samples by which the second comes later."""
    correlation: float
    """Of the overlap; 1 when they are equal but for a factor."""


def align(original: Samples, copy: Samples) -> Alignment:
    """Where `copy`, decoded or transmitted, best fits `original`; both at one sample rate."""
    size = 1 << (len(original) + len(copy)).bit_length()
    fit = np.fft.irfft(np.fft.rfft(copy, size) * np.conj(np.fft.rfft(original, size)), size)
    peak = int(fit.argmax())
    shift = peak - size if peak > size // 2 else peak
    one, two = original[max(0, -shift) :], copy[max(0, shift) :]
    overlap = min(len(one), len(two))
    return Alignment(shift, float(np.corrcoef(one[:overlap], two[:overlap])[0, 1]))
