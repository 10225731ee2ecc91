from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.streaming.texts import texts, unhurried
from tts_provider.streaming.characters import is_border, weigh


@pytest.mark.parametrize(
    ("text", "weight"),
    [
        ("", 0),
        ("Hello, world", 12),
        ("你好", 4),
        ("こんにちは。", 12),
        ("안녕", 4),
        ("１２", 4),
        ("ｱｲ", 2),
        ("नमस्ते", 6),
        ("привет", 6),
        ("😀", 2),
    ],
)
def test_wide_characters_weigh_two_and_all_others_one(text: str, weight: int) -> None:
    assert weigh(text) == weight


@unhurried
@given(texts, texts)
def test_weights_add_up(one: str, other: str) -> None:
    assert weigh(one + other) == weigh(one) + weigh(other)
    assert len(one) <= weigh(one) <= 2 * len(one)


@pytest.mark.parametrize(
    "character",
    [
        pytest.param("e\u0301\u0323", id="combining marks"),
        pytest.param("👩‍🚀", id="joined emoji"),
        pytest.param("👍🏽", id="skin tone"),
        pytest.param("❤️", id="variation selector"),
        pytest.param("1️⃣", id="keycap"),
        pytest.param("🇩🇪", id="flag"),
        pytest.param("🏴\U000e0067\U000e0062\U000e007f", id="tags"),
        pytest.param("क्ष", id="joined consonants"),
        pytest.param("\u1112\u1161\u11ab", id="hangul letters"),
        pytest.param("\r\n", id="line end"),
    ],
)
def test_borders_are_between_visible_characters_only(character: str) -> None:
    text = character * 3
    borders = [at for at in range(len(text) + 1) if is_border(text, at)]
    assert borders == [0, len(character), 2 * len(character), len(text)]


@unhurried
@given(st.text(alphabet="abc 123.,"))
def test_plain_text_can_be_cut_anywhere(text: str) -> None:
    assert all(is_border(text, at) for at in range(len(text) + 1))
