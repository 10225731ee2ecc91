"""What the tests of the Edge engine share: an engine on a fake service, a sink that remembers, ears for tones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import trio

from tests.edge_service import EdgeService, Event
from tests.edge_service.journal import Kind
from tts_provider.engines.base import Engine, Samples, SpeechChunk, SpeechOptions, VoiceRequest, WordMark
from tts_provider.engines.edge import Deadlines, EdgeEngine
from tts_provider.errors import TTSError

SAMPLE_RATE = 24_000
QUICK = Deadlines(connect_s=0.5, first_audio_s=0.8, attempt_s=0.3, gap_s=0.3, slot_s=2.0, voices_s=0.5, close_s=0.3)
"""Deadlines for tests in which the service stalls."""
NOISE = 0.02
"""What lossy coding adds to silence at most, and then some."""


@dataclass
class RecordingSink:
    """Keeps what is pushed, and when; `hold` is awaited before each block."""

    blocks: list[Samples] = field(default_factory=list)
    encoded_blocks: list[tuple[bytes, float]] = field(default_factory=list)
    marks: list[WordMark] = field(default_factory=list)
    log: list[tuple[str, float]] = field(default_factory=list)
    """"audio" with the seconds pushed before, or "word" with the word's end."""
    first_block: trio.Event = field(default_factory=trio.Event)
    gate: trio.Event | None = None

    async def audio(self, samples: Samples) -> None:
        self.log.append(("audio", self.seconds))
        self.blocks.append(samples)
        await self._pass()

    async def encoded(self, data: bytes, seconds: float) -> None:
        self.encoded_blocks.append((data, seconds))
        await self._pass()

    async def words(self, marks: Sequence[WordMark]) -> None:
        self.log += [("word", mark.end_s) for mark in marks]
        self.marks += marks

    async def _pass(self) -> None:
        self.first_block.set()
        if self.gate is not None:
            await self.gate.wait()
        await trio.lowlevel.checkpoint()

    @property
    def audio_samples(self) -> Samples:
        """All samples so far."""
        return np.concatenate(self.blocks) if self.blocks else np.zeros(0, np.float32)

    @property
    def seconds(self) -> float:
        """How much audio was pushed."""
        return sum(map(len, self.blocks)) / SAMPLE_RATE

    @property
    def mp3(self) -> bytes:
        """All encoded audio so far."""
        return b"".join(data for data, _ in self.encoded_blocks)


@asynccontextmanager
async def running(engine: EdgeEngine) -> AsyncIterator[EdgeEngine]:
    """`engine`, loaded until the block ends."""
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run, lambda share, doing: None)
        yield engine
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def engine_on(
    service: EdgeService, cache: Path, *, deadlines: Deadlines | None = None, max_turns: int = 64, preconnect: int = 0
) -> AsyncIterator[EdgeEngine]:
    """An engine that speaks through `service`."""
    engine = EdgeEngine(
        endpoint=service.endpoint, cache_dir=cache, deadlines=deadlines, max_turns=max_turns, preconnect=preconnect
    )
    async with running(engine):
        yield engine


async def say(
    engine: Engine,
    text: str,
    sink: RecordingSink | None = None,
    *,
    request: VoiceRequest | None = None,
    options: SpeechOptions | None = None,
    index: int = 0,
) -> RecordingSink:
    """Say one chunk, and return the sink with all of it."""
    sink = sink or RecordingSink()
    choice = engine.resolve(request or VoiceRequest())
    async with engine.session(choice, options or SpeechOptions()) as session:
        await session.say(SpeechChunk(text, index=index), sink)
    return sink


async def failure_of(engine: Engine, text: str, sink: RecordingSink | None = None) -> TTSError:
    """The error with which saying `text` ends."""
    try:
        await say(engine, text, sink)
    except TTSError as error:
        return error
    raise AssertionError(f"{text!r} was said without an error")


def loudest_tone(samples: Samples) -> float:
    """Frequency in Hz of the strongest tone, to the nearest 50."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 1 << 17))
    return round(float(np.argmax(spectrum)) * SAMPLE_RATE / (1 << 17) / 50) * 50.0


def tone_between(samples: Samples, start_s: float, end_s: float) -> float:
    """The strongest tone between two moments."""
    return loudest_tone(samples[round(start_s * SAMPLE_RATE) : round(end_s * SAMPLE_RATE)])


def level_between(samples: Samples, start_s: float, end_s: float) -> float:
    """The largest sample between two moments."""
    return float(np.max(np.abs(samples[round(start_s * SAMPLE_RATE) : round(end_s * SAMPLE_RATE)])))


async def happened(service: EdgeService, kind: Kind, count: int = 1, timeout_s: float = 5.0) -> list[Event]:
    """Wait until `count` events of a kind have happened at the fake, and return them."""
    return await trio.to_thread.run_sync(service.journal.wait, kind, count, timeout_s)
