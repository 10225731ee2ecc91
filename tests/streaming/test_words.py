from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.streaming.texts import languages, texts, unhurried
from tts_provider.streaming.words import estimate_words, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, **world**! It's (very) late.", ["Hello", "world", "It's", "very", "late"]),
        ("It costs $5.50 or 10%", ["It", "costs", "$5.50", "or", "10%"]),
        ("e-mail a.b@c.org—now…please", ["e-mail", "a.b@c.org", "now", "please"]),
        ("你好，世界。", ["你", "好", "世", "界"]),
        ("キョートへ3回", ["キョー", "ト", "へ", "3", "回"]),
        ("안녕 하세요.", ["안녕", "하세요"]),
        ("नमस्ते, आप", ["नमस्ते", "आप"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("iPhoneは新しい", ["iPhone", "は", "新", "し", "い"]),
        ("... 😀 -- !", []),
    ],
)
def test_words_are_what_is_said_without_punctuation(text: str, words: list[str]) -> None:
    assert [text[start:end] for start, end in words_of(text)] == words


@unhurried
@given(texts, languages, st.floats(min_value=0.001, max_value=1e5))
def test_words_follow_each_other_within_the_audio(text: str, lang: str, seconds: float) -> None:
    marks = estimate_words(text, lang, seconds)
    assert all(0 <= mark.start < mark.end <= len(text) for mark in marks)
    assert all(0 <= mark.start_s < mark.end_s <= seconds for mark in marks)
    assert all(one.end <= other.start and one.end_s <= other.start_s for one, other in pairwise(marks))
    assert not marks or (marks[0].start_s == 0 and marks[-1].end_s == seconds)
    assert [(mark.start, mark.end) for mark in marks] == words_of(text)


def test_a_longer_word_takes_longer() -> None:
    short, long = estimate_words("a considerable", "en", 2.0)
    assert long.end_s - long.start_s > 5 * (short.end_s - short.start_s)


def test_digits_are_said_as_words() -> None:
    number, word = estimate_words("2024 year", "en", 2.0)
    assert number.end_s - number.start_s > 2 * (word.end_s - word.start_s)
    number, word = estimate_words("2024年", "zh", 2.0)
    assert number.end_s - number.start_s == pytest.approx(4 * (word.end_s - word.start_s))


def test_punctuation_makes_pauses() -> None:
    text = "one two, three. four\n\nfive"
    marks = estimate_words(text, "en", 3.0)
    none, comma, stop, blank = (other.start_s - one.end_s for one, other in pairwise(marks))
    assert 0 == none < comma < stop == pytest.approx(blank)


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan])
def test_no_audio_has_no_words(seconds: float) -> None:
    assert estimate_words("Hello", "en", seconds) == []
