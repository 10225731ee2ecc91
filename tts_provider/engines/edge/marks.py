"""Words found again in the text, from what the service says it is speaking."""

from __future__ import annotations

from typing import Final

from tts_provider.engines.base import WordMark
from tts_provider.engines.edge.protocol import Boundary
from tts_provider.engines.edge.text import speakable

__all__ = ["WordLocator"]

WINDOW: Final = 200
"""Characters beyond the last word within which the next is looked for. The service repeats the text word for word, so it
follows at once, except after what it does not speak (symbols, another script). Without the bound, one word that it spells
differently could be found pages on, and all words up to there were lost."""


class WordLocator:
    """Turns boundaries, in the order in which they come, into marks with offsets in the text."""

    def __init__(self, text: str, offset: int, start_s: float) -> None:
        self._text = text
        self._offset = offset
        self._start_s = start_s
        self._position = 0
        self._last_s = 0.0

    @property
    def rest(self) -> str:
        """The text after the last word that was found."""
        return self._text[self._position :]

    def locate(self, boundary: Boundary) -> WordMark | None:
        """The mark of a word; None when it is not in the text from here on, or is out of order in time."""
        if not boundary.text or boundary.start_s < self._last_s:
            return None
        found = self._find(boundary.text)
        if found is None:
            return None
        self._position = found + len(boundary.text)
        self._last_s = boundary.start_s
        return WordMark(
            start=self._offset + found,
            end=self._offset + self._position,
            start_s=self._start_s + boundary.start_s,
            end_s=self._start_s + boundary.end_s,
        )

    def _find(self, word: str) -> int | None:
        """Where `word` comes next; if something is skipped, where it stands by itself, for "a" is not the start of "and"."""
        text, end = self._text, self._position + WINDOW + len(word)
        first = found = text.find(word, self._position, end)
        if first < 0:
            return None
        if not speakable(text[self._position : first]):
            return first
        while found >= 0:
            if not (_joined(text, found) or _joined(text, found + len(word))):
                return found
            found = text.find(word, found + 1, end)
        return first


def _joined(text: str, position: int) -> bool:
    """Whether the characters on both sides of `position` belong to one word."""
    return 0 < position < len(text) and text[position - 1].isalnum() and text[position].isalnum()
