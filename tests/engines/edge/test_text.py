"""What may be sent."""

from __future__ import annotations

from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tts_provider.engines.edge.text import MAX_TEXT_BYTES, Unit, speakable, split_units, xml_safe

ANYTHING = st.text(st.characters(codec=None, exclude_categories=()))


@settings(deadline=None)
@given(ANYTHING)
def test_what_was_made_safe_is_xml_and_as_long_as_before(text: str) -> None:
    safe = xml_safe(text)
    assert len(safe) == len(text)
    ElementTree.fromstring(f"<speak>{escape(safe)}</speak>")


@pytest.mark.parametrize("character", ["\x00", "\x0b", "\x1f", "\x7f", "\ud800", "\ufffe", "\uffff"])
def test_what_xml_forbids_becomes_a_space(character: str) -> None:
    assert xml_safe(f"a{character}b") == "a b"


def test_everything_else_stays() -> None:
    text = "tab\t line\n é 你 🎉 \u202e <&> \U0010ffff"
    assert xml_safe(text) == text


@pytest.mark.parametrize("text", ["Hello", "7", "你", "ѣ", "½", "…and"])
def test_letters_and_digits_can_be_spoken(text: str) -> None:
    assert speakable(text)


@pytest.mark.parametrize("text", ["", " ", "...", "—", "🎉", "?!", "\u0301"])
def test_marks_alone_cannot(text: str) -> None:
    assert not speakable(text)


def test_a_short_text_is_one_unit() -> None:
    assert split_units("  Hello there. ", escape) == [Unit(0, "  Hello there. ")]


def test_a_text_with_nothing_to_say_is_no_unit() -> None:
    assert split_units("...", escape) == []
    assert split_units("." * 10_000 + " word " + "." * 10_000, escape, 4096)[0].text.strip(". ") == "word"


@settings(deadline=None)
@given(
    text=st.text(st.sampled_from("ab&<é你🎉 \n"), max_size=300),
    limit=st.integers(8, 60),
)
def test_units_are_short_enough_and_lose_only_what_cannot_be_said(text: str, limit: int) -> None:
    units = split_units(text, escape, limit)
    covered = [False] * len(text)
    for unit in units:
        assert len(escape(unit.text).encode()) <= limit
        assert text[unit.start : unit.start + len(unit.text)] == unit.text
        covered[unit.start : unit.start + len(unit.text)] = [True] * len(unit.text)
    assert not speakable("".join(character for character, said in zip(text, covered, strict=True) if not said))
    assert [unit.start for unit in units] == sorted({unit.start for unit in units})


def test_cuts_fall_after_spaces_where_there_are_some() -> None:
    units = split_units("word " * 2000, escape)
    assert all(unit.text.startswith("word") and unit.text.endswith(" ") for unit in units)
    assert len(units) == 3


def test_a_text_without_spaces_is_cut_hard_but_not_before_a_combining_mark() -> None:
    text = "e\u0301" * 3000
    units = split_units(text, escape)
    assert "".join(unit.text for unit in units) == text
    assert all(unit.text.startswith("e") for unit in units)
    assert max(len(unit.text.encode()) for unit in units) <= MAX_TEXT_BYTES


def test_nothing_but_combining_marks_still_comes_to_an_end() -> None:
    text = "e" + "\u0301" * 10_000 + "e"
    assert [len(unit.text) for unit in split_units(text, escape)] == [2048, 1810]
    assert [unit.start for unit in split_units(text, escape)] == [0, 8192]


def test_escapes_count() -> None:
    units = split_units("& a " * 1000, escape)
    assert len(units) > 1
    assert max(len(escape(unit.text)) for unit in units) <= MAX_TEXT_BYTES
