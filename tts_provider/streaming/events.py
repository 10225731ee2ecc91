"""What an utterance tells its dialect, in the order in which a listener needs it."""

from __future__ import annotations

from dataclasses import dataclass

from tts_provider.engines.base import VoiceChoice

__all__ = ["AudioFrame", "Event", "SentenceStart", "Started", "TimedWord", "WordTimes"]


@dataclass(frozen=True, slots=True)
class Started:
    """The first event: who speaks. It comes at once or, where another engine may have to step in, with the first sound."""

    engine: str
    """Canonical name."""
    choice: VoiceChoice


@dataclass(frozen=True, slots=True)
class SentenceStart:
    """The audio frames from here on speak this piece of the text."""

    index: int
    """From 0, without gaps."""
    text: str
    """The piece, without the blank around it."""
    start_ms: float
    """Milliseconds of the utterance's audio before it."""


@dataclass(frozen=True, slots=True)
class AudioFrame:
    """Bytes of the asked format."""

    data: bytes


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A word of the text, in the utterance's audio."""

    text: str
    offset: int
    """Code points of the utterance's text before it."""
    start_ms: float
    end_ms: float
    exact: bool
    """False when estimated from the text's length."""


@dataclass(frozen=True, slots=True)
class WordTimes:
    """Words of one sentence; several may come for one sentence, in order."""

    index: int
    """The sentence's."""
    words: tuple[TimedWord, ...]


Event = Started | SentenceStart | AudioFrame | WordTimes
