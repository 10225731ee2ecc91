"""When a row of CSM has said its text: the model's own sign, and what is done when the sign never comes.

The base model often fails to stop: in a published test 17 % of the clips without a voice prompt ran to the cap, in silence or
nonsense. So each sentence has a cap that grows with its text, and silence or repetition past the text ends it earlier.
The numbers below are guesses from those reports, not measured on real weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tts_provider.engines.base import Samples
from tts_provider.engines.codec_lm import FinishReason

__all__ = ["EndRules", "Ending", "frame_cap"]

Codes = npt.NDArray[np.int64]
"""One frame, shape (codebooks,)."""

FRAMES_PER_CHARACTER: Final = 2.2
"""Cap; natural speech needs about 0.9 (14 characters a second, 12.5 frames a second)."""
EXTRA_FRAMES: Final = 25
"""Added to the cap: two seconds of breath, which matter for short texts."""
EXPECTED_FRAMES_PER_CHARACTER: Final = 0.9
"""From here on the text should have been spoken, and a long silence is the end."""
MAX_FRAMES: Final = 750
"""60 s in one sentence is nonsense, whatever its text."""


@dataclass(frozen=True, slots=True)
class EndRules:
    """Thresholds; None switches a rule off."""

    silence_dbfs: float = -50.0
    """A frame whose RMS is below this is silent."""
    silent_frames: int | None = 12
    """That many silent frames in a row (about 1 s), after the expected length, end the speech."""
    repeated_frames: int | None = 4
    """That many equal frames in a row end the speech: the model is in a loop."""
    tail_frames: int = 2
    """Silent frames kept at the end."""


def frame_cap(characters: int) -> int:
    """The most frames that a text of this length may get."""
    return min(MAX_FRAMES, math.ceil(FRAMES_PER_CHARACTER * characters) + EXTRA_FRAMES)


class Ending:
    """Watches the frames of one sentence: what of them is audio, and which is the last."""

    def __init__(self, rules: EndRules, characters: int, max_frames: int) -> None:
        self._rules = rules
        self._silence = 10 ** (rules.silence_dbfs / 20)
        self._expected = math.ceil(EXPECTED_FRAMES_PER_CHARACTER * characters)
        self._max_frames = max_frames
        self._held: list[Samples] = []
        self._spoken = False
        self._quiet = 0
        self._last: Codes | None = None
        self._same = 0
        self.frames: list[Codes] = []
        """Frames of speech so far, the junk at the end left out once it is known."""

    def push(self, codes: Codes, audio: Samples) -> tuple[Sequence[Samples], FinishReason | None]:
        """Take the next frame; return the audio that is certain by now, and the reason if this was the last frame.

        Silence is held back until something follows it, so that what ends in silence does not end in seconds of it.
        """
        if not codes[:-1].any():
            # generate() looks at 31 of the 32 codes to stop, but at all 32 to cut: with 31 zeros it returns a junk frame.
            return self._tail(), FinishReason.STOP
        self._same = self._same + 1 if self._last is not None and np.array_equal(codes, self._last) else 1
        self._last = codes
        self.frames.append(codes)
        rules = self._rules
        if rules.repeated_frames is not None and self._same >= rules.repeated_frames:
            del self.frames[-self._same + 1 :]
            return self._tail(), FinishReason.REPETITION
        ready = self._sift(audio)
        if rules.silent_frames is not None and self._quiet >= rules.silent_frames and len(self.frames) >= self._expected:
            del self.frames[len(self.frames) - self._quiet + rules.tail_frames :]
            return self._tail(), FinishReason.SILENCE
        if len(self.frames) >= self._max_frames:
            return [*ready, *self._tail()], FinishReason.LENGTH
        return ready, None

    def _sift(self, audio: Samples) -> Sequence[Samples]:
        silent = float(np.sqrt(np.mean(np.square(audio)))) < self._silence
        self._quiet = self._quiet + 1 if silent else 0
        if silent and self._spoken:
            self._held.append(audio)
            return []
        self._spoken = not silent
        ready = [*self._held, audio]
        self._held.clear()
        return ready

    def _tail(self) -> Sequence[Samples]:
        return self._held[: self._rules.tail_frames]
