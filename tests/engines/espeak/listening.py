"""What the tests of the engine share: a listener, and short ways to speak."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import psutil
import trio

from tts_provider.engines.base import Samples, SpeechChunk, SpeechOptions, VoiceRequest, WordMark
from tts_provider.engines.espeak import EspeakEngine

SAMPLE_RATE = 22050
SENTENCE = "The quick brown fox jumps over the lazy dog near the river bank."
CRASHES = "é . " * 101
"""Ends any process that speaks it with espeak-ng 1.52."""


@dataclass
class Listener:
    """A sink that keeps all it gets; with a `gate`, it takes no audio before that opens."""

    gate: trio.Event | None = None
    blocks: list[Samples] = field(default_factory=list)
    marks: list[WordMark] = field(default_factory=list)
    marks_in_time: bool = True
    """Whether each mark came before any audio that follows its word."""
    reached: trio.Event = field(default_factory=trio.Event)
    """Set when the first audio comes."""

    async def audio(self, samples: Samples) -> None:
        self.reached.set()
        if self.gate is not None:
            await self.gate.wait()
        self.blocks.append(samples)

    async def words(self, marks: Sequence[WordMark]) -> None:
        self.marks_in_time &= all(self.seconds <= mark.end_s + 1e-6 for mark in marks)
        self.marks.extend(marks)

    async def encoded(self, data: bytes, seconds: float) -> None:
        raise AssertionError("nobody asked for it")

    @property
    def samples(self) -> Samples:
        return np.concatenate([np.zeros(0, np.float32), *self.blocks])

    @property
    def seconds(self) -> float:
        return sum(map(len, self.blocks)) / SAMPLE_RATE


async def say(
    engine: EspeakEngine,
    text: str = SENTENCE,
    request: VoiceRequest | None = None,
    options: SpeechOptions | None = None,
    listener: Listener | None = None,
) -> Listener:
    """The listener, after it has heard `text` in a session of its own. Fails after a minute."""
    listener = listener or Listener()
    with trio.fail_after(60):
        await _say(engine, text, request or VoiceRequest(), options or SpeechOptions(), listener)
    return listener


async def _say(engine: EspeakEngine, text: str, request: VoiceRequest, options: SpeechOptions, listener: Listener) -> None:
    async with engine.session(engine.resolve(request), options) as session:
        await session.say(SpeechChunk(text), listener)


@asynccontextmanager
async def loaded(engine: EspeakEngine) -> AsyncIterator[EspeakEngine]:
    """The engine while it runs."""
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run, lambda done, doing: None)
        yield engine
        nursery.cancel_scope.cancel()


def workers() -> list[psutil.Process]:
    """The worker processes of this process, dead ones that nobody has reaped included."""
    return list(psutil.Process().children())
