"""Text that comes in pieces of any size, cut into pieces to be spoken.

A piece is a sentence; or a part of one that is too long to be spoken in one go; or, for the very first piece, a clause, so
that the first audio is there sooner.

Pieces do not depend on how the text was cut when it came: a cut is made only when the text behind it up to a fixed distance is
known, and from that text only. Only `flush` and `finish` cut without it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from tts_provider.streaming.characters import is_border, weigh
from tts_provider.streaming.sentences import CONTEXT, MAX_SPACES, Scanner
from tts_provider.streaming.stops import LOOK_AHEAD, STOPS

__all__ = ["Chunker", "Piece"]

FIRST_CLAUSE_WEIGHT: Final = 25
"""Weight from which the first piece may end at a clause mark: about two seconds of speech, time enough to make the next."""

FORGET: Final = 2048
"""Characters no longer needed that are kept before they are dropped together; a bound on memory, and on copying."""

_CLAUSE: Final = re.compile(
    r"[,;:—،؛](?=\s|\Z)"  # with white space behind it: not 22,1 or 10:30
    r"|[、，；：](?![0-9０-９])"  # these are as wide as a mark with white space
    r"|(?<![0-9０-９])[、，；：]"
)
"""A mark that ends a clause, or may do so when the text ends behind it."""
_END: Final = re.compile(rf"[{STOPS}\n\r]")
_SPACES: Final = re.compile(rf"\s{{0,{MAX_SPACES}}}")


Boundary = Literal["sentence", "paragraph", "clause", "forced"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of text to be spoken, as offsets into all text fed so far."""

    start: int
    end: int
    boundary: Boundary
    """How it ends: with its sentence; with its paragraph, list item or heading; behind a clause mark; anywhere, because it had
    to (too long, or flushed)."""


class Chunker:
    """Cuts text that comes in pieces of any size into pieces to be spoken.

    The pieces join to exactly the text fed, in order. White space belongs to the piece before it (that at the text's
    beginning to the first). No piece without its trailing white space weighs more than `max_weight`. A piece holds nothing
    but white space only where there is so much of it that it would exceed the limits, or nothing else in the whole text.

    Time is linear in the length of the text, some 500 characters a millisecond; memory does not grow with it. A long text is
    best fed in slices of a few thousand characters, so that others get their turn in between: the pieces are the same.
    """

    def __init__(self, lang: str, *, max_weight: int = 240, first_clause: bool = True) -> None:
        """Start with an empty text.

        Args:
            lang: an IETF tag.
            max_weight: of one piece, as `weigh` counts; at least 2.
            first_clause: whether the first piece may end at a clause mark.
        """
        if max_weight < 2:
            raise ValueError(f"max_weight is {max_weight}; a single wide character weighs 2.")
        self._max_weight = max_weight
        self._scanner = Scanner(lang)
        self._offset = 0  # of the scanner's text in the whole text
        self._start = 0  # of the piece being made, in the scanner's text
        self._measured = 0  # up to here the piece being made fits
        self._weight = 0  # of the piece being made up to there
        self._limit: int | None = None  # the first character that does not fit
        self._first = first_clause  # whether the next piece may end with a clause
        self._ended = False  # the scanner's text has been cut to its end and can be dropped

    @property
    def pending(self) -> str:
        """The text that is in no piece yet."""
        return self._scanner.text[self._start :]

    def text_of(self, piece: Piece) -> str:
        """The text of a piece that the latest `feed`, `flush` or `finish` returned."""
        return self._scanner.text[piece.start - self._offset : piece.end - self._offset]

    def feed(self, text: str) -> list[Piece]:
        """Take more text; the pieces that are complete now."""
        self._forget()
        self._scanner.append(text)
        return self._cut(final=False)

    def flush(self) -> list[Piece]:
        """Cut what is pending as if the text ended here; the pieces. What is fed next begins a new sentence.

        White space alone stays pending: there is nothing to speak in it.
        """
        self._forget()
        return [] if not self.pending.strip() else self._cut_rest("forced")

    def finish(self) -> list[Piece]:
        """Cut what is pending, since the text ends here; the pieces."""
        self._forget()
        return self._cut_rest("sentence")

    def _forget(self) -> None:
        """Drop text that nothing needs any more."""
        if self._ended:
            self._offset += len(self._scanner.text)
            self._scanner.restart()
            self._start = self._measured = self._weight = 0
            self._limit = None
            self._ended = False
            return
        count = min(self._start, self._scanner.pos - CONTEXT)
        if count > FORGET:
            self._scanner.drop(count)
            self._offset += count
            self._start -= count
            self._measured -= count
            if self._limit is not None:
                self._limit -= count

    def _cut_rest(self, boundary: Boundary) -> list[Piece]:
        """Everything pending as pieces; `boundary` is how the last one ends if no sentence ends there."""
        pieces = self._cut(final=True)
        end = len(self._scanner.text)
        if self._start < end:
            pieces.append(self._piece(end, boundary))
        self._ended = True
        return pieces

    def _cut(self, final: bool) -> list[Piece]:
        """The pieces that are complete."""
        pieces = []
        while (cut := self._next_cut(final)) is not None:
            pieces.append(self._piece(*cut))
        return pieces

    def _piece(self, end: int, boundary: Boundary) -> Piece:
        """The piece from `_start` to `end`; the next one starts there."""
        start = self._start
        if end < self._measured:
            self._weight -= weigh(self._scanner.text[start:end])
        else:
            self._measured, self._weight = end, 0
        self._start, self._limit, self._first = end, None, False
        return Piece(self._offset + start, self._offset + end, boundary)

    def _next_cut(self, final: bool) -> tuple[int, Boundary] | None:
        """Where the piece being made ends, and how; None when more text is needed to tell.

        The scanner is led only as far as this piece can reach. What it holds then, and so where a long sentence is cut, is
        the same whether more text is there or not.
        """
        scanner = self._scanner
        limit = self._find_limit()
        reach = len(scanner.text) if limit is None else limit
        clause = self._find_clause(reach, final) if self._first else None
        if clause is not None:
            reach = clause[0]

        scanner.advance(reach, final)
        while scanner.boundaries and scanner.boundaries[0].end <= self._start:
            scanner.boundaries.popleft()  # a long sentence was already cut here or behind
            scanner.advance(reach, final)
        if scanner.boundaries and (limit is None or scanner.boundaries[0].end <= limit):
            return scanner.boundaries.popleft()
        if scanner.boundaries or scanner.pos >= reach:
            if clause is not None:
                return None if clause[1] is None else (clause[1], "clause")
            if limit is not None:
                return self._force(limit)
        return None

    def _find_limit(self) -> int | None:
        """The first character that does not fit into the piece being made; None when all that is there fits.

        It is never white space, unless there is so much of it that it has to be cut.
        """
        text, room = self._scanner.text, self._max_weight
        while self._limit is None and self._measured < len(text):
            free = max(room - self._weight, 1)
            block = text[self._measured : self._measured + free]
            if not block.isascii():
                block = block[: max(free // 2, 1)]  # so many fit even if all are wide
            weight = self._weight + weigh(block)
            if weight > room + (MAX_SPACES if block.isspace() else 0):
                self._limit = self._measured
            else:
                self._measured += len(block)
                self._weight = weight
        return self._limit

    def _find_clause(self, reach: int, final: bool) -> tuple[int, int | None] | None:
        """The first clause mark before `reach` that may end the first piece, and the end of that piece, None while unknown."""
        text = self._scanner.text
        for mark in _CLAUSE.finditer(text, self._start, reach + 1):
            if mark.start() == reach or weigh(text[self._start : mark.end()].lstrip()) < FIRST_CLAUSE_WEIGHT:
                continue
            end = _content(text, mark.end())
            rest = text[end : end + LOOK_AHEAD]
            if len(rest) < LOOK_AHEAD and not final:
                return mark.start(), None
            # Not when hardly anything of the sentence would remain.
            if len(rest) == LOOK_AHEAD and not _END.search(rest) and end <= reach and is_border(text, end):
                return mark.start(), end
        return None

    def _force(self, limit: int) -> tuple[int, Boundary]:
        """Where to cut a sentence of which the text up to `limit` fits: the best place in its last two thirds, if any."""
        text, start = self._scanner.text, self._start
        least = start + max((limit - start) // 3, 1)
        for held in reversed(self._scanner.held):
            if least <= held.end <= limit:
                return held.end, "sentence"
        for mark in reversed(list(_CLAUSE.finditer(text, least, limit + 1))):
            end = _content(text, mark.end())
            if end <= limit and is_border(text, end, start):
                return end, "clause"
        words = text[start:limit].rsplit(None, 1)
        end = limit if text[limit - 1].isspace() else limit - len(words[-1])
        if text[start:end].strip() and is_border(text, end, start):
            return end, "forced"
        for end in range(limit, start, -1):
            if is_border(text, end, start):
                return end, "forced"
        return limit, "forced"


def _content(text: str, at: int) -> int:
    """The first place from `at` on that is no white space."""
    found = _SPACES.match(text, at)
    assert found is not None
    return found.end()
