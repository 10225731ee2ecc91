"""One text between the pool and its listener."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import trio

from tts_provider.engines.espeak.process import Frame
from tts_provider.engines.espeak.worker import AUDIO
from tts_provider.errors import EngineError, SynthesisFailed

__all__ = ["MAX_AUDIO_BYTES", "EndlessSpeech", "Speech"]

MAX_AUDIO_BYTES: Final = 600 * 22050 * 2
"""Audio of one text, ten minutes: what one listener can make the server keep. 240 characters were never seen to take 150 s."""


class EndlessSpeech(Exception):
    """The audio of a text exceeds `MAX_AUDIO_BYTES`."""


class Speech:
    """An order on its way to a worker, and what comes back: the pool delivers, one listener takes.

    Everything is kept that the listener has not taken yet, so that delivering never waits.
    """

    def __init__(self, order: bytes, text: bytes) -> None:
        self.order = order
        """The payload of `SAY`."""
        self.text = text
        self.orphaned = False
        """Whether a worker was ended from outside before it had answered. That is forgiven once."""
        self.samples = 0
        """How many samples were made; known when `frames` has told the end."""
        self._error: EngineError | None = None
        self._audio_bytes = 0
        # Without a bound in number: the bounds on a text's bytes and time are bounds on this too.
        self._inlet, self._outlet = trio.open_memory_channel[Sequence[Frame]](math.inf)

    async def frames(self) -> Sequence[Frame] | None:
        """What has come since the last call; None when the text has been spoken to its end.

        Raises:
            EngineError: it will not be.
        """
        try:
            return await self._outlet.receive()
        except trio.EndOfChannel:
            if self._error is not None:
                raise self._error from None
            return None

    def leave(self) -> None:
        """Say that nobody listens any more."""
        self._outlet.close()

    @property
    def untouched(self) -> bool:
        """Whether no audio has come yet."""
        return self._audio_bytes == 0

    def deliver(self, frames: Sequence[Frame]) -> bool:
        """Hand frames to the listener; returns whether there is one.

        Raises:
            EndlessSpeech: it has become too much.
        """
        self._audio_bytes += sum(len(payload) for kind, payload in frames if kind == AUDIO)
        if self._audio_bytes > MAX_AUDIO_BYTES:
            raise EndlessSpeech
        try:
            if frames:
                self._inlet.send_nowait(frames)
        except trio.BrokenResourceError:
            return False
        return True

    def finish(self, samples: int) -> None:
        """Tell the end; `samples` is what the worker says it has sent."""
        if 2 * samples != self._audio_bytes:
            self.fail(SynthesisFailed("A part of the audio was lost on its way from espeak-ng."))
            return
        self.samples = samples
        self._inlet.close()

    def fail(self, error: EngineError) -> None:
        """Tell that no more will come, and why."""
        self._error = error
        self._inlet.close()
