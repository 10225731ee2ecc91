"""Characters as speech and as seen: how long a text is to say, and where it may be cut."""

from __future__ import annotations

import functools
import unicodedata
from typing import Final, Literal

__all__ = ["base_letters", "case_of", "is_border", "is_hangul", "script_of", "weigh"]

_VIRAMA: Final = 9
"""The combining class of the sign that joins two consonants into one written form."""


def weigh(text: str) -> int:
    """The length of `text` as speech: wide characters (CJK, kana, hangul, most emoji) count 2, all others 1.

    Combining marks and joiners count 1 as well: in many scripts they are spoken, and a text that weighs nothing would have
    no longest piece.
    """
    return len(text) if text.isascii() else sum(map(_weight, text))


@functools.lru_cache(maxsize=8192)  # more characters than any language's text uses
def _weight(char: str) -> int:
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def is_border(text: str, at: int, start: int = 0) -> bool:
    """Whether `text` can be cut at `at` without splitting what is seen as one character.

    It does not split combining marks, joined emoji, variation selectors, skin tones, flags, syllables of hangul letters,
    consonants joined by a virama, or CR LF: Unicode's UAX 29 without its rarest rules.

    Args:
        text: any text.
        at: where to cut it.
        start: a border before `at` from which flags are counted.
    """
    if not start < at < len(text):
        return True
    before, behind = text[at - 1], text[at]
    if behind.isascii():
        return not (behind == "\n" and before == "\r")
    if before == "\u200d" or "\U0001f3fb" <= behind <= "\U0001f3ff":
        return False  # inside a joined emoji; a skin tone
    category = unicodedata.category(behind)
    if category.startswith("M") or category == "Cf" or "\u1160" <= behind <= "\u11ff":
        return False  # a mark; a joiner or a tag; the second or third letter of a hangul syllable
    if unicodedata.combining(before) == _VIRAMA:
        return not behind.isalpha()
    if _is_flag_letter(behind) and _is_flag_letter(before):
        first = at - 1
        while first > start and _is_flag_letter(text[first - 1]):
            first -= 1
        return (at - first) % 2 == 0
    return True


def _is_flag_letter(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"


def case_of(text: str) -> Literal["upper", "lower", "none"]:
    """The case of the first character; Georgian, whose letters Unicode calls small, has none."""
    first = text[:1]
    if first.isupper() or first.istitle():
        return "upper"
    return "lower" if first.islower() and not "\u10d0" <= first <= "\u10ff" else "none"


def script_of(text: str) -> Literal["cjk", "letter", ""]:
    """The kind of writing of the first character: with characters that stand for syllables or words, or with letters."""
    first = text[:1]
    if (
        "\u2e80" <= first <= "\u9fff"
        or "\uac00" <= first <= "\ud7af"
        or "\uf900" <= first <= "\ufaff"
        or "\uff00" <= first <= "\uffef"
        or "\U00020000" <= first <= "\U0003ffff"
    ):
        return "cjk"
    return "letter" if first.isalpha() else ""


def is_hangul(text: str) -> bool:
    """Whether the first character is a hangul syllable."""
    return "\uac00" <= text[:1] <= "\ud7af"


def base_letters(word: str) -> int:
    """How many letters, vowel signs and other marks not counted: one in डॉ."""
    return sum(not unicodedata.category(char).startswith("M") for char in word)
