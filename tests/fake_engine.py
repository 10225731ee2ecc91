"""An engine for tests that is a real engine: deterministic tones, and speed and faults that a test can choose.

Each chunk is a tone whose frequency tells its index, between silences as real engines have them, so that what arrives at a
client can be told apart by ear or by arithmetic. Text chooses faults: a chunk that contains a key of `FakeEngine.faults` has
that fault.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import trio

from tts_provider.engines.base import (
    Capabilities,
    ProgressReport,
    QueueReport,
    Samples,
    Session,
    Sink,
    SpeechChunk,
    SpeechOptions,
    Voice,
    VoiceChoice,
    VoiceRequest,
    WordMark,
)
from tts_provider.engines.catalog import Entry
from tts_provider.engines.languages import canonical_tag, closest_tag, unsupported
from tts_provider.errors import EngineUnavailable, SynthesisFailed, UnknownSpeaker

HEAD_S = 0.1
"""Silence before each chunk."""
TAIL_S = 0.2
"""Silence after each chunk."""
SECONDS_PER_CHARACTER = 0.05
BLOCK_S = 0.05
AMPLITUDE = 0.5

VOICES = (
    Voice("tone-a", "Tone A", "en-US", "male"),
    Voice("tone-b", "Tone B", "en-GB", "female"),
    Voice("tone-c", "Tone C", "ja-JP", "female"),
)


def tone_frequency(index: int) -> float:
    """Hz of the chunk's tone."""
    return 200.0 + 50.0 * (index % 40)


def chunk_audio(chunk: SpeechChunk, sample_rate: int, speed: float = 1.0) -> Samples:
    """All audio of a chunk: head, tone, tail."""
    seconds = SECONDS_PER_CHARACTER * max(1, len(chunk.text.strip())) / speed
    time = np.arange(round(seconds * sample_rate), dtype=np.float32) / sample_rate
    tone = AMPLITUDE * np.sin(2 * np.pi * tone_frequency(chunk.index) * time)
    head, tail = (np.zeros(round(silence * sample_rate)) for silence in (HEAD_S, TAIL_S))
    return np.concatenate([head, tone, tail]).astype(np.float32)


@dataclass
class FakeEngine:
    """Implements `Engine`."""

    name: str = "fake"
    capabilities: Capabilities = field(default_factory=lambda: Capabilities(sample_rate=24_000, speed=True))
    block_delay_s: float = 0.0
    """Waited before each block of `BLOCK_S`."""
    load_s: float = 0.0
    load_error: bool = False
    faults: Mapping[str, str] = field(default_factory=dict)
    """Text in a chunk → one of before, after, nothing, silence, nan, inf, dtype, odd, encoded, loud, scaled, short, hang,
    endless, bug. The text "" is in every chunk."""
    load_bug: Exception | None = None
    """Raised at the end of a load."""

    loads: int = 0
    running: bool = False
    sessions: int = 0
    """Open now."""
    saying: int = 0
    """`say` calls that run now."""
    said: list[str] = field(default_factory=list)
    """The text of each `say`, in the order of their beginning."""
    options: list[SpeechOptions] = field(default_factory=list)
    """Those of each session."""
    blocks: int = 0
    """Blocks made in all; it stands still once nothing is spoken."""
    cancelled: int = 0
    """`say` calls that were cancelled."""
    stopped_at: float = 0.0
    """When the last `say` ended, on Trio's clock."""
    crash: Callable[[], None] = lambda: None
    """Ends the engine by an error, as a device that is gone does."""

    async def run(self, report: ProgressReport, *, task_status: trio.TaskStatus[None]) -> None:
        self.loads += 1
        for step in range(4):
            report(step / 4, "making tones")
            await trio.sleep(self.load_s / 4)
        if self.load_error:
            raise EngineUnavailable("The fake engine was told not to load.")
        if self.load_bug is not None:
            raise self.load_bug
        self.running = True
        crashed = trio.Event()
        self.crash = crashed.set
        try:
            task_status.started()
            await crashed.wait()
            raise RuntimeError("the device is gone: /secret/path")
        finally:
            self.running = False

    def voices(self) -> Sequence[Voice]:
        return VOICES

    def resolve(self, request: VoiceRequest) -> VoiceChoice:
        if request.voice is not None:
            for voice in VOICES:
                if voice.id == request.voice:
                    return VoiceChoice(voice, voice.language, request.speaker)
            raise UnknownSpeaker(f"There is no voice of that name. Voices: {', '.join(v.id for v in VOICES)}.", field="voice")
        tags = [voice.language for voice in VOICES]
        tag = closest_tag(canonical_tag(request.lang), tags)
        if tag is None:
            raise unsupported(request.lang, self.name, tags)
        if request.speaker > 3:
            raise UnknownSpeaker("There is no such speaker. Speakers: 0, 1, 2, 3.", field="speaker")
        warnings = ("Speaker 2 has left; speaker 0 speaks instead.",) if request.speaker == 2 else ()
        return VoiceChoice(next(voice for voice in VOICES if voice.language == tag), tag, request.speaker, warnings)

    @asynccontextmanager
    async def session(
        self, choice: VoiceChoice, options: SpeechOptions, queued: QueueReport | None = None
    ) -> AsyncIterator[Session]:
        slots = self.capabilities.slots
        position = 1
        while slots is not None and self.sessions >= slots:
            if queued is not None:
                queued(position)
            await trio.sleep(0.1)
        self.sessions += 1
        self.options.append(options)
        try:
            yield _Session(self, options)
        finally:
            self.sessions -= 1


class _Session:
    def __init__(self, engine: FakeEngine, options: SpeechOptions) -> None:
        self._engine = engine
        self._options = options

    async def say(self, chunk: SpeechChunk, sink: Sink) -> None:
        engine = self._engine
        engine.said.append(chunk.text)
        engine.saying += 1
        try:
            await self._say(chunk, sink)
        except trio.Cancelled:
            engine.cancelled += 1
            raise
        finally:
            engine.saying -= 1
            engine.stopped_at = trio.current_time()

    async def _say(self, chunk: SpeechChunk, sink: Sink) -> None:
        engine = self._engine
        fault = next((fault for text, fault in engine.faults.items() if text in chunk.text), None)
        audio = chunk_audio(chunk, engine.capabilities.sample_rate, self._options.speed)
        match fault:
            case "before":
                raise SynthesisFailed("The fake engine failed before the audio.")
            case "bug":
                raise ZeroDivisionError("a bug in the fake engine: /secret/path")
            case "nothing":
                return
            case "silence":
                audio = np.zeros_like(audio)
            case "nan":
                audio[len(audio) // 2] = np.nan
            case "inf":
                audio[len(audio) // 2] = np.inf
            case "dtype":
                audio = audio.astype(np.float64)
            case "odd":
                await sink.audio(cast("Samples", audio.tobytes()[:-1]))
            case "encoded":
                await sink.encoded(b"\xff\xfb\x90\x00" * 100, 0.1)
            case "loud":
                audio *= 3
            case "scaled":
                audio *= 32767
            case "short":
                audio = audio[: round((HEAD_S + 0.03) * engine.capabilities.sample_rate)]
            case "hang":
                await trio.sleep_forever()
        if engine.capabilities.word_timings == "exact":
            await sink.words(word_marks(chunk, self._options.speed))
        size = round(BLOCK_S * engine.capabilities.sample_rate)
        while True:
            for number, start in enumerate(range(0, len(audio), size)):
                if fault == "after" and number == 4:
                    raise SynthesisFailed("The fake engine failed after some audio.")
                await trio.sleep(engine.block_delay_s)
                engine.blocks += 1
                await sink.audio(audio[start : start + size])
            if fault != "endless":
                break


def word_marks(chunk: SpeechChunk, speed: float = 1.0) -> list[WordMark]:
    """Marks of the chunk's words, where the tone would be at each word's characters."""
    lead = len(chunk.text) - len(chunk.text.lstrip())
    per_character = SECONDS_PER_CHARACTER / speed
    return [
        WordMark(
            word.start(),
            word.end(),
            HEAD_S + (word.start() - lead) * per_character,
            HEAD_S + (word.end() - lead) * per_character,
        )
        for word in re.finditer(r"\w+", chunk.text)
    ]


def entry(engine: FakeEngine, *aliases: str, unavailable: Callable[[], str | None] = lambda: None) -> Entry:
    """A catalog line for `engine`."""
    return Entry(
        name=engine.name,
        sample_rate=engine.capabilities.sample_rate,
        create=lambda: engine,
        aliases=aliases,
        unavailable=unavailable,
        light=True,
        speakers={"0": "Tone"},
    )
