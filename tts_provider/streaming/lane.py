"""The way of one chunk's audio from its engine to its listener, bounded in seconds of audio."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import trio

from tts_provider.engines.base import Samples, WordMark
from tts_provider.errors import SynthesisFailed, TTSError
from tts_provider.streaming.events import Event

__all__ = ["Encoded", "Hear", "Lane", "LaneItem", "Rendered"]

WAITING_S: Final = 0.25
PLAYING_S: Final = 2.5
"""Seconds of audio made ahead in a lane that waits for its turn, and in the one that is heard: 24 and 240 kB at 24 kHz. The
engine waits while there is more; in a lane that waits it need only have begun, for it goes on when the turn comes."""
LOUDEST: Final = 16.0
"""Full scale is 1. What is somewhat beyond is clipped; what is beyond this (24 dB) is no audio but whole numbers that were
never scaled down, or a model that has run away."""
FLOAT32: Final = np.dtype(np.float32)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Audio as the engine encoded it."""

    data: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class Rendered:
    """What audio led to and is still to be delivered."""

    events: list[Event]


LaneItem = Samples | Encoded | tuple[WordMark, ...] | Rendered

Hear = Callable[[LaneItem], list[Event]]
"""Takes an item without waiting, in the engine's own task; returns what could not be delivered so."""


class Lane:
    """A sink for one `say`, emptied by the utterance. One task pushes, one takes. The samples in it are finite and within full
    scale, so that nobody behind it need look again.

    What comes while the one that takes has nothing to do is heard at once, where it was pushed: to wake another task for every
    block would cost as much as the rest of its way.
    """

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
        self._hear: Hear | None = None
        self._idle = False
        """Whether `take` waits, and nothing is there for it yet."""
        self.pushed_s = 0.0
        """Seconds of audio in all."""
        self.seconds = 0.0
        """Seconds of audio that wait in the lane."""

    async def audio(self, samples: Samples) -> None:
        if self._encoded or not isinstance(samples, np.ndarray) or samples.ndim != 1 or samples.dtype != FLOAT32:
            raise SynthesisFailed("The engine made something that is not mono float32 audio.")
        if samples.size == 0:
            return
        lowest, highest = np.minimum.reduce(samples), np.maximum.reduce(samples)
        if not (lowest >= -1.0 and highest <= 1.0):  # asked this way round, for NaN is neither: both reductions hand it on
            if not (lowest >= -LOUDEST and highest <= LOUDEST):
                raise SynthesisFailed("The engine made audio that holds values which are no samples.")
            samples = np.clip(samples, -1.0, 1.0)
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
        if self._idle and self._hear is not None:
            await trio.lowlevel.checkpoint_if_cancelled()
            if not (left := self._hear(item)):
                return
            item, seconds = Rendered(left), 0.0
        self._items.append(item)
        self.seconds += seconds
        self._wake()
        while self.seconds > self._ahead_s:
            self._drained = trio.Event()
            await self._drained.wait()

    def close(self, error: TTSError | None = None) -> None:
        """Nothing more comes; `error` is raised to the listener once it has taken what there is."""
        self._error = error
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._idle = False
        self._filled.set()

    def play(self, hear: Hear | None = None) -> None:
        """Note that it is this lane's turn to be heard, by `hear` what comes while `take` waits."""
        self._ahead_s = PLAYING_S
        self._hear = hear
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
            self._idle = True
            try:
                await self._filled.wait()
            finally:
                self._idle = False
        item = self._items.popleft()
        if isinstance(item, Encoded):
            self.seconds -= item.seconds
        elif isinstance(item, np.ndarray):
            self.seconds -= item.size / self._sample_rate
        self._drained.set()
        return item
