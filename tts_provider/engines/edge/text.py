"""What of a text may be sent to the service, and in which pieces."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["MAX_TEXT_BYTES", "Unit", "speakable", "split_units", "xml_safe"]

MAX_TEXT_BYTES: Final = 4096
"""Bytes of escaped text in one turn, as in edge-tts: the service cuts a turn at ten minutes of audio, without a word."""

MAX_MARKS: Final = 32
"""Combining marks that are kept with their letter where a text without spaces is cut."""

_NOT_XML: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
"""XML 1.0, section 2.2, and DEL."""

_ESCAPED_BYTES: Final = {"&": 5, "<": 4, ">": 4}


@dataclass(frozen=True, slots=True)
class Unit:
    """What is said in one turn."""

    start: int
    """Offset in the chunk's text, in code points."""
    text: str
    """Exactly as long as the part of the chunk that it stands for."""


def xml_safe(text: str) -> str:
    """`text` with every character that XML forbids replaced by a space, one for one."""
    return _NOT_XML.sub(" ", text)


def speakable(text: str) -> bool:
    """Whether there is a letter or a digit; for anything else the service has no audio."""
    return any(map(str.isalnum, text))


def split_units(text: str, escaped: Callable[[str], str], max_bytes: int = MAX_TEXT_BYTES) -> list[Unit]:
    """Cut `text` at spaces into units of at most `max_bytes` after escaping; pieces with nothing to say are left out."""
    if len(escaped(text).encode()) <= max_bytes:
        return [Unit(0, text)] if speakable(text) else []
    units = []
    start = 0
    while start < len(text):
        end = _cut(text, start, max_bytes)
        piece = text[start:end]
        if speakable(piece):
            units.append(Unit(start, piece))
        start = end
    return units


def _cut(text: str, start: int, max_bytes: int) -> int:
    """Where the unit that begins at `start` ends: after a space where there is one, never before a combining mark."""
    size = 0
    after_space = start
    end = start
    while end < len(text):
        character = text[end]
        size += _ESCAPED_BYTES.get(character) or len(character.encode())
        if size > max_bytes:
            break
        end += 1
        if character.isspace():
            after_space = end
    else:
        return end
    if after_space > start:
        return after_space
    whole = end
    while whole > max(start + 1, end - MAX_MARKS) and unicodedata.combining(text[whole]):
        whole -= 1
    return end if unicodedata.combining(text[whole]) else whole
