"""Who CSM can be: a voice is a recording, its exact words and a speaker label, and the model goes on from there.

The model has no voices of its own: ``[0]`` and ``[1]`` in its text are only labels that keep two speakers of one context apart.
A voice comes from a folder of the user's, one WAV (or FLAC) and one text file of the same name each:

    male.wav    male.txt          speakers 0 and 2
    female.wav  female.txt        speakers 1 and 3
    anna.wav    anna.txt          asked for by its name
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from tts_provider.engines.base import Gender, Samples, Voice
from tts_provider.errors import EngineUnavailable

__all__ = ["BUILT_IN", "LANGUAGE", "SAMPLE_RATE", "SPEAKERS", "SesameVoice", "find_voices"]

SAMPLE_RATE: Final = 24_000
"""Hz; Mimi's."""
LANGUAGE: Final = "en-US"
"""All that CSM speaks."""
BUILT_IN: Final[Mapping[str, Gender]] = {"male": "male", "female": "female"}
"""Always listed; without a recording they are whoever the seed makes them."""
SPEAKERS: Final[Mapping[int, str]] = {0: "male", 1: "female", 2: "male", 3: "female"}
"""Unified speaker id → voice."""
MAX_PROMPT_SECONDS: Final = 40.0
"""A prompt takes 12.5 of 2048 positions a second; beyond half a minute it takes the room that sentences need."""
MIN_PROMPT_SECONDS: Final = 1.0
_SUFFIXES: Final = (".wav", ".flac")


@dataclass(frozen=True, slots=True)
class SesameVoice:
    """A voice and what it starts from."""

    voice: Voice
    label: int
    """The digit in ``[0]text``."""
    transcript: str | None = None
    """The recording's exact words."""
    recording: Path | None = None

    @property
    def prompted(self) -> bool:
        """Whether there is a recording; if not, the voice is kept by a fixed seed only."""
        return self.recording is not None

    def read(self, sample_rate: int) -> Samples:
        """The recording, mono at `sample_rate`.

        Raises:
            EngineUnavailable: it cannot be read, or is too short or too long.
        """
        import soundfile
        import soxr

        assert self.recording is not None
        try:
            samples, rate = soundfile.read(self.recording, dtype="float32", always_2d=True)
        except (OSError, RuntimeError) as error:  # soundfile's own errors are RuntimeErrors
            raise EngineUnavailable(f"The recording of the voice '{self.voice.id}' is not readable audio.") from error
        mono: Samples = samples.mean(axis=1, dtype=np.float32)
        seconds = len(mono) / rate
        if not MIN_PROMPT_SECONDS <= seconds <= MAX_PROMPT_SECONDS:
            raise EngineUnavailable(
                f"The recording of the voice '{self.voice.id}' lasts {seconds:.1f} s. "
                f"Use one of {MIN_PROMPT_SECONDS:g} to {MAX_PROMPT_SECONDS:g} s, and its exact words."
            )
        return mono if rate == sample_rate else np.asarray(soxr.resample(mono, rate, sample_rate), dtype=np.float32)


def find_voices(folder: Path | None) -> dict[str, SesameVoice]:
    """All voices by their id, the built-in ones first, then those of `folder` in the order of their names.

    Raises:
        EngineUnavailable: the folder does not exist, or a recording has no transcript.
    """
    found = {name: _voice(name) for name in BUILT_IN}
    if folder is None:
        return found
    if not folder.is_dir():
        raise EngineUnavailable("TTS_SESAME_VOICES does not name a folder. Put NAME.wav and NAME.txt for each voice into one.")
    base = folder.resolve()
    for recording in sorted(folder.iterdir()):
        # A link that leads out of the folder is nobody.
        if recording.suffix.lower() in _SUFFIXES and recording.resolve().is_relative_to(base):
            transcript = _transcript(recording)
            found[recording.stem] = _voice(recording.stem, transcript, recording)
    return found


def _voice(name: str, transcript: str | None = None, recording: Path | None = None) -> SesameVoice:
    gender = BUILT_IN.get(name)
    label = 1 if gender == "female" else 0
    return SesameVoice(Voice(name, name.replace("_", " ").title(), LANGUAGE, gender), label, transcript, recording)


def _transcript(recording: Path) -> str:
    try:
        text = " ".join(recording.with_suffix(".txt").read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError):
        text = ""
    if not text:
        raise EngineUnavailable(
            f"The voice '{recording.stem}' has no transcript: write the exact words of its recording to {recording.stem}.txt."
        )
    return text
