"""Japanese text as its readings in kana, which is what espeak-ng can read; kanji it spells as "Chinese letter".

Needs SudachiPy and a dictionary, an extra of their own: pip install "tts-provider[ja]".
"""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from functools import cache
from typing import Any, Final

__all__ = ["JAPANESE_ADVICE", "japanese_available", "readings", "spell_number"]

JAPANESE_ADVICE: Final = 'Japanese needs a dictionary of readings on the server: pip install "tts-provider[ja]".'
MAX_DIGITS: Final = 16
"""Longer rows of digits are no quantity; they are read digit by digit."""

_DIGITS: Final = "〇一二三四五六七八九"
_PLACES: Final = ("", "十", "百", "千")
_GROUPS: Final = ("", "万", "億", "兆")
_SIGNS: Final = frozenset({"補助記号", "記号", "空白"})
_NUMBER: Final = re.compile(r"\d+")


def japanese_available() -> bool:
    """Whether the dictionary is installed; found without importing it."""
    return all(importlib.util.find_spec(name) is not None for name in ("sudachipy", "sudachidict_core"))


def readings(text: str) -> str:
    """`text` as readings, words parted by spaces; blocking, some ms after the first call."""
    plain = _NUMBER.sub(lambda match: spell_number(match[0]), unicodedata.normalize("NFKC", text))
    words = []
    for token in _tokenizer().tokenize(plain):
        # The dictionary reads marks and spaces as "kigou", the word for a sign.
        silent = token.part_of_speech()[0] in _SIGNS
        words.append(token.surface() if silent else token.reading_form())
    return " ".join(" ".join(words).split())


@cache
def _tokenizer() -> Any:
    """Sudachi at its finest split; its dictionary takes a while to open. Used by one thread at a time."""
    from sudachipy import Dictionary, SplitMode  # type: ignore[import-not-found, unused-ignore]

    return Dictionary(dict="core").tokenizer(mode=SplitMode.A)


def spell_number(digits: str) -> str:
    """A number in kanji: 1234 → 千二百三十四."""
    digits = digits.lstrip("0")
    if not digits:
        return _DIGITS[0]
    if len(digits) > MAX_DIGITS:
        return "".join(_DIGITS[int(digit)] for digit in digits)
    parts = []
    for index, start in enumerate(range(len(digits), 0, -4)):
        group = _spell_group(digits[max(start - 4, 0) : start])
        if group:
            parts.append(group + _GROUPS[index])
    return "".join(reversed(parts))


def _spell_group(digits: str) -> str:
    words = []
    for place, digit in zip(reversed(_PLACES[: len(digits)]), digits, strict=True):
        if digit != "0":
            # "One" is left out before ten, hundred and thousand.
            words.append(("" if digit == "1" and place else _DIGITS[int(digit)]) + place)
    return "".join(words)
