"""Word events of espeak-ng made into word marks.

The library tells the start of a word, in the text and in the audio, and no end. Its events need cleaning: a number is
announced once for each of its spoken words, at overlapping places; an abbreviation covers its first letter only; "of the" is
announced as "of"; a phrase in a foreign script comes as one event again and again. So a word lasts, in the text, to the start
of the next less what no word ends in, and in the audio to the silence before the next or else to its start.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Final

from tts_provider.engines.base import WordMark
from tts_provider.engines.espeak.worker import EVENT, PAUSE, SPEECH, WORD

__all__ = ["WordTracker"]

_NOT_A_WORDS_END: Final = ("P", "Z", "C", "Sm", "Sc", "Sk")
"""Unicode categories: punctuation, separators, controls, and all symbols but pictures."""


@dataclass(slots=True)
class _Open:
    """The word being spoken."""

    start: int
    told_end: int
    """Where the library says that it ends in the text; at least its first character."""
    first_sample: int


class WordTracker:
    """The words of one chunk, found while its events arrive."""

    def __init__(self, text: str, sample_rate: int) -> None:
        self._text = text
        self._sample_rate = sample_rate
        self._open: _Open | None = None
        self._silent_since: int | None = None
        self._last_sample = 0
        """Where the last closed word ends in the audio."""

    @property
    def undecided(self) -> bool:
        """Whether a word has fallen silent and may be over. The audio from there has to wait for its mark."""
        return self._open is not None and self._silent_since is not None

    def feed(self, events: bytes) -> list[WordMark]:
        """The words that are now known to be over; `events` is the payload of an `EVENTS` frame."""
        marks = []
        for kind, position, length, sample in EVENT.iter_unpack(events):
            if kind == PAUSE:
                self._silent_since = sample
            elif kind == SPEECH:
                self._silent_since = None
            elif kind == WORD:
                marks += self._begin(max(position - 1, 0), length, sample)
        return marks

    def finish(self, samples: int) -> list[WordMark]:
        """The last word, when all `samples` of the chunk have been made."""
        return self._close(len(self._text), samples)

    def _begin(self, start: int, length: int, sample: int) -> list[WordMark]:
        text = self._text
        if self._open is None:
            while start < len(text) and text[start].isspace():
                start += 1
        marks: list[WordMark] = []
        goes_on = self._open is not None and (start < self._open.told_end or text[start : start + 1].isspace())
        if not goes_on and start < len(text):
            marks = self._close(start, sample)
            self._open = _Open(start, min(start + max(length, 1), len(text)), max(sample, self._last_sample))
        self._silent_since = None
        return marks

    def _close(self, limit: int, sample: int) -> list[WordMark]:
        word = self._open
        if word is None:
            return []
        end = limit
        while end > word.start and unicodedata.category(self._text[end - 1]).startswith(_NOT_A_WORDS_END):
            end -= 1
        if end == word.start:  # a punctuation mark or symbol that is read out
            end += len(self._text[word.start : word.told_end].rstrip())
        # Above 450 words a minute the library's figures are up to 25 ms off, so that words would overlap.
        silent = sample if self._silent_since is None else self._silent_since
        self._last_sample = max(min(silent, sample), self._last_sample)
        first_sample = min(word.first_sample, self._last_sample)
        self._open = None
        return [WordMark(word.start, end, first_sample / self._sample_rate, self._last_sample / self._sample_rate)]
