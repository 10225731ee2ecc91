"""From an engine's blocks to what a listener gets: trimmed, paused, resampled, encoded, framed, sentences and words in place.

No input or output and no waiting: each method takes what the engine made and returns the events that follow from it.

Positions are counted in samples at the engine's rate, from the utterance's first sample. The resampler holds back some
milliseconds, so a sentence's first frame may carry the end of the pause before it; `SentenceStart.start_ms` is exact.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from tts_provider.engines.base import Samples, SpeechChunk, WordMark, WordTimings
from tts_provider.streaming.chunker import Boundary
from tts_provider.streaming.containers import Encoder, open_encoder
from tts_provider.streaming.events import AudioFrame, Event, SentenceStart, TimedWord, WordTimes
from tts_provider.streaming.pcm import Framer, Resampler, Trimmer, silence, to_s16
from tts_provider.streaming.text import TextPiece
from tts_provider.streaming.words import estimate_words

__all__ = ["Renderer", "Unit"]

PAUSE_S: Final[dict[Boundary, float]] = {"sentence": 0.15, "paragraph": 0.3, "clause": 0.08, "forced": 0.0}
"""Silence after a piece, by how it ends; on top of the 70 ms or so that trimming leaves around speech."""

RAW_FORMATS: Final[Mapping[str, int]] = MappingProxyType({"pcm": 2, "wav": 2, "mulaw": 1, "alaw": 1})
"""Bytes of a sample in the formats whose bytes are samples, and so can be cut into frames of equal length."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What one `say` speaks: a piece of text, or several short ones together."""

    chunk: SpeechChunk
    pieces: tuple[TextPiece, ...]


class Renderer:
    """One utterance's audio, unit after unit: `begin_unit`; `audio`, `encoded` and `words`; `end_unit`. At last `finish`."""

    def __init__(
        self,
        *,
        engine_rate: int,
        output_rate: int,
        format: str,
        lang: str,
        word_timings: WordTimings,
        words: bool,
        tap: Callable[[bytes], None] | None = None,
    ) -> None:
        """`words`: whether `WordTimes` are wanted. `tap` is given all s16le samples, as they are made."""
        self._rate = engine_rate
        self._format = format
        self._lang = lang
        self._estimate = words and word_timings == "estimated"
        self._words_wanted = words
        self._tap = tap
        self._output_rate = output_rate
        self._resampler = Resampler(engine_rate, output_rate)
        self._encoder: Encoder | None = None
        """Opened with the first samples: what an engine encodes itself needs none."""
        self._framer = self._new_framer()
        self._position = 0.0
        """Engine samples in the utterance so far."""
        self._pause_s = 0.0
        self._sentence = -1
        """Index of the sentence being spoken."""
        self.samples = 0
        """Samples made at the output's rate."""
        self.bytes = 0
        """Bytes of the output's format."""
        self._start_unit_state(None)

    def _start_unit_state(self, unit: Unit | None) -> None:
        self._unit = unit
        self._trimmer = Trimmer(self._rate)
        self._base: float | None = None
        """Position of the unit's first sample, once it has one."""
        self._waiting: deque[TextPiece] = deque(unit.pieces if unit else ())
        """Pieces whose sentence has not started."""
        self._marks: deque[WordMark] = deque()
        """Words of which nobody was told yet."""

    @property
    def sounded(self) -> bool:
        """Whether the unit has had any sound so far."""
        return self._base is not None

    @property
    def sentences(self) -> int:
        """Sentences started so far."""
        return self._sentence + 1

    @property
    def duration_ms(self) -> float:
        """Milliseconds of audio made so far."""
        return 1000 * self._position / self._rate

    def begin_unit(self, unit: Unit) -> None:
        """The blocks that follow speak `unit`."""
        self._start_unit_state(unit)

    def audio(self, samples: Samples) -> list[Event]:
        """The events that a block of the engine's audio leads to."""
        return self._speech(self._trimmer.feed(samples))

    def encoded(self, data: bytes, seconds: float) -> list[Event]:
        """The events that a block of encoded audio leads to; it is passed on untouched."""
        events = self._start()
        events += self._due_sentences(self._position + seconds * self._rate)
        self._position += seconds * self._rate
        self.bytes += len(data)
        events.append(AudioFrame(data))
        return events

    def words(self, marks: Sequence[WordMark]) -> list[Event]:
        """The events that word marks lead to."""
        self._marks.extend(marks)
        return self._due_words() if self._base is not None else []

    def end_unit(self) -> list[Event]:
        """The events at the end of a unit. A unit without any sound leads to none."""
        events = self._speech(self._trimmer.finish())
        if self._unit is None or self._base is None:
            return events
        if self._estimate:
            spoken_s = (self._position - self._base) / self._rate
            self._marks.extend(estimate_words(self._unit.chunk.text, self._lang, spoken_s))
        while self._waiting:
            events += self._start_sentence(self._position)
        events += self._due_words()
        self._pause_s = PAUSE_S[self._unit.pieces[-1].boundary]
        return events

    def finish(self) -> list[Event]:
        """The last events of the utterance."""
        if self._passes_through:
            return []
        events = self._output(self._resampler.finish())
        if self._encoder is not None:
            events += self._frames(self._encoder.finish())
        return events + self._end_frame()

    # --- Positions ---

    def _speech(self, samples: Samples) -> list[Event]:
        """Events for trimmed audio: sentences begin inside it where their first word does."""
        if not samples.size:
            return []
        if self._base is not None and not self._waiting:
            return self._push(samples)
        events = self._start()
        while (start := self._next_sentence_start()) is not None and start < self._position + samples.size:
            cut = max(0, round(start - self._position))
            events += self._push(samples[:cut])
            events += self._start_sentence(self._position)
            samples = samples[cut:]
        return events + self._push(samples)

    def _start(self) -> list[Event]:
        """Begin the unit with its pause and its first sentence, unless it has begun."""
        if self._base is not None:
            return []
        events = self._push(silence(self._pause_s, self._rate)) if self._position and not self._passes_through else []
        self._base = self._position
        return events + self._start_sentence(self._position)

    @property
    def _passes_through(self) -> bool:
        """Whether encoded audio goes out as the engine made it, so that nothing may be put between."""
        return self.bytes > 0 and self.samples == 0

    def _next_sentence_start(self) -> float | None:
        """Position of the next waiting sentence's first word; None while unknown."""
        if self._unit is None or not self._waiting:
            return None
        offset = self._waiting[0].start - self._unit.chunk.start
        mark = next((mark for mark in self._marks if mark.start >= offset), None)
        return None if mark is None else self._position_of(mark.start_s)

    def _position_of(self, seconds: float) -> float:
        """Position of a moment in the unit's audio as the engine counts it, before trimming."""
        assert self._base is not None
        head_s = 0.0 if self._passes_through else self._trimmer.head_s
        return self._base + max(0.0, seconds - head_s) * self._rate

    def _due_sentences(self, end: float) -> list[Event]:
        events: list[Event] = []
        while (start := self._next_sentence_start()) is not None and start < end:
            events += self._start_sentence(start)
        return events

    def _start_sentence(self, position: float) -> list[Event]:
        piece = self._waiting.popleft()
        self._sentence += 1
        events = self._end_frame()
        events.append(SentenceStart(self._sentence, piece.text.strip(), 1000 * position / self._rate))
        return events + self._due_words()

    def _due_words(self) -> list[Event]:
        """The words of sentences that have started."""
        if self._unit is None:
            return []
        limit = self._waiting[0].start - self._unit.chunk.start if self._waiting else len(self._unit.chunk.text)
        due: list[TimedWord] = []
        while self._marks and self._marks[0].start < limit:
            mark = self._marks.popleft()
            due.append(
                TimedWord(
                    text=self._unit.chunk.text[mark.start : mark.end],
                    offset=self._unit.chunk.start + mark.start,
                    start_ms=self._word_ms(mark.start_s),
                    end_ms=self._word_ms(mark.end_s),
                    exact=not self._estimate,
                )
            )
        return [WordTimes(self._sentence, tuple(due))] if due and self._words_wanted else []

    def _word_ms(self, seconds: float) -> float:
        """Estimated marks count from the trimmed audio's start, exact ones from the engine's."""
        assert self._base is not None
        position = self._base + seconds * self._rate if self._estimate else self._position_of(seconds)
        return 1000 * position / self._rate

    # --- Samples and bytes ---

    def _push(self, samples: Samples) -> list[Event]:
        self._position += samples.size
        return self._output(self._resampler.feed(samples)) if samples.size else []

    def _output(self, samples: Samples) -> list[Event]:
        if not samples.size:
            return []
        data = to_s16(samples)
        self.samples += samples.size
        if self._tap is not None:
            self._tap(data)
        if self._encoder is None:
            self._encoder = open_encoder(self._format, self._output_rate)
            return self._frames(self._encoder.header() + self._encoder.feed(data))
        return self._frames(self._encoder.feed(data))

    def _frames(self, data: bytes) -> list[Event]:
        self.bytes += len(data)
        if self._format in RAW_FORMATS:
            return list(map(AudioFrame, self._framer.feed(data)))
        return [AudioFrame(data)] if data else []

    def _end_frame(self) -> list[Event]:
        """Send the frame that is being filled, however short: what follows belongs to something else."""
        frames: list[Event] = [AudioFrame(frame) for frame in self._framer.finish()]
        self._framer = self._new_framer()
        return frames

    def _new_framer(self) -> Framer:
        return Framer(self._output_rate, sample_bytes=RAW_FORMATS.get(self._format, 1))
