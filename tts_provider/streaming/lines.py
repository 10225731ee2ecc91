"""What kind of line begins here: prose that may go on from the line before, or a line that stands for itself.

A newline inside prose is only a wrapped line. Headings, list items and table rows are told by their first characters, as
Markdown and plain text write them.
"""

from __future__ import annotations

import re
from typing import Final, Literal

__all__ = ["LINE_BREAK", "LineKind", "begins_prose", "breaks_before", "kind_of_line"]

LineKind = Literal["prose", "heading", "item", "row", "quote", "rule"]

LINE_BREAK: Final = re.compile(r"\r\n|[\n\r\x0b\x0c\x85\u2028\u2029]")
"""One end of a line, in any of the ways to write it."""

_HEADING: Final = re.compile(r"#{1,6}\s")
_ITEM: Final = re.compile(
    r"[-*+•◦▪‣–·]\s"
    r"|\(?(?:[0-9０-９]{1,3}|[A-Za-z]|[ivx]{2,4})[)）]\s?"
    r"|[0-9０-９]{1,3}[．、](?!\d)"
    r"|[\u2460-\u2473]"  # circled numbers
    r"|[\u2600-\u27bf\U0001f300-\U0001faff]"  # an emoji as bullet
)
_NUMBER: Final = re.compile(r"([0-9]{1,3})[.)]\s")
_ROW: Final = re.compile(r"\|")
_QUOTE: Final = re.compile(r">")
_RULE: Final = re.compile(r"(?:-{3,}|\*{3,}|_{3,}|={3,}|`{3,}|~{3,})(?=[\s\w]|$)")


def begins_prose(beginning: str) -> bool:
    """Whether the first character alone tells that a line is prose: a letter that numbers no item."""
    return beginning[:1].isalpha() and not beginning[0].isascii()


def kind_of_line(beginning: str, before: LineKind | None) -> LineKind:
    """The kind of the line with this beginning (a few characters, no white space before them).

    Args:
        beginning: its first characters.
        before: the kind of the line before; None at the start of a paragraph.
    """
    if _RULE.match(beginning):
        return "rule"
    if _HEADING.match(beginning):
        return "heading"
    if _ROW.match(beginning):
        return "row"
    if _QUOTE.match(beginning):
        return "quote"
    number = _NUMBER.match(beginning)
    # In the middle of prose only "1." begins a list: "it was on page / 12. Nobody knew" does not (CommonMark, 5.3).
    if number and (before != "prose" or number[1] in ("0", "1")):
        return "item"
    return "item" if _ITEM.match(beginning) else "prose"


def breaks_before(kind: LineKind, before: LineKind, indented: bool, beginning: str) -> bool:
    """Whether a line begins something new.

    Args:
        kind: its kind.
        before: the kind of the line before.
        indented: whether white space stands before it.
        beginning: its first characters.
    """
    if before in ("heading", "row", "rule") or kind in ("heading", "row", "rule", "item"):
        return True
    if kind == "quote" or before == "quote":
        return kind != before
    # Prose behind an item goes on with it, unless it begins like a sentence and hangs under nothing.
    return before == "item" and not indented and beginning[:1].isupper()
