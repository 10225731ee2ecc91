"""espeak-ng as an engine: over a hundred languages offline, at once, on any machine; intelligible rather than beautiful."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import numpy as np
import trio

from tts_provider.engines.base import (
    Capabilities,
    ProgressReport,
    QueueReport,
    Samples,
    Sink,
    SpeechChunk,
    SpeechOptions,
    Voice,
    VoiceChoice,
    VoiceRequest,
)
from tts_provider.engines.espeak.library import check_version, find_library
from tts_provider.engines.espeak.pool import Pool
from tts_provider.engines.espeak.voices import ENGINE, VoiceList
from tts_provider.engines.espeak.words import WordTracker
from tts_provider.engines.espeak.worker import AUDIO, EVENTS, SETTINGS
from tts_provider.errors import EngineUnavailable, InvalidRequest, NoAudio, UnknownSpeaker

__all__ = ["EspeakEngine"]

SAMPLE_RATE: Final = 22050
"""Hz of every voice that the library's data holds."""

MAX_WORKERS: Final = 2
"""One makes hundreds of seconds of speech in a second; more than two only take memory."""

WORDS_PER_MINUTE: Final = 175
"""The library's normal rate, and so what speed 1 means."""

NOTHING_SAMPLES: Final = 500
"""What the library makes of a text in which it finds nothing to say: up to 485 samples of silence, at its slowest."""

_FULL_SCALE: Final = np.float32(1 / 32768)

_RANGES: Final = {"pitch": (50, 99), "pitch_range": (50, 100), "volume": (100, 100)}
"""The engine's own options: the value when nothing is said, and the largest. Louder than 100 the library would clip."""

_CAPABILITIES: Final = Capabilities(
    sample_rate=SAMPLE_RATE, max_chunk_weight=240, speed=True, word_timings="exact", options=frozenset(_RANGES)
)

_UNSPEAKABLE: Final = dict.fromkeys([*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), *range(0x7F, 0xA0), 0xFFFE, 0xFFFF], " ")
"""Replaced one for one, which keeps every offset: NUL ends a text, 0x01 begins the library's own commands."""


class EspeakEngine:
    """espeak-ng in worker processes.

    `SpeechOptions.speed` is honoured from 0.48 to 4, within 7 %; below that the library does not go, so slower requests are
    spoken at 0.48. Engine options: ``pitch`` 0 to 99, ``pitch_range`` 0 to 100, ``volume`` 0 to 100.

    Spoken again in the same process a text differs by a few samples; a worker's first text is always the same.
    """

    def __init__(self, *, library: str | None = None, data: str | None = None, workers: int = 1) -> None:
        """An engine on the given library and data, or on those that `find_library` finds when it is loaded."""
        if not 1 <= workers <= MAX_WORKERS:
            raise ValueError(f"workers must be 1 to {MAX_WORKERS}, not {workers}")
        self._library = library
        self._data = data
        self._workers = workers
        self._pool: Pool | None = None
        self._voices: VoiceList | None = None

    @property
    def name(self) -> str:
        """``espeak``."""
        return ENGINE

    @property
    def capabilities(self) -> Capabilities:
        """22,050 Hz, speed, exact words."""
        return _CAPABILITIES

    async def run(self, report: ProgressReport, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the workers and keep them at work until cancelled; see `Engine.run`. No process survives it."""
        pool = Pool(find_library(self._library, self._data))
        report(None, "Starting espeak-ng.")
        failure: EngineUnavailable | None = None
        try:
            async with trio.open_nursery() as nursery:
                try:
                    about = await nursery.start(pool.serve)
                    check_version(about.version)
                    if about.sample_rate != SAMPLE_RATE:
                        raise EngineUnavailable(f"This espeak-ng speaks at {about.sample_rate} Hz, not at {SAMPLE_RATE}.")
                except EngineUnavailable as error:
                    failure = error  # raised below, where the nursery cannot wrap it in a group
                    nursery.cancel_scope.cancel()
                else:
                    for _ in range(1, self._workers):
                        nursery.start_soon(pool.serve)
                    self._pool, self._voices = pool, VoiceList(about.listing)
                    task_status.started()
        finally:
            pool.close()
            self._pool = self._voices = None
        if failure is not None:
            raise failure

    def voices(self) -> Sequence[Voice]:
        """All voices; each also exists in the library's variants, as ``gmw/en-US+f3``."""
        return self._loaded()[1].voices

    def resolve(self, request: VoiceRequest) -> VoiceChoice:
        """Decide who speaks; see `Engine.resolve`."""
        return self._loaded()[1].resolve(request)

    @asynccontextmanager
    async def session(
        self, choice: VoiceChoice, options: SpeechOptions, queued: QueueReport | None = None
    ) -> AsyncIterator[EspeakSession]:
        """Open a session, at once; see `Engine.session`."""
        pool, voices = self._loaded()
        if choice.voice.id not in voices:
            raise UnknownSpeaker(f"Engine '{ENGINE}' has no such voice. Ask for the list of voices.", field="voice")
        yield EspeakSession(pool, choice.voice.id, options)

    def _loaded(self) -> tuple[Pool, VoiceList]:
        if self._pool is None or self._voices is None:
            raise EngineUnavailable(f"Engine '{ENGINE}' is not loaded.")
        return self._pool, self._voices


class EspeakSession:
    """One utterance on the engine. It holds nothing between its sentences."""

    def __init__(self, pool: Pool, voice: str, options: SpeechOptions) -> None:
        self._pool = pool
        self._words = options.words
        # uint16 in the frame; the library itself bounds the rate from below.
        rate = min(max(round(WORDS_PER_MINUTE * options.speed), 1), 0xFFFF)
        pitch, pitch_range, volume = _settings(options.extra)
        identifier = voice.encode()
        self._head = SETTINGS.pack(rate, pitch, pitch_range, volume, options.words, len(identifier)) + identifier

    async def say(self, chunk: SpeechChunk, sink: Sink) -> None:
        """Speak `chunk` into `sink`; see `Session.say`. Markup and phoneme codes in the text are read out as they stand."""
        text = chunk.text.translate(_UNSPEAKABLE).encode(errors="replace")
        words = WordTracker(chunk.text, SAMPLE_RATE)
        held: list[bytes] = []
        speech = await self._pool.speak(self._head + text, text)
        try:
            while (frames := await speech.frames()) is not None:
                marks = []
                for kind, payload in frames:
                    if kind == AUDIO:
                        held.append(payload)
                    elif kind == EVENTS:
                        marks += words.feed(payload)
                if marks:
                    await sink.words(marks)
                if held and not words.undecided:
                    await sink.audio(_samples(held))
                    held.clear()
            if speech.samples <= NOTHING_SAMPLES and any(map(str.isalnum, chunk.text)):
                raise NoAudio("espeak-ng made no sound of this text; the voice may not know its script.", retryable=False)
            if marks := words.finish(speech.samples):
                await sink.words(marks)
            if held:
                await sink.audio(_samples(held))
        finally:
            speech.leave()


def _samples(blocks: Sequence[bytes]) -> Samples:
    return np.frombuffer(b"".join(blocks), np.int16).astype(np.float32) * _FULL_SCALE


def _settings(extra: Mapping[str, Any]) -> list[int]:
    """The values of all options in `_RANGES`, in its order."""
    values = []
    for option, (normal, largest) in _RANGES.items():
        value = extra.get(option, normal)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= largest:
            raise InvalidRequest(
                f"Option '{option}' of engine '{ENGINE}' is an integer from 0 to {largest}.", field="extra_params"
            )
        values.append(value)
    return values
