from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.streaming.texts import CASES, MEASURED_SHARE, languages, squeezed, texts, unhurried
from tts_provider.streaming.chunker import Chunker, Piece
from tts_provider.streaming.sentences import split, weigh

limits = st.sampled_from([2, 7, 20, 60, 240])


def fed(
    tokens: Sequence[str], lang: str = "en", *, max_weight: int = 240, first_clause: bool = True
) -> list[tuple[Piece, str]]:
    """The pieces of a text fed token by token, each with its text."""
    chunker = Chunker(lang, max_weight=max_weight, first_clause=first_clause)
    pieces = [(piece, chunker.text_of(piece)) for token in tokens for piece in chunker.feed(token)]
    return pieces + [(piece, chunker.text_of(piece)) for piece in chunker.finish()]


def texts_fed(tokens: Sequence[str], lang: str = "en", *, max_weight: int = 240, first_clause: bool = True) -> list[str]:
    """The texts of the pieces."""
    return [text for _, text in fed(tokens, lang, max_weight=max_weight, first_clause=first_clause)]


def tokens_of(text: str, cuts: Sequence[int]) -> list[str]:
    """`text` cut into tokens, of these lengths in turn."""
    tokens, at, turn = [], 0, 0
    while at < len(text):
        tokens.append(text[at : at + cuts[turn % len(cuts)]])
        at += len(tokens[-1])
        turn += 1
    return tokens


# What holds for every text


@unhurried
@given(texts, languages, limits, st.booleans(), st.sampled_from([[1], [3], [1, 5, 2], [50], [700, 1]]))
def test_pieces_do_not_depend_on_how_the_text_was_cut(
    text: str, lang: str, max_weight: int, first_clause: bool, cuts: list[int]
) -> None:
    whole = fed([text], lang, max_weight=max_weight, first_clause=first_clause)
    assert fed(tokens_of(text, cuts), lang, max_weight=max_weight, first_clause=first_clause) == whole


@unhurried
@given(texts, languages, limits, st.booleans())
def test_pieces_join_to_the_text_in_order(text: str, lang: str, max_weight: int, first_clause: bool) -> None:
    pieces = fed([text], lang, max_weight=max_weight, first_clause=first_clause)
    assert "".join(part for _, part in pieces) == text
    assert all(text[piece.start : piece.end] == part != "" for piece, part in pieces)
    assert all(first.end == second.start for (first, _), (second, _) in pairwise(pieces))


@unhurried
@given(texts, languages, limits, st.booleans())
def test_no_piece_is_heavier_than_allowed(text: str, lang: str, max_weight: int, first_clause: bool) -> None:
    parts = texts_fed([text], lang, max_weight=max_weight, first_clause=first_clause)
    assert max((weigh(part.rstrip()) for part in parts), default=0) <= max_weight


@unhurried
@given(texts, languages)
def test_pieces_without_limits_are_the_sentences_of_the_whole_text(text: str, lang: str) -> None:
    pieces = fed([text], lang, max_weight=1_000_000, first_clause=False)
    assert [(piece.start, piece.end) for piece, _ in pieces] == split(text, lang)


@unhurried
@given(texts, st.lists(st.integers(1, 40), min_size=1, max_size=20), st.integers(0, 300))
def test_what_is_pending_and_what_came_out_are_the_text_so_far(text: str, cuts: list[int], flush_at: int) -> None:
    chunker = Chunker("en", max_weight=60)
    out, known = "", ""
    for token in tokens_of(text, cuts):
        out += "".join(map(chunker.text_of, chunker.feed(token)))
        if len(known) <= flush_at < len(known) + len(token):
            out += "".join(map(chunker.text_of, chunker.flush()))
            assert not chunker.pending.strip()
        known += token
        assert out + chunker.pending == known
    assert out + "".join(map(chunker.text_of, chunker.finish())) == text
    assert chunker.pending == ""


# Sentences


def test_splits_the_hard_cases_fed_by_tokens_as_well_as_whole() -> None:
    failures = {}
    for case in CASES:
        got = [squeezed(text) for text in texts_fed(tokens_of(case.text, [4]), case.lang, first_clause=False)]
        if got != case.sentences:
            failures[case.id] = got
    assert 1 - len(failures) / len(CASES) >= MEASURED_SHARE - 1e-9, failures


def test_a_sentence_is_out_a_few_characters_after_its_end() -> None:
    chunker = Chunker("en")
    assert not chunker.feed("How are you? I am f")
    assert [chunker.text_of(piece) for piece in chunker.feed("ine")] == ["How are you? "]
    assert chunker.pending == "I am fine"


@pytest.mark.parametrize("text", ["今日は雨です。明", "ठीक है। अ", "هل تفهم؟ ن", "ٹھیک ہے۔ و", "你好！\n我"])
def test_behind_a_certain_stop_one_letter_suffices(text: str) -> None:
    chunker = Chunker("xx")
    assert chunker.feed(text[:-1]) == []
    assert [chunker.text_of(piece) for piece in chunker.feed(text[-1])] == [text[:-1]]


def test_a_quote_is_held_until_it_is_closed() -> None:
    chunker = Chunker("en", first_clause=False)
    assert chunker.feed("He yelled “Fire! Run! Everybody out of the house” ") == []
    assert [chunker.text_of(piece) for piece in chunker.feed("and ran. Then they saw it.")] == [
        "He yelled “Fire! Run! Everybody out of the house” and ran. "
    ]


def test_a_quote_that_is_never_closed_is_held_only_so_long() -> None:
    chunker = Chunker("en", max_weight=1000)
    assert chunker.feed('He yelled "Fire! Run! Everybody ran ' + "and ran " * 15) == []
    assert [chunker.text_of(piece) for piece in chunker.feed("and ran and ran and ran again. ")] == [
        'He yelled "Fire! ',
        "Run! ",
    ]


def test_tells_how_pieces_end() -> None:
    text = "# Title\nWell, this is a sentence. It ends here.\n\nAnd this is one.\nA wrapped line"
    assert [(text, piece.boundary) for piece, text in fed([text])] == [
        ("# Title\n", "paragraph"),
        ("Well, this is a sentence. ", "sentence"),
        ("It ends here.\n\n", "paragraph"),
        ("And this is one.\n", "sentence"),
        ("A wrapped line", "sentence"),
    ]


# The first clause


def test_the_first_piece_may_be_a_clause() -> None:
    text = "When the rain had stopped at last, everybody went out, and nobody looked back. One, two, three, four, five, six."
    assert [(text, piece.boundary) for piece, text in fed([text])] == [
        ("When the rain had stopped at last, ", "clause"),
        ("everybody went out, and nobody looked back. ", "sentence"),
        ("One, two, three, four, five, six.", "sentence"),
    ]


def test_a_clause_is_out_before_its_sentence() -> None:
    chunker = Chunker("en")
    assert [chunker.text_of(piece) for piece in chunker.feed("When the rain had stopped at last, everybody")] == [
        "When the rain had stopped at last, "
    ]


@pytest.mark.parametrize(
    ("lang", "text"),
    [
        pytest.param("en", "Yes, of course, I do not mind. This is another one.", id="sentence ends before"),
        pytest.param("en", "This is the end of the matter, Tom. This is another one.", id="hardly anything remains"),
        pytest.param("de", "Das kostet im Laden nebenan 22,1 Euro oder um 10:30 mehr. Und so weiter.", id="numbers"),
        pytest.param("ja", "これは長い長い文章ですが価格は１，２００円です。はい。", id="wide numbers"),
        pytest.param("en", "Some words without any mark in the long sentence and its end. Next one.", id="no mark"),
    ],
)
def test_a_first_piece_that_is_no_clause(lang: str, text: str) -> None:
    assert texts_fed([text], lang) == texts_fed([text], lang, first_clause=False)


def test_clauses_end_at_wide_marks_without_white_space() -> None:
    text = "首先我们来看一下这个问题的背景，然后再讨论解决方案。"
    assert texts_fed([text], "zh") == ["首先我们来看一下这个问题的背景，", "然后再讨论解决方案。"]


def test_only_the_very_first_piece_may_be_a_clause() -> None:
    chunker = Chunker("en")
    chunker.feed("Hello")
    assert chunker.flush() == [Piece(0, 5, "forced")]
    text = "When the rain had stopped at last, everybody went out, and nobody looked back."
    assert [chunker.text_of(piece) for piece in [*chunker.feed(text), *chunker.finish()]] == [text]


# Long sentences


def test_a_long_sentence_is_cut_at_its_last_clause() -> None:
    text = "It rained, and it snowed, and it hailed all day and all night"
    assert [(part, piece.boundary) for piece, part in fed([text], max_weight=40)] == [
        ("It rained, and it snowed, ", "clause"),
        ("and it hailed all day and all night", "sentence"),
    ]


def test_a_long_sentence_whose_clauses_end_too_soon_is_cut_at_its_last_space() -> None:
    text = "Well, it rained and it snowed and it hailed all day"
    assert [(part, piece.boundary) for piece, part in fed([text], max_weight=40)] == [
        ("Well, it rained and it snowed and it ", "forced"),
        ("hailed all day", "sentence"),
    ]


def test_a_number_at_the_limit_is_not_taken_for_a_clause() -> None:
    text = "It will cost you no more than some 22,190 in all"
    assert (
        texts_fed([text], max_weight=38)
        == texts_fed(tokens_of(text, [1]), max_weight=38)
        == [
            "It will cost you no more than some ",
            "22,190 in all",
        ]
    )


def test_a_long_quote_is_cut_between_its_sentences() -> None:
    text = "“It rained, and so on. It snowed without end all day” he said"
    assert [(part, piece.boundary) for piece, part in fed([text], max_weight=40)] == [
        ("“It rained, and so on. ", "sentence"),
        ("It snowed without end all day” he said", "sentence"),
    ]


@pytest.mark.parametrize(
    "character",
    [
        pytest.param("e\u0301\u0323", id="combining marks"),
        pytest.param("👨‍👩‍👧‍👦", id="joined emoji"),
        pytest.param("👍🏽", id="skin tone"),
        pytest.param("❤️", id="variation selector"),
        pytest.param("🇩🇪", id="flag"),
        pytest.param("क्षि", id="joined consonants"),
        pytest.param("\u1112\u1161\u11ab", id="hangul letters"),
    ],
)
def test_a_text_without_spaces_is_cut_between_visible_characters(character: str) -> None:
    parts = texts_fed([character * 60], max_weight=23)
    assert len(parts) > 1
    assert all(len(part) % len(character) == 0 for part in parts)


def test_too_many_marks_on_one_character_are_cut_all_the_same() -> None:
    assert texts_fed(["e" + "\u0301" * 50], max_weight=20) == ["e" + "\u0301" * 19, "\u0301" * 20, "\u0301" * 11]


def test_a_limit_below_one_wide_character_is_refused() -> None:
    with pytest.raises(ValueError, match="max_weight is 1"):
        Chunker("en", max_weight=1)


# Flush and finish


def test_flush_cuts_what_is_pending_and_goes_on() -> None:
    chunker = Chunker("en")
    chunker.feed("It is late. I th")
    assert [(chunker.text_of(piece), piece.boundary) for piece in chunker.flush()] == [
        ("It is late. ", "sentence"),
        ("I th", "forced"),
    ]
    assert chunker.pending == ""
    assert chunker.feed("ink. So") == []
    assert [(chunker.text_of(piece), piece) for piece in chunker.finish()] == [
        ("ink. ", Piece(16, 21, "sentence")),
        ("So", Piece(21, 23, "sentence")),
    ]


def test_flush_speaks_a_sentence_that_waits_for_more() -> None:
    chunker = Chunker("en")
    assert chunker.feed("That is Dr.") == []
    assert chunker.flush() == [Piece(0, 11, "sentence")]


def test_flush_leaves_white_space_alone() -> None:
    chunker = Chunker("en")
    assert chunker.feed(" \n") == []
    assert chunker.flush() == []
    assert chunker.pending == " \n"
    chunker.feed("Yes")
    assert [chunker.text_of(piece) for piece in chunker.finish()] == [" \nYes"]


def test_nothing_comes_of_nothing() -> None:
    chunker = Chunker("en")
    assert chunker.feed("") == chunker.flush() == chunker.finish() == []


# Work and memory

ENDLESS = {
    "words": "and then ",
    "no space": "abcdefghij",
    "abbreviations": "a.",
    "stops": ".",
    "quotes": 'He said "no. ',
    "brackets": "(a. ",
    "nested": "(«“[‘",
    "emoji": "👨‍👩‍👧‍👦",
    "lines": "line\n",
    "white space": " ",
    "wide": "今日は、",
}


def calls(work: Callable[[], object]) -> int:
    """How many functions `work` calls, built-in ones too: a measure of work that no other process disturbs."""
    count = 0

    def tally(*_: object) -> None:
        nonlocal count
        count += 1

    previous = sys.getprofile()
    sys.setprofile(tally)
    try:
        work()
    finally:
        sys.setprofile(previous)
    return count


@pytest.mark.parametrize("unit", ENDLESS.values(), ids=ENDLESS.keys())
def test_memory_does_not_grow_with_the_text(unit: str) -> None:
    """What is pending bounds what each feed looks at, and so its work."""
    chunker = Chunker("en")
    text = (unit * 8_000)[:8_000]
    for token in tokens_of(text, [4]):
        for piece in chunker.feed(token):
            assert len(chunker.text_of(piece)) <= 240 + 256
        assert len(chunker.pending) <= 240 + 160 + 2 * 256


@pytest.mark.parametrize("cut", [4, 1_000_000], ids=["by tokens", "whole"])
@pytest.mark.parametrize("unit", ENDLESS.values(), ids=ENDLESS.keys())
def test_work_grows_in_line_with_the_text(unit: str, cut: int) -> None:
    text = (unit * 8_000)[:8_000]
    short = calls(lambda: fed(tokens_of(text[:2_000], [cut])))
    long = calls(lambda: fed(tokens_of(text, [cut])))
    assert long < 4.6 * short + 1_000
