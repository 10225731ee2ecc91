"""Samples on their way out: trimmed to the speech, resampled, turned into bytes and cut into frames.

    blocks of an engine → Trimmer (one per chunk of speech) → Resampler (one per request) → to_s16 → Framer (one per request)

Everything is mono and works on streams: how the audio is cut into blocks changes neither a bit of the result nor, beyond the
bounds named here, when it comes. Nothing here waits; a step costs microseconds (benchmarks/audio.py prints them).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
import soxr

from tts_provider.engines.base import Samples

__all__ = ["Framer", "Resampler", "Trimmer", "silence", "to_s16"]

SILENCE_LEVEL: Final = 0.005
"""Full scale is 1; a sample no louder than this (-46 dBFS) counts as silence. Edge's head and tail lie below it."""

KEPT_BEFORE_S: Final = 0.025
"""Silence kept before speech: soft onsets such as /h/ and /f/ begin below `SILENCE_LEVEL`."""

KEPT_AFTER_S: Final = 0.050
"""Silence kept after speech: final fricatives and the room die away below `SILENCE_LEVEL`."""

LONGEST_HELD_S: Final = 1.2
"""Silence held back while nobody knows whether speech goes on. Edge ends its turns with 0.8 s; a pause inside a sentence that
is longer than this flows on instead, so that memory stays bounded."""

FADE_S: Final = 0.005
"""Length of the edges. In the 2 ms round a cut in loud speech there is 16 dB more energy above 6 kHz than in the uncut speech
(median of 360 cuts), which is a click; with these edges there is 22 dB less."""

S16_MAX: Final = 32767
"""Full scale in signed 16 bits; symmetric, so that silence stays 0."""

BYTES_PER_SAMPLE: Final = 2

FRAME_MS: Final = 100
"""Audio in a frame after the first: small enough to be heard soon, large enough that a frame's cost does not count."""

_NOTHING: Final[Samples] = np.zeros(0, np.float32)
_FULL_SCALE: Final = np.float32(S16_MAX)


def to_s16(samples: Samples) -> bytes:
    """`samples`, which lie within full scale, as little-endian signed 16-bit PCM."""
    scaled = samples * _FULL_SCALE
    # rint: truncation would double the quantisation error.
    s16: bytes = np.rint(scaled, out=scaled).astype("<i2").tobytes()
    return s16


def silence(seconds: float, sample_rate: int) -> Samples:
    """`seconds` of silence, to the nearest sample."""
    return np.zeros(round(seconds * sample_rate), np.float32)


class Trimmer:
    """Cuts the silence off both ends of one chunk of speech, while it streams, and gives both ends 5 ms raised-cosine edges.

    What comes out is one contiguous stretch of what went in, from `KEPT_BEFORE_S` before the first loud sample to
    `KEPT_AFTER_S` after the last, faded at its edges. Speech is never delayed, except for the `FADE_S` that an end would need;
    silence is held back until speech goes on (it comes out then) or the chunk ends (it is dropped). Of a silence longer than
    `LONGEST_HELD_S` the oldest part flows on, so a longer tail is shortened by about that much only.

    A chunk that is silent throughout yields nothing at all. One object serves one chunk.
    """

    head_s: float
    """Seconds cut from the start, by which word marks shift; known once `feed` has returned a sample, 0 before."""

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._kept_before = round(KEPT_BEFORE_S * sample_rate)
        self._kept_after = round(KEPT_AFTER_S * sample_rate)
        self._longest_held = round(LONGEST_HELD_S * sample_rate)
        self._fade_in = _raised_cosine(round(FADE_S * sample_rate))
        self._fade_out = self._fade_in[::-1]
        # Positions count samples of the input.
        self._start: int | None = None  # of the first sample that comes out
        self._speech_end = 0  # one past the last loud sample
        self._position = 0  # of the first sample in _held
        self._held = _NOTHING
        self._faded_in = False
        self.head_s = 0.0

    def feed(self, samples: Samples) -> Samples:
        """What is now known to belong to the speech: an array of its own, empty while only silence came."""
        if not len(samples):
            return _NOTHING
        fed = self._position + len(self._held)
        if self._start is not None and abs(samples.item(-1)) > SILENCE_LEVEL:  # as most blocks end: no need to look further
            self._speech_end = fed + len(samples)
            if self._faded_in and len(samples) > len(self._fade_in):
                return self._all_but_an_edge(samples)
            self._held = np.concatenate((self._held, samples))
        else:
            self._held = np.concatenate((self._held, samples))
            self._look_for_speech(samples, fed)
        if self._start is None:
            self._take(fed + len(samples) - self._kept_before)
            return _NOTHING
        return self._with_fade_in(self._take(self._settled_end()))

    def _all_but_an_edge(self, samples: Samples) -> Samples:
        """What comes out when speech goes on beyond `samples`."""
        edge = len(self._fade_in)
        taken: Samples = np.concatenate((self._held, samples[:-edge]))
        self._held = samples[-edge:].copy()
        self._position += len(taken)
        return taken

    def _look_for_speech(self, samples: Samples, fed: int) -> None:
        """Note where the speech in `samples`, the first of them at position `fed`, begins and ends."""
        loud = np.abs(samples) > SILENCE_LEVEL
        last = len(loud) - 1 - int(loud[::-1].argmax())
        if loud[last]:
            self._speech_end = fed + last + 1
            if self._start is None:
                self._start = max(0, fed + int(loud.argmax()) - self._kept_before)
                self.head_s = self._start / self._sample_rate
                self._take(self._start)

    def finish(self) -> Samples:
        """The end of the speech, faded out; the silence behind it is dropped."""
        if self._start is None:
            return _NOTHING
        tail = self._with_fade_in(self._take(self._settled_end() + len(self._fade_in)))
        tail *= self._fade_out[-len(tail) :]
        self._held = _NOTHING
        return tail

    def _settled_end(self) -> int:
        """Where the samples end that come out unfaded whatever follows: one fade before where speech would end now."""
        fed = self._position + len(self._held)
        return max(min(self._speech_end + self._kept_after, fed) - len(self._fade_in), fed - self._longest_held)

    def _take(self, end: int) -> Samples:
        """Removes and returns what is held before position `end`."""
        count = max(0, end - self._position)
        taken, self._held = self._held[:count], self._held[count:].copy()  # which a view would keep whole
        self._position += len(taken)
        return taken

    def _with_fade_in(self, taken: Samples) -> Samples:
        assert self._start is not None
        done = self._position - len(taken) - self._start
        if done < len(self._fade_in):
            edge = self._fade_in[done : done + len(taken)]
            taken[: len(edge)] *= edge
        self._faded_in = done + len(taken) >= len(self._fade_in)
        return taken


@lru_cache(maxsize=16)  # one for each sample rate
def _raised_cosine(length: int) -> Samples:
    """Weights that rise from just above 0 to just below 1; reversed, they fall. Not to be written to."""
    weights: Samples = (0.5 - 0.5 * np.cos(np.pi * (np.arange(length) + 0.5) / length)).astype(np.float32)
    weights.setflags(write=False)
    return weights


class Resampler:
    """Changes the sample rate of a stream of samples within full scale; passes it through untouched when the rates are equal.

    n samples become ``n * to_rate / from_rate`` in all, to the nearest whole (either way at a half), bit for bit what
    resampling the whole at once gives (133 dB signal to noise). Between `feed` and `finish` 20 to 80 ms stay inside, filter
    and blocks of soxr together.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        self._stream = None if from_rate == to_rate else soxr.ResampleStream(from_rate, to_rate, 1, "float32", "HQ")

    def feed(self, samples: Samples) -> Samples:
        """What has come through so far, at the new rate; often empty at first."""
        if self._stream is None:
            return samples
        return _clipped(self._stream.resample_chunk(samples))

    def finish(self) -> Samples:
        """What was still inside. Nothing may be fed afterwards."""
        if self._stream is None:
            return _NOTHING
        return _clipped(self._stream.resample_chunk(_NOTHING, last=True))


def _clipped(samples: Samples) -> Samples:
    """`samples` without the filter's overshoot, which unclipped would wrap round to a loud click."""
    if not samples.size or (np.minimum.reduce(samples) >= -1.0 and np.maximum.reduce(samples) <= 1.0):
        return samples  # to look is cheaper than to clip
    return np.clip(samples, -1.0, 1.0)


class Framer:
    """Cuts samples into frames for the wire: the first as soon as there is a sample, later ones of `frame_ms`.

    No sample is ever split, however the bytes come in.
    """

    def __init__(self, sample_rate: int, frame_ms: int = FRAME_MS, *, sample_bytes: int = BYTES_PER_SAMPLE) -> None:
        self._sample_bytes = sample_bytes
        self._frame_bytes = max(1, sample_rate * frame_ms // 1000) * sample_bytes
        self._pending = b""
        self._begun = False

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are complete now, in order."""
        size = self._frame_bytes
        if self._pending:
            data = self._pending + data
        elif len(data) == size:  # as engines that make blocks of a frame's length give it
            self._begun = True
            return [data]
        if not self._begun and len(data) < size:
            size = len(data) // self._sample_bytes * self._sample_bytes
        if not size:
            self._pending = data
            return []
        frames = [data[start : start + size] for start in range(0, len(data) - size + 1, size)]
        self._pending = data[len(frames) * size :]
        self._begun = True
        return frames

    def finish(self) -> list[bytes]:
        """What is left, as one shorter frame. More may be fed afterwards; its frames are full ones.

        Raises:
            ValueError: half a sample is left.
        """
        if len(self._pending) % self._sample_bytes:
            raise ValueError("The last sample is incomplete: s16 audio has an even number of bytes.")
        frames, self._pending = [self._pending] if self._pending else [], b""
        return frames
