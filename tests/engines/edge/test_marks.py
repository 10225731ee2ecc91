"""Finding spoken words in the text."""

from __future__ import annotations

import pytest

from tts_provider.engines.base import WordMark
from tts_provider.engines.edge.marks import WordLocator
from tts_provider.engines.edge.protocol import Boundary


def located(text: str, words: list[str]) -> list[str | None]:
    """The text before and including each word, as far as it was found."""
    locator = WordLocator(text, 0, 0.0)
    found = []
    for index, word in enumerate(words):
        mark = locator.locate(Boundary(word, float(index), index + 0.5))
        assert mark is None or text[mark.start : mark.end] == word
        found.append(None if mark is None else text[: mark.end])
    return found


def test_offsets_and_times_are_those_of_the_chunk() -> None:
    locator = WordLocator("Dr. Who", 100, 5.0)
    assert locator.locate(Boundary("Dr.", 0.1, 0.4)) == WordMark(100, 103, 5.1, 5.4)
    assert locator.locate(Boundary("Who", 0.5, 0.9)) == WordMark(104, 107, 5.5, 5.9)


def test_a_word_that_comes_twice_is_found_twice() -> None:
    assert located("the cat and the dog", ["the", "cat", "and", "the", "dog"]) == [
        "the",
        "the cat",
        "the cat and",
        "the cat and the",
        "the cat and the dog",
    ]


def test_a_short_word_is_not_found_inside_a_longer_one() -> None:
    assert located("cats and a dog", ["a"]) == ["cats and a"]


def test_words_without_spaces_follow_one_another() -> None:
    assert located("你好世界", ["你好", "世界"]) == ["你好", "你好世界"]


def test_a_part_of_a_word_is_found_where_nothing_else_is() -> None:
    assert located("unbelievable", ["believable"]) == ["unbelievable"]


def test_a_word_that_is_not_there_is_skipped_and_the_next_found() -> None:
    assert located("one 2 three", ["one", "two", "three"]) == ["one", None, "one 2 three"]


def test_what_is_not_spoken_does_not_hold_up_the_search() -> None:
    text = "before " + "★" * 150 + " after"
    assert located(text, ["before", "after"]) == ["before", text]


def test_a_word_found_only_far_away_is_not_meant() -> None:
    text = "one colour " + "and so on " * 40 + "color"
    assert located(text, ["one", "color", "and"]) == ["one", None, "one colour and"]


def test_time_never_runs_backwards() -> None:
    locator = WordLocator("a b c", 0, 0.0)
    assert locator.locate(Boundary("a", 429.0, 429.2)) is not None
    assert locator.locate(Boundary("b", 0.1, 0.2)) is None
    assert locator.locate(Boundary("c", 430.0, 430.2)) is not None


def test_the_rest_is_what_follows_the_last_word() -> None:
    locator = WordLocator("all is said.", 0, 0.0)
    locator.locate(Boundary("is", 0.0, 0.1))
    assert locator.rest == " said."


@pytest.mark.parametrize("word", ["", " "])
def test_nothing_is_no_word(word: str) -> None:
    assert located("text", [word]) == [None]
