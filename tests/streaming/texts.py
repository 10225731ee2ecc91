"""Texts that the tests of splitting share: the hard cases, and arbitrary texts made of what splitting looks at."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st

__all__ = ["CASES", "Case", "languages", "squeezed", "texts", "unhurried"]


@dataclass(frozen=True, slots=True)
class Case:
    """A text and its sentences, written down before any splitter saw it."""

    id: str
    lang: str
    text: str
    sentences: list[str]
    """With every run of white space squeezed to one space."""


CASES = [
    Case(**case)
    for case in json.loads((Path(__file__).parents[1] / "data" / "sentence_cases.json").read_text(encoding="utf-8"))
]


def squeezed(text: str) -> str:
    """`text` without white space around it and with single spaces in it."""
    return " ".join(text.split())


unhurried = settings(deadline=None)
"""For properties: how long an example takes depends on what else the machine does."""

_FRAGMENTS = [
    *"aAbBx1 2  ..!?…。！？।؟۔\n\r\t\"“”„‘’«»()[]「」'\0\u200d\u0301\ufe0f-*#|:;,、，&/@_~`<>\u2028\x85\u3000\ufeff你と라कद्аб",
    *(
        "😀",
        "👍🏽",
        "👨‍👩‍👧",
        "🇩🇪",
        "Dr. ",
        "e.g. ",
        "U.S. ",
        "1. ",
        "http://a.b/c",
        "\n\n",
        "\n- ",
        "word ",
        "Word ",
        ". ",
        "。",
        "？」と",
        '" he ',
    ),
    *("hello, there, my friend, ", " 12. ", "  ", " " * 300, "." * 70, "\ud800"),
]

texts = st.one_of(
    st.lists(st.sampled_from(_FRAGMENTS), max_size=120).map("".join),
    # Few different fragments repeat often, which fills limits.
    st.lists(st.sampled_from(_FRAGMENTS), min_size=1, max_size=4).flatmap(
        lambda few: st.lists(st.sampled_from(few), max_size=300).map("".join)
    ),
    st.text(max_size=60),
)
"""Arbitrary texts."""

languages = st.sampled_from(["en", "de-DE", "fr", "el", "hy", "ru", "hi", "ar", "ja", "zh-Hant-TW", "ko", "xx", ""])
"""Language tags, known and unknown."""
