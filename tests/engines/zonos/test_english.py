"""Numbers in English text become words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_provider.engines.zonos.english import spell_numbers

CASES = {
    "nothing here": "nothing here",
    "0": "zero",
    "007": "seven",
    "13 cats": "thirteen cats",
    "42": "forty-two",
    "in 1999": "in nineteen ninety-nine",
    "1905": "nineteen oh five",
    "1900": "nineteen hundred",
    "2000": "two thousand",
    "2007": "two thousand seven",
    "2024": "twenty twenty-four",
    "3000": "three thousand",
    "3001": "three thousand one",
    "1,234": "one thousand, two hundred thirty-four",
    "1234567": "one million, two hundred thirty-four thousand, five hundred sixty-seven",
    "1,999": "one thousand, nine hundred ninety-nine",
    "3.14": "three point one four",
    "1st, 2nd and 3rd": "first, second and third",
    "12th": "twelfth",
    "20th": "twentieth",
    "21st": "twenty-first",
    "100th": "one hundredth",
    "$5.50": "five dollars, fifty cents",
    "$1": "one dollar",
    "$0.05": "five cents",
    "$0": "zero dollars",
    "$1,200": "one thousand, two hundred dollars",
    "$1.5": "one point five dollars",
    "£20": "twenty pounds",
    "1, 2": "one, two",
    "12345678901234567": "one two three four five six seven eight nine zero one two three four five six seven",
}


@pytest.mark.parametrize("text", CASES)
def test_a_number_is_read_as_people_read_it(text: str) -> None:
    """Cardinals, years, ordinals, decimals and money."""
    assert spell_numbers(text) == CASES[text]


@given(st.text(alphabet="0123456789.,$£snrdth -", max_size=60))
def test_no_ascii_digit_is_left(text: str) -> None:
    """Whatever the digits stand among, all of them are spelled."""
    assert not any(character.isascii() and character.isdigit() for character in spell_numbers(text))


def test_a_text_without_digits_is_untouched() -> None:
    """Other scripts' digits are espeak's matter."""
    assert spell_numbers("٣ and ३ — “fine”") == "٣ and ३ — “fine”"
