"""Text on its way in: a bounded buffer that a client fills, and the pieces that an engine is given from it.

source = TextSource(max_chars=100_000)
source.append("Hello. How"); source.append(" are you?"); source.end()      # the dialect's side
reader = PieceReader(source, chunker)
piece = await reader.next()                                                # the utterance's side
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import Final

import trio

from tts_provider.errors import InvalidRequest, TextTooLong, TTSError
from tts_provider.streaming.chunker import Boundary, Chunker, Piece

__all__ = ["PieceReader", "TextPiece", "TextSource", "is_speakable"]

FIRST_SLICE_CHARS: Final = 125
SLICE_CHARS: Final = 500
"""Code points given to the chunker in one go, first and at most, so that neither the first sentence nor the event loop waits
for a long text: about 0.1 and 0.4 ms. From the one to the other they double."""

QUIET_S: Final = 0.4
"""A finished sentence whose look-ahead does not come is spoken after so long. Language models pause less between tokens."""

_NOT_TEXT: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")
"""Controls but for tabs and line ends, and what is no character. A NUL ends a text for a library in C: the rest of the sentence
would be lost without a word."""

_SENTENCE_ENDS: Final = tuple('.!?…。！？।؟۔"”’)')


def is_speakable(text: str) -> bool:
    """Whether there is a letter or a digit in `text`: what is only punctuation, symbols or blank has no sound."""
    return any(map(str.isalnum, text))


class _Flush:
    """The mark of a `flush` between two texts."""


_FLUSH: Final = _Flush()


class TextSource:
    """The text of one request while it is written.

    Bounded by what has not been spoken yet, so that a conversation may go on for ever. What has been read can be read again
    (`rewind`) by another reader, from `keep` until `let_go`.
    """

    def __init__(self, max_chars: int) -> None:
        self._max_chars = max_chars
        self._parts: deque[str | _Flush] = deque()
        self._taken: list[str | _Flush] | None = None
        """What was taken, in order, while it may be wanted again."""
        self._spoken_meanwhile = 0
        """Code points spoken meanwhile; they wait until nobody can want them again."""
        self._pending = 0
        self._slice_chars = FIRST_SLICE_CHARS
        self._changed = trio.Event()
        self.ended = False
        """Whether `end` was called."""
        self.speakable = False
        """Whether anything that was appended has a sound."""
        self.failure: TTSError | None = None
        """Why the text cannot be spoken; set by `fail`."""

    def append(self, text: str) -> None:
        """Add text; each control character becomes a space, so that offsets stay what they are for the client.

        Raises:
            TextTooLong: more text waits to be spoken than one request may have.
            InvalidRequest: the text was ended already.
        """
        self._check_open()
        if self._pending + len(text) > self._max_chars:
            raise TextTooLong(
                f"The text is too long: at most {self._max_chars} characters may wait to be spoken in one request.",
                field="text",
            )
        if text:
            self.speakable = self.speakable or is_speakable(text)
            self._pending += len(text)
            self._parts.append(_NOT_TEXT.sub(" ", text))
            self._notify()

    def flush(self) -> None:
        """Have everything appended so far spoken without waiting for the rest of its sentence."""
        self._check_open()
        self._parts.append(_FLUSH)
        self._notify()

    def end(self) -> None:
        """Say that the text is complete."""
        self._check_open()
        self.ended = True
        self._notify()

    def fail(self, error: TTSError) -> None:
        """Have whoever speaks the text fail with `error`: something went wrong while it was written. The first counts."""
        self.failure = self.failure or error
        self._notify()

    def _check_open(self) -> None:
        if self.ended:
            raise InvalidRequest("The text of this request was ended already.")

    def _notify(self) -> None:
        self._changed.set()

    @property
    def waiting(self) -> int:
        """Code points that wait to be spoken."""
        return self._pending

    def take(self) -> str | _Flush | None:
        """The next slice of text, or a flush mark; None when there is nothing yet.

        Raises:
            TTSError: the text has failed.
        """
        if self.failure is not None:
            raise self.failure
        if not self._parts:
            return None
        part = self._parts.popleft()
        if isinstance(part, str):
            if len(part) > self._slice_chars:
                self._parts.appendleft(part[self._slice_chars :])
                part = part[: self._slice_chars]
            self._slice_chars = min(2 * self._slice_chars, SLICE_CHARS)
        if self._taken is not None:
            self._taken.append(part)
        return part

    def spoken(self, chars: int) -> None:
        """Note that `chars` code points have gone to the engine and no longer wait."""
        if self._taken is not None:
            self._spoken_meanwhile += chars
        else:
            self._pending -= chars

    # --- Reading again ---

    def keep(self) -> None:
        """Keep what is taken from here on, for `rewind`; call it before the first `take`."""
        self._taken = []

    def rewind(self) -> None:
        """Begin again: the next `take` gives what it gave first. The reader before is to take nothing more."""
        assert self._taken is not None, "nothing was kept"
        self._parts.extendleft(reversed(self._taken))
        self._taken.clear()
        self._spoken_meanwhile = 0
        self._notify()

    def let_go(self) -> None:
        """Forget what was kept: it will not be wanted again."""
        if self._taken is not None:
            self._pending -= self._spoken_meanwhile
            self._taken = None

    async def wait(self) -> None:
        """Wait until `take` may have something, or the text has ended."""
        while not self._parts and not self.ended and self.failure is None:
            self._changed = trio.Event()
            await self._changed.wait()

    async def wait_speakable(self) -> bool:
        """Wait until there is something to speak, or the text has ended without; which of the two. Before the first `take`."""
        while not self.speakable and not self.ended:
            self._changed = trio.Event()
            await self._changed.wait()
        return self.speakable


@dataclass(frozen=True, slots=True)
class TextPiece:
    """A piece of the request's text: a sentence, or a part of one that is too long to be said at once."""

    text: str
    start: int
    """Code points of the request's text before it."""
    boundary: Boundary
    """How it ends."""


class PieceReader:
    """The pieces of a source, in order, as they become complete."""

    def __init__(self, source: TextSource, chunker: Chunker) -> None:
        self._source = source
        self._chunker = chunker
        self._pieces: deque[TextPiece] = deque()
        self._finished = False

    @property
    def exhausted(self) -> bool:
        """Whether the last piece is known to have been read."""
        return self._finished and not self._pieces

    async def next(self) -> TextPiece | None:
        """The next piece; None after the last. Waits while the text is being written."""
        while (piece := self.next_ready()) is None and not self._finished:
            quiet = True
            with trio.move_on_after(QUIET_S if self._sentence_waits() else float("inf")):
                await self._source.wait()
                quiet = False
            if quiet:
                self._take_all(self._chunker.flush())
        return piece

    def next_ready(self) -> TextPiece | None:
        """The next piece if it can be had without waiting."""
        while not self._pieces and not self._finished:
            part = self._source.take()
            if isinstance(part, str):
                self._take_all(self._chunker.feed(part))
            elif part is not None:
                self._take_all(self._chunker.flush())
            elif self._source.ended:
                self._take_all(self._chunker.finish())
                self._finished = True
            else:
                return None
        if not self._pieces:
            return None
        piece = self._pieces.popleft()
        self._source.spoken(len(piece.text))
        return piece

    def put_back(self, piece: TextPiece) -> None:
        """Make `piece` the next one again."""
        self._source.spoken(-len(piece.text))
        self._pieces.appendleft(piece)

    def _sentence_waits(self) -> bool:
        return self._chunker.pending.rstrip().endswith(_SENTENCE_ENDS)

    def _take_all(self, pieces: list[Piece]) -> None:
        self._pieces.extend(TextPiece(self._chunker.text_of(piece), piece.start, piece.boundary) for piece in pieces)
