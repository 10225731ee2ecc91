"""The audio of one turn between the task that receives it and the task that hands it to the listener."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from tts_provider.engines.base import WordMark
from tts_provider.engines.edge.mp3 import HEADER_BYTES, Mp3Format, read_format
from tts_provider.errors import SynthesisFailed, TTSError

__all__ = ["Piece", "Turn"]

MAX_TURN_BYTES: Final = 8 << 20
"""The service ends a turn at ten minutes, which is 3.6 MB at 48 kbit/s; some paths to it are said to give twice that rate."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What has come since the last piece."""

    mp3: bytes
    marks: Sequence[WordMark]
    last: bool


class Turn:
    """Collects a turn without ever holding up its reception: a listener who pauses keeps undecoded MP3, which is small.

    One task puts in, another takes out.
    """

    def __init__(self) -> None:
        self._mp3 = bytearray()
        self._marks: list[WordMark] = []
        self._wanted_s = 0.0
        self._changed = trio.Event()
        self._complete = False
        self._failure: TTSError | None = None
        self.size = 0
        """Bytes of MP3 that have come."""
        self.format: Mp3Format | None = None
        """Known with the first few bytes; nothing is handed over before."""
        self.touched = False
        """Whether anything was taken out, so that the turn cannot be begun again."""

    # ------------------------------------------------------------------------------------------- the receiving task

    def put(self, mp3: bytes, marks: Sequence[WordMark]) -> None:
        """Add what has come.

        Raises:
            SynthesisFailed: it is no MP3, or too much.
        """
        self._marks += marks
        if not mp3:
            return
        self._mp3 += mp3
        self.size += len(mp3)
        if self.size > MAX_TURN_BYTES:
            raise SynthesisFailed("Edge's speech service sent audio without an end.")
        if self.format is None:
            if self.size < HEADER_BYTES:
                return
            self.format = read_format(self._mp3)
            if self.format is None:
                raise SynthesisFailed("Edge's speech service sent audio that is not MP3.")
        if self._enough:
            self._changed.set()

    def restart(self) -> None:
        """Forget what has come, for another attempt; only while nothing was taken out."""
        self._mp3.clear()
        self._marks.clear()
        self.size = 0
        self.format = None

    def complete(self) -> None:
        """All has come."""
        self._complete = True
        self._changed.set()

    def fail(self, error: TTSError) -> None:
        """No more will come, and what has come is not all."""
        self._failure = error
        self._changed.set()

    # --------------------------------------------------------------------------------------------- the handing task

    @property
    def seconds(self) -> float:
        """How much audio has come."""
        return 0.0 if self.format is None else self.format.seconds(self.size)

    async def take(self, wanted_s: float, at_most_s: float) -> Piece:
        """Wait for `wanted_s` of audio or the end, and take what is there up to `at_most_s`.

        Raises:
            TTSError: the turn failed.
        """
        await trio.lowlevel.checkpoint()  # so that one turn with much to hand over lets others have their turn
        self._wanted_s = wanted_s
        while not (self._enough or self._complete or self._failure):
            self._changed = trio.Event()
            await self._changed.wait()
        if self._failure is not None:
            raise self._failure
        self.touched = True
        size = self._bytes(at_most_s)
        mp3 = bytes(self._mp3[:size])
        del self._mp3[:size]
        marks, self._marks = self._marks, []
        return Piece(mp3, marks, last=self._complete and not self._mp3)

    @property
    def _enough(self) -> bool:
        """Whether there is as much to take as is wanted."""
        return bool(self._mp3) and self.format is not None and self.format.seconds(len(self._mp3)) >= self._wanted_s

    def _bytes(self, seconds: float) -> int:
        return 0 if self.format is None else int(seconds * self.format.bytes_per_second)
