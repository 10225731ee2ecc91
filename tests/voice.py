"""A little formant synthesizer: a voice for tests that need speech, but no engine.

Every letter has its own resonances and length, so that other texts sound other, the same text by another speaker sounds alike,
and it is known to the millisecond where each word is. Nobody would call it pleasant; by the measures of `tests.quality` it is
speech. Deterministic.

    utterance = speak("Hello, world.", 24000)
    utterance.samples, utterance.words
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tts_provider.engines.base import Samples, WordMark

__all__ = ["Utterance", "speak"]

FRAME_S: Final = 0.005
FADE_FRAMES: Final = 5  # over which one letter glides into the next
PEAK: Final = 0.5

# Hz: the lower two resonances; the third and fourth stand still.
_VOWELS: Final = {"a": (750, 1250), "e": (500, 1850), "i": (300, 2250), "o": (500, 900), "u": (320, 800), "y": (300, 1900)}
_SONORANTS: Final = {"l": (360, 1300), "m": (250, 1100), "n": (250, 1600), "r": (420, 1300), "w": (300, 700), "j": (280, 2100)}
_FRICATIVES: Final = {"f": 0.03, "s": 0.09, "z": 0.06, "h": 0.03, "c": 0.06, "x": 0.08, "v": 0.03}  # loudness of the noise
TILT: Final = 0.5
HISS_HZ: Final = 3200.0
_HIGHER_RESONANCES: Final = (2600.0, 3500.0)


@dataclass(frozen=True, slots=True)
class Utterance:
    """What was spoken, and where its words are."""

    samples: Samples
    sample_rate: int
    words: tuple[WordMark, ...]


@dataclass(frozen=True, slots=True)
class _Sound:
    seconds: float
    first: float
    second: float
    voice: float
    noise: float = 0.0


def speak(
    text: str,
    sample_rate: int,
    *,
    f0: float = 120.0,
    tract: float = 1.0,
    speed: float = 1.0,
    lead_s: float = 0.1,
    tail_s: float = 0.1,
) -> Utterance:
    """`text` spoken at a mean pitch of `f0` Hz, with `lead_s` and `tail_s` of near silence round it.

    `tract` above 1 raises the resonances, as a shorter vocal tract does.
    """
    sounds = [_sound(letter) for letter in text.lower()]
    ends = lead_s + np.cumsum([0.0, *(sound.seconds / speed for sound in sounds)])
    frames = round((ends[-1] + tail_s) / FRAME_S)
    parameters = np.zeros((frames, 4))
    parameters[:, :2] = (500.0, 1500.0)
    for sound, start, end in zip(sounds, ends[:-1], ends[1:], strict=True):
        parameters[round(start / FRAME_S) : round(end / FRAME_S)] = (
            sound.first * tract,
            sound.second * tract,
            sound.voice,
            sound.noise,
        )
    kernel = np.hanning(FADE_FRAMES + 2)[1:-1]
    for column in parameters.T:
        column[:] = np.convolve(np.pad(column, FADE_FRAMES // 2, mode="edge"), kernel / kernel.sum(), "valid")
    samples = _render(parameters, sample_rate, f0, tract)
    words = tuple(
        WordMark(word.start(), word.end(), float(ends[word.start()]), float(ends[word.end()]))
        for word in re.finditer(r"\w+", text)
    )
    return Utterance(samples, sample_rate, words)


def _sound(letter: str) -> _Sound:
    if letter in _VOWELS:
        return _Sound(0.09, *_VOWELS[letter], voice=1.0)
    if letter in _SONORANTS:
        return _Sound(0.06, *_SONORANTS[letter], voice=0.4)
    if letter in _FRICATIVES:
        return _Sound(0.07, 400.0, 1600.0, voice=0.05, noise=_FRICATIVES[letter])
    if letter.isalnum():  # a stop: closed, then open
        return _Sound(0.05, 350.0, 900.0 + 90.0 * (ord(letter) % 13), voice=0.12, noise=0.01)
    return _Sound({",": 0.15, ";": 0.2, ":": 0.2, ".": 0.25, "?": 0.25, "!": 0.25}.get(letter, 0.02), 500.0, 1500.0, voice=0.0)


def _render(parameters: npt.NDArray[np.float64], sample_rate: int, f0: float, tract: float) -> Samples:
    frame_times = np.arange(len(parameters)) * FRAME_S
    times = np.arange(round(len(parameters) * FRAME_S * sample_rate)) / sample_rate
    pitch = f0 * (1.08 - 0.16 * frame_times / max(frame_times[-1], 1.0) + 0.06 * np.sin(2 * np.pi * 0.6 * frame_times))
    phase = 2 * np.pi * np.cumsum(np.interp(times, frame_times, pitch)) / sample_rate
    first, second, voice, noise = parameters.T
    out = np.zeros(len(times))
    for harmonic in range(1, int(min(4500.0, 0.45 * sample_rate) / (1.2 * f0)) + 1):
        frequency = harmonic * pitch
        gain = voice / harmonic**TILT * _resonance(frequency, first, 80.0) * _resonance(frequency, second, 110.0)
        for resonance in _HIGHER_RESONANCES:
            gain = gain * _resonance(frequency, resonance * tract, 250.0)
        out += np.interp(times, frame_times, gain) * np.sin(harmonic * phase)
    hiss = np.random.default_rng(7).standard_normal(len(times))
    band = np.arange(-0.0005, 0.0005, 1 / sample_rate)
    breath = np.convolve(hiss, np.hanning(len(band) + 2)[1:-1] * np.cos(2 * np.pi * HISS_HZ * band), "same")
    out /= max(np.abs(out).max(), 1e-9)
    out += np.interp(times, frame_times, noise) * breath / breath.std() + 1e-4 * hiss
    spoken: Samples = (PEAK * out / np.abs(out).max()).astype(np.float32)
    return spoken


def _resonance(
    frequency: npt.NDArray[np.float64], centre: npt.NDArray[np.float64] | float, width: float
) -> npt.NDArray[np.float64]:
    gain: npt.NDArray[np.float64] = centre**2 / np.sqrt((centre**2 - frequency**2) ** 2 + (width * frequency) ** 2)
    return gain
