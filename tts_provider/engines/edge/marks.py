"""Words found again in the text, from what the service says it is speaking."""

from __future__ import annotations

from typing import Final

from tts_provider.engines.base import WordMark
from tts_provider.engines.edge.protocol import Boundary

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
        """Where `word` next stands by itself, or at least stands."""
        end = self._position + WINDOW + len(word)
        first = found = self._text.find(word, self._position, end)
        while found > self._position and word[0].isalnum() and self._text[found - 1].isalnum():
            found = self._text.find(word, found + 1, end)
        if found >= 0:
            return found
        return first if first >= 0 else None
