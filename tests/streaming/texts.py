"""Texts that the tests of splitting share: the hard cases, and arbitrary texts made of what splitting looks at."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

__all__ = ["CASES", "MEASURED_SHARE", "Case", "languages", "squeezed", "texts", "unhurried"]


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

MEASURED_SHARE = 116 / 117
"""Of the cases that are split exactly; a change may raise it, never lower it."""


def squeezed(text: str) -> str:
    """`text` without white space around it and with single spaces in it."""
    return " ".join(text.split())


unhurried = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
"""For properties: how long an example takes depends on what else the machine does."""

_FRAGMENTS = [
    *"aAbBx1 2  ..!?…。！？।؟۔\n\r\t\"“”„‘’«»()[]「」'\0\u200d\u0301\ufe0f-*#|:;,、，&/@_~`<>\u2028\x85\u3000\ufeff你と라कद्аб",
    "😀", "👍🏽", "👨‍👩‍👧", "🇩🇪", "Dr. ", "e.g. ", "U.S. ", "1. ", " 12. ", "http://a.b/c",
    "word ", "Word ", ". ", "。", "？」と", '" he ',
    "hello, there, my friend, ", "\n\n", "\n- ", "  ", " " * 300, "." * 70, "\ud800",
]  # fmt: skip


def _built(seed: int) -> str:
    """A text of up to a few thousand characters, in which few different fragments often repeat: that is what fills limits."""
    choice = random.Random(seed)
    few = choice.sample(_FRAGMENTS, choice.randint(2, len(_FRAGMENTS)))
    return "".join(choice.choices(few, k=choice.choice([5, 30, 60, 100, 400, 1500])))


texts = st.one_of(st.integers(0, 2**32).map(_built), st.lists(st.sampled_from(_FRAGMENTS)).map("".join), st.text(max_size=60))
"""Arbitrary texts."""

languages = st.sampled_from(["en", "de-DE", "fr", "el", "hy", "ru", "hi", "ar", "ja", "zh-Hant-TW", "ko", "xx", ""])
"""Language tags, known and unknown."""
