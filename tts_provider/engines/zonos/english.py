"""Numbers in English text as words, before espeak sees it: what the model was trained on in English.

As the original does it, with the originals' years in pairs ("nineteen ninety-nine") and money, but for two readings that are
wrong there: a number with thousands separators is a quantity and no year ("1,234"), and decimals are read digit by digit.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["spell_numbers"]

MAX_DIGITS: Final = 15
"""Longer rows of digits are no quantity; they are read digit by digit."""

_SMALL: Final = (
    "zero one two three four five six seven eight nine ten "
    "eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
)
_ONES: Final = tuple(_SMALL.split())
_TENS: Final = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES: Final = ("", " thousand", " million", " billion", " trillion")
_ORDINALS: Final = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}

_GROUPED: Final = re.compile(r"(?<![\d,])\d{1,3}(?:,\d{3})+(?![\d,]*\d)", re.ASCII)
_POUNDS: Final = re.compile(r"£(\d+(?:,\d{3})*)", re.ASCII)
_DOLLARS: Final = re.compile(r"\$(\d+(?:,\d{3})*)(?:\.(\d+))?", re.ASCII)
_DECIMAL: Final = re.compile(r"(\d+)\.(\d+)", re.ASCII)
_ORDINAL: Final = re.compile(r"(\d+)(?:st|nd|rd|th)\b", re.ASCII)
_NUMBER: Final = re.compile(r"\d+", re.ASCII)


def spell_numbers(text: str) -> str:
    """`text` with its ASCII digits as English words."""
    text = _POUNDS.sub(lambda match: f"{_quantity(match[1])} pounds", text)
    text = _DOLLARS.sub(_dollars, text)
    text = _GROUPED.sub(lambda match: _quantity(match[0]), text)
    text = _DECIMAL.sub(lambda match: f"{_quantity(match[1])} point {_digits(match[2])}", text)
    text = _ORDINAL.sub(lambda match: _ordinal(match[1]), text)
    return _NUMBER.sub(lambda match: _number(match[0]), text)


def _dollars(match: re.Match[str]) -> str:
    whole, fraction = match[1].replace(",", ""), match[2] or ""
    if len(fraction) not in (0, 2):
        return f"{_quantity(whole)} point {_digits(fraction)} dollars"
    cents = int(fraction or 0)
    parts = []
    if int(whole[:MAX_DIGITS]) or not cents:
        parts.append(f"{_quantity(whole)} dollar{'' if whole == '1' else 's'}")
    if cents:
        parts.append(f"{_quantity(str(cents))} cent{'' if cents == 1 else 's'}")
    return ", ".join(parts)


def _number(digits: str) -> str:
    """A bare number: a year, if it may be one."""
    if len(digits) != 4 or not "1000" < digits < "3000":
        return _quantity(digits)
    century, year = int(digits[:2]), int(digits[2:])
    if digits.startswith("200"):
        return f"two thousand{' ' + _ONES[year] if year else ''}"
    if year == 0:
        return f"{_below_thousand(century)} hundred"
    return f"{_below_thousand(century)} {'oh ' if year < 10 else ''}{_below_thousand(year)}"


def _quantity(digits: str) -> str:
    digits = digits.replace(",", "")
    if len(digits) > MAX_DIGITS:
        return _digits(digits)
    number = int(digits)
    if number == 0:
        return "zero"
    rest, groups = number, []
    for scale in _SCALES:
        rest, group = divmod(rest, 1000)
        if group:
            groups.append(_below_thousand(group) + scale)
    *head, last = reversed(groups)
    return (" " if 0 < number % 1000 < 100 else ", ").join([*([", ".join(head)] if head else []), last])


def _below_thousand(number: int) -> str:
    hundreds, rest = divmod(number, 100)
    words = [f"{_ONES[hundreds]} hundred"] if hundreds else []
    if rest >= 20:
        tens, ones = divmod(rest, 10)
        words.append(_TENS[tens] + (f"-{_ONES[ones]}" if ones else ""))
    elif rest or not hundreds:
        words.append(_ONES[rest])
    return " ".join(words)


def _ordinal(digits: str) -> str:
    words = _quantity(digits)
    head, joint, last = re.fullmatch(r"(?:(.*)([ -]))?(\S+)", words).groups()  # type: ignore[union-attr] # any words match
    last = _ORDINALS.get(last) or (f"{last[:-1]}ieth" if last.endswith("y") else f"{last.removesuffix('t')}th")
    return f"{head or ''}{joint or ''}{last}"


def _digits(digits: str) -> str:
    return " ".join(_ONES[int(digit)] for digit in digits)
