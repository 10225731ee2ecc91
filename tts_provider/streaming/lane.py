"""The way of one chunk's audio from its engine to its listener, bounded in seconds of audio."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import trio

from tts_provider.engines.base import Samples, WordMark
from tts_provider.errors import SynthesisFailed, TTSError

__all__ = ["Encoded", "Lane", "LaneItem"]

WAITING_S: Final = 1.0
PLAYING_S: Final = 2.5
"""Seconds of audio made ahead in a lane that waits for its turn, and in the one that is heard: 96 and 240 kB at 24 kHz. The
engine waits while there is more."""
LOUDEST: Final = 16.0
"""Full scale is 1. What is somewhat beyond is clipped on its way out; what is beyond this (24 dB) is no audio but whole numbers
that were never scaled down, or a model that has run away."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Audio as the engine encoded it."""

    data: bytes
    seconds: float


LaneItem = Samples | Encoded | tuple[WordMark, ...]


class Lane:
    """A sink for one `say`, emptied by the utterance. One task pushes, one takes."""

    def __init__(self, sample_rate: int, max_s: float, *, encoded: bool = False) -> None:
        """`max_s`: seconds of audio at most. `encoded`: whether encoded audio was asked for, and so no samples."""
        self._sample_rate = sample_rate
        self._max_s = max_s
        self._encoded = encoded
        self._items: deque[LaneItem] = deque()
        self._error: TTSError | None = None
        self._closed = False
        self._filled = trio.Event()
        self._drained = trio.Event()
        self._ahead_s = WAITING_S
        self.pushed_s = 0.0
        """Seconds of audio in all."""
        self.seconds = 0.0
        """Seconds of audio that wait in the lane."""

    async def audio(self, samples: Samples) -> None:
        if self._encoded or not isinstance(samples, np.ndarray) or samples.ndim != 1 or samples.dtype != np.float32:
            raise SynthesisFailed("The engine made something that is not mono float32 audio.")
        if samples.size == 0:
            return
        # Asked this way round, for NaN is neither: both reductions hand it on.
        if not (np.minimum.reduce(samples) >= -LOUDEST and np.maximum.reduce(samples) <= LOUDEST):
            raise SynthesisFailed("The engine made audio that holds values which are no samples.")
        await self._put(samples, samples.size / self._sample_rate)

    async def encoded(self, data: bytes, seconds: float) -> None:
        # Among samples it would be noise.
        if not self._encoded or not isinstance(data, bytes) or not 0 <= seconds < math.inf:
            raise SynthesisFailed("The engine made encoded audio for which nobody asked, or of no length.")
        if data:
            await self._put(Encoded(data, seconds), seconds)

    async def words(self, marks: Sequence[WordMark]) -> None:
        if marks:
            await self._put(tuple(marks), 0.0)

    async def _put(self, item: LaneItem, seconds: float) -> None:
        self.pushed_s += seconds
        if self.pushed_s > self._max_s:
            raise SynthesisFailed("The engine made far more audio than the text can last.")
        self._items.append(item)
        self.seconds += seconds
        self._filled.set()
        while self.seconds > self._ahead_s:
            self._drained = trio.Event()
            await self._drained.wait()

    def close(self, error: TTSError | None = None) -> None:
        """Nothing more comes; `error` is raised to the listener once it has taken what there is."""
        self._error = error
        self._closed = True
        self._filled.set()

    def play(self) -> None:
        """Note that it is this lane's turn to be heard."""
        self._ahead_s = PLAYING_S
        self._drained.set()

    async def take(self) -> LaneItem | None:
        """The next item; None after the last.

        Raises:
            TTSError: the engine failed here.
        """
        while not self._items:
            if self._error is not None:
                raise self._error
            if self._closed:
                return None
            self._filled = trio.Event()
            await self._filled.wait()
        item = self._items.popleft()
        if isinstance(item, Encoded):
            self.seconds -= item.seconds
        elif isinstance(item, np.ndarray):
            self.seconds -= item.size / self._sample_rate
        self._drained.set()
        return item
