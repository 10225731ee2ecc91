"""Japanese text as readings."""

from __future__ import annotations

import pytest

from tts_provider.engines.zonos.japanese import japanese_available, readings, spell_number

NUMBERS = {
    "0": "〇",
    "007": "七",
    "10": "十",
    "11": "十一",
    "100": "百",
    "305": "三百五",
    "1234": "千二百三十四",
    "10000": "一万",
    "20010": "二万十",
    "123456789": "一億二千三百四十五万六千七百八十九",
    "100000000": "一億",
    "12345678901234567": "一二三四五六七八九〇一二三四五六七",
}


@pytest.mark.parametrize("digits", NUMBERS)
def test_a_number_is_spelled_in_kanji(digits: str) -> None:
    """As it is read; a row of digits too long for a quantity digit by digit."""
    assert spell_number(digits) == NUMBERS[digits]


@pytest.mark.skipif(not japanese_available(), reason="the 'ja' extra is not installed")
def test_kanji_become_their_readings() -> None:
    """Kana, words parted; marks and spaces are not read aloud."""
    assert readings("日本語 2") == "ニホン ゴ ニ"
    assert readings("「東京」へ、3時に。") == "「 トウキョウ 」 ヘ 、 サン ジ ニ 。"
