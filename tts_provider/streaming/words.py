"""Word timings for audio whose engine tells none: the words, spread over the audio by how long they take to say.

An estimate: for highlighting it follows the voice; nothing exact should be built on it.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from tts_provider.engines.base import WordMark
from tts_provider.streaming.characters import is_border, weigh
from tts_provider.streaming.sentences import Span

__all__ = ["estimate_words", "words_of"]

# Durations are in units of one letter, which takes about 65 ms in English.
DIGIT_WEIGHT: Final = 4
"""A digit is a word: "7" takes as long as "four"."""
SYLLABIC_DIGIT_WEIGHT: Final = 2
"""A digit where digits are syllables: Chinese, Japanese, Korean."""
CLAUSE_PAUSE: Final = 4
"""A pause at a comma: a quarter of a second."""
STOP_PAUSE: Final = 8
"""A pause at a full stop, or a blank line."""

_SYLLABIC_LANGUAGES: Final = frozenset({"ja", "ko", "yue", "zh"})
_UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai and Lao, Burmese, Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_TOKEN: Final = re.compile(rf"[{_UNSPACED}]|[^\s—…{_UNSPACED}]+")
"""One character of a script without spaces, or what stands between spaces."""
_ATTACHED: Final = frozenset("ぁぃぅぇぉっゃゅょゎゝゞァィゥェォッャュョヮヵヶーヽヾ々")
"""Small and repeating signs that are said with the character before them."""
_PAUSES: Final = {
    **dict.fromkeys(",;:—–、，；：،؛", CLAUSE_PAUSE),
    **dict.fromkeys(".!?…。．｡！？।॥؟۔։።", STOP_PAUSE),
}


def estimate_words(text: str, lang: str, seconds: float) -> list[WordMark]:
    """The words of `text` with the times at which they are said in audio that lasts `seconds`, in order.

    Words follow each other without overlap, with pauses at punctuation only; the first begins with the audio and the last ends
    with it. In scripts without spaces between words each visible character is a word.

    Args:
        text: what is said; offsets are code points in it.
        lang: an IETF tag.
        seconds: the audio's length, without silence at its ends; there are no words in no audio.
    """
    spans = words_of(text)
    if not spans or not seconds > 0:
        return []
    digit = SYLLABIC_DIGIT_WEIGHT if lang.lower().partition("-")[0] in _SYLLABIC_LANGUAGES else DIGIT_WEIGHT
    times: list[tuple[int, int]] = []
    now = 0
    for index, (start, end) in enumerate(spans):
        if index:
            now += _pause(text[spans[index - 1][1] : start])
        begun = now
        now += weigh(text[start:end]) + (digit - 1) * sum(map(str.isdigit, text[start:end]))
        times.append((begun, now))
    return [
        # The ratio first: it is exactly 1 at the end, and so the last word ends with the audio to the last bit.
        WordMark(start, end, seconds * (begun / now), seconds * (ended / now))
        for (start, end), (begun, ended) in zip(spans, times, strict=True)
    ]


def words_of(text: str) -> list[Span]:
    """The words of `text` as offsets, without punctuation around them; what has no letter and no digit is no word."""
    spans: list[Span] = []
    for token in _TOKEN.finditer(text):
        start, end = token.span()
        if spans and spans[-1][1] == start and (text[start] in _ATTACHED or not is_border(text, start)):
            spans[-1] = (spans[-1][0], end)
            continue
        while start < end and not _is_spoken(text[start]):
            start += 1
        while end > start and not _is_spoken(text[end - 1]):
            end -= 1
        if any(map(str.isalnum, text[start:end])):
            spans.append((start, end))
    return spans


def _is_spoken(char: str) -> bool:
    """Whether a character at a word's edge belongs to it: a letter with its marks, a digit, a currency or per cent sign."""
    return char.isalnum() or char == "%" or unicodedata.category(char) in ("Mn", "Mc", "Me", "Sc")


def _pause(between: str) -> int:
    """The pause between two words, for what stands between them."""
    pause = max((_PAUSES.get(char, 0) for char in between), default=0)
    return STOP_PAUSE if between.count("\n") > 1 else pause
