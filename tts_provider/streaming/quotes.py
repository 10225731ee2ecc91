"""Quotes and brackets in any language's typography: what opens, what closes, and which mark does which where.

The same mark opens in one language and closes in another (“ ” « » "), or is no quote at all (inches, apostrophes, a smile);
what is beside it tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from tts_provider.streaming.characters import script_of

__all__ = ["CLOSERS", "MARKS", "Opening", "closed_by", "kind_of", "opens"]

_PAIRS: Final = {
    "(": ")", "[": "]", "{": "}", "（": "）", "［": "］", "【": "】", "〔": "〕", "《": "》", "〈": "〉",
    "「": "」", "『": "』", "｢": "｣", "〝": "〟", "“": "”", "‘": "’", "„": "“”", "‚": "‘’",
    "«": "»", "»": "«", "‹": "›", "›": "‹", '"': '"', "”": "”", "'": "'",
}  # fmt: skip
"""What opens, and what closes it."""

CLOSERS: Final = frozenset("".join(_PAIRS.values()))
"""Marks that may close something."""

MARKS: Final = CLOSERS.union(_PAIRS)
"""All marks."""

_EITHER: Final = frozenset("\"'”«»‹›")
"""Marks that open here and close there."""

_KINDS: Final[dict[str, Literal["bracket", "title"]]] = {
    **dict.fromkeys("([{（［【〔", "bracket"),
    **dict.fromkeys("《〈", "title"),
}


@dataclass(frozen=True, slots=True)
class Opening:
    """An open quote or bracket."""

    at: int
    char: str
    led: str
    """The character before it in its sentence, white space aside."""
    sentence: int
    """Where that sentence begins."""


def kind_of(opening: Opening) -> Literal["bracket", "quote", "title"]:
    """What is open; a title is what 《》 enclose, the name of a work."""
    return _KINDS.get(opening.char, "quote")


def closed_by(text: str, at: int, openings: Sequence[Opening]) -> int | None:
    """The index of the opening that the mark at `at` closes; None when it closes none."""
    char, before, behind = _around(text, at)
    if char in "'’" and behind.isalnum():
        return None  # an apostrophe
    if char in _EITHER and _leans_on(before, behind):
        return None
    return next((index for index in range(len(openings) - 1, -1, -1) if char in _PAIRS[openings[index].char]), None)


def opens(text: str, at: int) -> bool:
    """Whether the mark at `at`, which closes nothing, opens something."""
    char, before, behind = _around(text, at)
    if char == '"':
        # Behind a digit it means inches, inside a word it is Hebrew's mark of an acronym, before white space it closes what
        # nobody opened. Between Chinese characters it may well open.
        if _ends_word(behind) or before.isdigit():
            return False
        return script_of(before) != "letter"
    if char == "'":
        return behind.isupper() and _leans_on(before, behind)  # not 'tis
    if char in "”»›":
        return _leans_on(before, behind)
    if char in "([{":
        return not _ends_word(behind)  # not a frown
    return char in _PAIRS


def _around(text: str, at: int) -> tuple[str, str, str]:
    """A character and its neighbours; an empty neighbour is the text's end."""
    return text[at], text[at - 1 : at] if at else "", text[at + 1 : at + 2]


def _leans_on(before: str, behind: str) -> bool:
    """Whether a mark leans on what follows: white space, an opening or a dash on its left, a word on its right."""
    return (not before or before.isspace() or before in "([{—–-/“‘「『（") and not _ends_word(behind)


def _ends_word(char: str) -> bool:
    return not char or char.isspace() or char in ",.;:!?)]}"
