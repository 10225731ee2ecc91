"""Sentences as offsets into a text, whole or while it comes in.

Every decision is a function of the text alone: of a bounded window before and behind the place, and of decisions before it.
Text that comes in pieces waits until the window behind is full, so the same sentences come out however it was cut.

The window behind a stop reaches past its closing quotes and white space to the next `LOOK_AHEAD` characters (one suffices
behind 。 and its like). A stop inside an open quote or bracket ends no sentence if that is closed within `HOLD` characters; if
it is not, it was no quote.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Final, Literal, NamedTuple

from tts_provider.streaming.characters import is_border, weigh
from tts_provider.streaming.lines import LINE_BREAK, LineKind, begins_prose, breaks_before, kind_of_line
from tts_provider.streaming.quotes import CLOSERS, MARKS, Opening, closed_by, kind_of, opens
from tts_provider.streaming.stops import LOOK_AHEAD, LOOK_BACK, STOPS, STOPS_OF_LANGUAGE, Judge, Stop, is_certain

__all__ = ["CONTEXT", "HOLD", "Boundary", "Scanner", "Span", "split", "weigh"]

Span = tuple[int, int]
"""Start and end of a piece of text, in code points."""

HOLD: Final = 160
"""Characters within which an open quote or bracket must be closed to keep its sentences together."""

MAX_NESTING: Final = 8
"""Quotes and brackets open at a time; a bound on the work, far above any prose."""

MAX_RUN: Final = 64
"""Stops in a row, or closing marks in a row, that are looked at together; a bound on the look-ahead."""

MAX_SPACES: Final = 256
"""White space in a row that is looked through; a bound on the look-ahead."""

CONTEXT: Final = 256
"""Characters before the present place that a decision may look at."""

BEGINNING: Final = 16
"""Characters of a sentence's beginning that are looked at: a list marker, or a quote, and a letter."""

_MARKUP: Final = frozenset("*_~`")
"""What may stand between a stop and the white space behind it besides closing marks."""
_EMOJI: Final = re.compile(
    r"[ \xa0]{0,2}(?:[\u2600-\u27bf\u2b00-\u2bff\u3030\u303d\U0001f000-\U0001faff]"
    r"[\ufe0e\ufe0f\u200d\u20e3\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]{0,16}|[:;=]['-]?[)(DPp](?!\w))"
)
_FOOTNOTE: Final = re.compile(r"\[\d{1,4}\]")
_SPACES: Final = re.compile(rf"\s{{0,{MAX_SPACES}}}")
_NEWLINES: Final = "\n\r\x0b\x0c\x85\u2028\u2029"
_LONG_BREAKS: Final = frozenset("\x0c\u2029")


class Boundary(NamedTuple):
    """The end of a sentence."""

    end: int
    kind: Literal["sentence", "paragraph"]


class _Held(NamedTuple):
    """A stop inside something that is open: a boundary if that is never closed."""

    at: int
    end: int


class Scanner:
    """Finds the ends of sentences in a text that grows at its end and may be forgotten at its beginning."""

    def __init__(self, lang: str) -> None:
        language = lang.replace("_", "-").partition("-")[0].lower()
        stops = STOPS + STOPS_OF_LANGUAGE.get(language, "")
        marks = re.escape("".join(sorted(MARKS - {"'"})))
        self._run = re.compile(rf"\.(?: \.){{1,{MAX_RUN}}}|[{stops}]{{1,{MAX_RUN}}}")
        # An apostrophe between letters is the one mark that is left out: there are many.
        self._events = re.compile(rf"[{stops}{marks}{_NEWLINES}]|(?<!\w)'|'(?!\w)")
        self._judge = Judge(language)
        self.text = ""
        """What is known of the text and not forgotten. All positions are offsets into it."""
        self.boundaries: deque[Boundary] = deque()
        """Ends of sentences found and not taken yet, in order."""
        self.held: deque[_Held] = deque()
        """Stops that wait for a quote or bracket to be closed, in order."""
        self._open: list[Opening] = []
        self.restart()

    def restart(self) -> None:
        """Forget everything; what is appended next is the start of a text."""
        self.text = ""
        self.pos = 0
        """Everything before has been looked at."""
        self.boundaries.clear()
        self.held.clear()
        self._open.clear()
        self._line: LineKind = "prose"
        self._begun = False
        self._start = 0
        self._need = 0  # length of the text below which it is no use to look again

    def append(self, text: str) -> None:
        """Take more text."""
        self.text += text

    def drop(self, count: int) -> None:
        """Forget the first `count` characters; at least `CONTEXT` before `pos` must remain."""
        self.text = self.text[count:]
        self.pos -= count
        self._start -= count
        self._need -= count
        self.boundaries = deque(Boundary(end - count, kind) for end, kind in self.boundaries)
        self.held = deque(_Held(at - count, end - count) for at, end in self.held)
        self._open = [Opening(o.at - count, o.char, o.led, o.sentence - count) for o in self._open]

    def advance(self, upto: int, final: bool) -> None:
        """Look on until there is a boundary, `pos` has reached `upto`, or more text is needed.

        Args:
            upto: where to stop looking, at most the length of the text.
            final: whether the text ends here.
        """
        if not final and len(self.text) < self._need:
            return
        while self.pos < upto and not self.boundaries:
            found = self._events.search(self.text, self.pos, upto) if self._begun else None
            at = found.start() if found else upto
            if self._open and self._begun and self._open[0].at + HOLD < at:
                del self._open[0]
                self._free()
            elif found is None and self._begun:
                self.pos = upto
            else:
                behind = self._look(found, final)
                if behind is None:
                    return
                self.pos = behind

    def _look(self, found: re.Match[str] | None, final: bool) -> int | None:
        """Look at what was found, or at the text's beginning; where to go on, or None when more text is needed."""
        if found is None:
            return self._begin(final)
        at, char = found.start(), found[0]
        if LINE_BREAK.match(char):
            return self._newline(at, final)
        if char in MARKS:
            return self._mark(at, final)
        return self._stop(at, final)

    def _wait(self, length: int, final: bool) -> bool:
        """Whether to wait until the text is `length` characters long."""
        if final or len(self.text) >= length:
            return False
        self._need = length
        return True

    def _begin(self, final: bool) -> int | None:
        content = self._content(0)
        if self._wait(content + 1, final) or self._wait(content + self._telling(content), final):
            return None
        self._begun = True
        self._line = kind_of_line(self.text[content : content + LOOK_AHEAD], None)
        return content

    def _content(self, at: int) -> int:
        """The first place from `at` on that is no white space."""
        found = _SPACES.match(self.text, at)
        assert found is not None
        return found.end()

    # Lines

    def _telling(self, content: int) -> int:
        """How many characters tell the kind of the line that begins at `content`."""
        return 1 if begins_prose(self.text[content : content + 1]) else LOOK_AHEAD

    def _newline(self, at: int, final: bool) -> int | None:
        content = self._content(at)
        if self._wait(content + 1, final) or self._wait(content + self._telling(content), final):
            return None
        if self._begins_new(at, content):
            self._break(at, content)
        return content

    def _begins_new(self, gap: int, content: int) -> bool:
        """Whether the line that begins at `content`, after white space from `gap` on, begins something new."""
        text = self.text
        space = text[gap:content]
        beginning = text[content : content + LOOK_AHEAD]
        blank = len(LINE_BREAK.findall(space)) > 1 or not _LONG_BREAKS.isdisjoint(space)
        kind = kind_of_line(beginning, None if blank else self._line)
        indented = not LINE_BREAK.match(space[-1])
        new = blank or breaks_before(kind, self._line, indented, beginning)
        if new or kind != "prose":
            self._line = kind
        return new

    def _break(self, at: int, end: int) -> None:
        """End whatever is open at `at`; the next sentence begins at `end`."""
        self._open.clear()
        self._free()
        begun = at - self._start > CONTEXT or self.text[self._start : at].strip()
        if begun and is_border(self.text, end):
            self.boundaries.append(Boundary(end, "paragraph"))
        self._start = end

    # Quotes and brackets

    def _mark(self, at: int, final: bool) -> int | None:
        """Look at a quote or bracket that stands behind no stop."""
        if self._wait(at + 2, final):
            return None
        closed = closed_by(self.text, at, self._open)
        if closed is not None:
            self._close(closed)
        elif len(self._open) < MAX_NESTING and opens(self.text, at):
            self._push(at)
        return at + 1

    def _push(self, at: int) -> None:
        char = self.text[at]
        if char in "\"'”":  # opened twice, so the first one was none
            self._open = [opening for opening in self._open if opening.char != char]
            self._free()
        led = self.text[max(self._start, at - LOOK_AHEAD, 0) : at].rstrip()[-1:]
        self._open.append(Opening(at, char, led, self._start))

    def _close(self, index: int) -> Opening:
        """Close an opening and all inside it: the stops in between end nothing."""
        opening = self._open[index]
        del self._open[index:]
        while self.held and self.held[-1].at > opening.at:
            self.held.pop()
        self._start = opening.sentence
        return opening

    def _free(self) -> None:
        """Let go of the stops that are no longer inside anything."""
        while self.held and (not self._open or self.held[0].at < self._open[0].at):
            self.boundaries.append(Boundary(self.held.popleft().end, "sentence"))

    # Stops

    def _stop(self, at: int, final: bool) -> int | None:
        """Look at a stop."""
        text = self.text
        run = self._run.match(text, at)
        assert run is not None
        tail, closed = self._tail(run.end())
        content = self._content(tail)
        if self._wait(content + 1, final):
            return None
        beginning = text[content : content + LOOK_AHEAD]
        broken = LINE_BREAK.search(text, tail, content) is not None
        certain = is_certain(run[0]) and closed is None and (begins_prose(beginning) if broken else beginning[:1].isalnum())
        if not certain and self._wait(content + LOOK_AHEAD, final):
            return None

        opening = None if closed is None else self._close(closed)
        if broken and self._begins_new(tail, content):
            self._break(at + 1, content)
            return content
        near = self._start >= at - LOOK_BACK
        stop = Stop(
            sentence=text[self._start if near else at - LOOK_BACK : at],
            mark=run[0],
            closed="" if opening is None else kind_of(opening),
            led="" if opening is None else opening.led,
            gap=content > tail,
            after=beginning.rstrip() if content - tail < MAX_SPACES else "",
            whole=near,
            beginning=text[self._start : min(at, self._start + BEGINNING)] if self._start >= at - CONTEXT else "",
        )
        if self._judge.ends(stop) and is_border(text, content, run.end()):
            if self._open:
                self.held.append(_Held(at, content))
            else:
                self.boundaries.append(Boundary(content, "sentence"))
            self._start = content
        return content

    def _tail(self, at: int) -> tuple[int, int | None]:
        """Where the sentence's closing marks, footnotes and emoji end that begin at `at`, and the index of what is closed."""
        text, end, closed = self.text, at, None
        openings = self._open
        while end < min(len(text), at + MAX_RUN):
            char = text[end]
            if char in CLOSERS:
                index = closed_by(text, end, openings)
                if index is not None:
                    closed, openings = index, openings[:index]
                elif opens(text, end):
                    break  # the next sentence
                end += 1
            elif char in _MARKUP:
                end += 1
            elif char.isspace() and text[end + 1 : end + 2] in CLOSERS and closed_by(text, end + 1, openings) is not None:
                end += 1  # a space before the closing quote, as French has it
            else:
                found = _FOOTNOTE.match(text, end) or _EMOJI.match(text, end)
                if found is None:
                    break
                end = found.end()
        return end, closed


def split(text: str, lang: str) -> list[Span]:
    """The sentences of `text` as offsets that join without gap or overlap; white space belongs to the sentence before it.

    Args:
        text: anything.
        lang: an IETF tag; of an unknown language the rules that hold for all of them apply.
    """
    scanner = Scanner(lang)
    scanner.append(text)
    spans: list[Span] = []
    start = 0
    while start < len(text):
        scanner.advance(len(text), final=True)
        end = scanner.boundaries.popleft().end if scanner.boundaries else len(text)
        if end > start:
            spans.append((start, end))
            start = end
    return spans
