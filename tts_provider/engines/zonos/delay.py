"""The delay pattern: columns that the model says, and the frames they are made of.

Column 0 holds no frame. In column t, codebook k tells frame t - k - 1, so frame j is whole once column j + 9 has been said:

    column       0    1    2    3   ...
    codebook 0   -    0    1    2          a place without a frame holds `MASK`
    codebook 1   -    -    0    1
    codebook 2   -    -    -    0

Rules:

* Places of frames that were given (a prefix of audio) are not said but given, in the first columns after it.
* The first column said has no end: an `EOS` there is a code like any other.
* An `EOS` of codebook 0 in column t ends the speech before frame t - 1. Eight more columns follow, in which the diagonal
  t - 1 holds `EOS` and what lies beyond it `MASK`, so that the frames before it become whole.
* The cap ends the speech before frame `limit`: eight more columns follow in the same way, with `MASK` on the diagonal too.

`Columns` keeps this for all slots on the device, without asking the host anything; `FrameReader` does it again on the host for
one slot, from the columns alone.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from tts_provider.engines.zonos.config import CODEBOOK_SIZE, CODEBOOKS, EOS, MASK

__all__ = ["Columns", "FrameReader", "delayed_prefix"]

NEVER: Final = 1 << 40
"""A column that no speech reaches."""
NOT_GIVEN: Final = -1


def delayed_prefix(codes: Tensor) -> tuple[Tensor, Tensor]:
    """What to read before the first column, and what is given in the columns after.

    Args:
        codes: frames that were heard before, (9, n), int64; n may be 0.

    Returns:
        Columns 0 to n, (n + 1, 9); and for the nine columns after and all later ones, (10, 9), the code or `NOT_GIVEN`.
    """
    frames = codes.shape[1]
    table = torch.full((frames + 1 + CODEBOOKS + 1, CODEBOOKS), NOT_GIVEN, dtype=torch.int64, device=codes.device)
    for codebook in range(CODEBOOKS):
        table[: codebook + 1, codebook] = MASK
        table[codebook + 1 : codebook + 1 + frames, codebook] = codes[codebook]
    return table[: frames + 1].clone(), table[frames + 1 :].clone()


class Columns:
    """Where each slot stands; all tensors stay in place."""

    def __init__(self, slots: int, device: torch.device) -> None:
        def whole(*shape: int, fill: int) -> Tensor:
            return torch.full(shape, fill, dtype=torch.int64, device=device)

        self.current = whole(slots, CODEBOOKS, fill=MASK)
        """The newest column; the model's next input."""
        self.previous = whole(slots, CODEBOOKS, fill=MASK)
        self.column = whole(slots, fill=0)
        """Number of `current`."""
        self.position = whole(slots, fill=0)
        """Where `current` goes in the cache."""
        self.limit = whole(slots, fill=0)
        """Frames at most, given ones included."""
        self.end = whole(slots, fill=-CODEBOOKS)
        """Column of the `EOS`; of a slot at rest, one so early that it is over."""
        self._first = whole(slots, fill=0)
        self._given = whole(slots, CODEBOOKS + 1, CODEBOOKS, fill=NOT_GIVEN)

    def start(self, slot: int, prefix: Tensor, given: Tensor, position: int, limit: int) -> None:
        """Put `slot` behind the columns of `delayed_prefix`; `advance` with the first column said comes next.

        Args:
            position: place in the cache of the first column that will be said.
            limit: frames at most, those given included.
        """
        self.current[slot] = prefix[-1]
        self.column[slot] = prefix.shape[0] - 1
        self.position[slot] = position - 1
        self.limit[slot] = limit
        self.end[slot] = NEVER
        self._first[slot] = prefix.shape[0]
        self._given[slot] = given

    def rest(self, slot: int) -> None:
        """Take `slot` out: it neither moves nor writes anywhere but at the start of its own cache."""
        self.end[slot] = -CODEBOOKS
        self.position[slot] = 0

    def said(self, rows: int) -> Tensor:
        """The last two columns of the first `rows` slots, (rows, 2, 9)."""
        return torch.stack([self.previous[:rows], self.current[:rows]], dim=1)

    def advance(self, sampled: Tensor, start: int = 0) -> None:
        """Add the next column, (rows, 9), to the slots from `start` on; a slot that is over stays as it is."""
        rows = slice(start, start + sampled.shape[0])
        last = torch.minimum(self.end[rows], self.limit[rows]) + (CODEBOOKS - 1)
        going = self.column[rows] < last
        number = self.column[rows] + 1
        codebook = torch.arange(CODEBOOKS, device=sampled.device)

        ends = going & (sampled[:, 0] == EOS) & (number > self._first[rows]) & (number <= self.limit[rows])
        end = torch.where(ends & (self.end[rows] == NEVER), number, self.end[rows])
        behind = (number - end)[:, None]
        column = sampled.masked_fill(codebook == behind, EOS).masked_fill(codebook < behind, MASK)
        column = column.masked_fill(number[:, None] - codebook - 1 >= self.limit[rows][:, None], MASK)
        offset = (number - self._first[rows]).clamp(0, CODEBOOKS)
        given = self._given[rows].gather(1, offset[:, None, None].expand(-1, 1, CODEBOOKS))[:, 0]
        column = torch.where(given != NOT_GIVEN, given, column)

        moves = going[:, None]
        self.previous[rows] = torch.where(moves, self.current[rows], self.previous[rows])
        self.current[rows] = torch.where(moves, column, self.current[rows])
        self.end[rows] = torch.where(going, end, self.end[rows])
        self.column[rows] = torch.where(going, number, self.column[rows])
        self.position[rows] = torch.where(going, self.position[rows] + 1, self.position[rows])


class FrameReader:
    """Collects the columns of one slot on the host and hands out whole frames, in order, each once."""

    def __init__(self, prefix: Tensor, limit: int) -> None:
        """
        Args:
            prefix: the columns of `delayed_prefix`.
            limit: frames at most, given ones included.
        """
        self._columns: list[list[int]] = prefix.tolist()
        self._first = len(self._columns)
        self._limit = limit
        self._end: int | None = None
        self._frames = 0

    @property
    def ended_itself(self) -> bool:
        """Whether the model said `EOS`; false while it speaks, and at the cap."""
        return self._end is not None

    @property
    def done(self) -> bool:
        """Whether all frames are out."""
        return self._frames >= self._total

    @property
    def frames(self) -> int:
        """Frames handed out."""
        return self._frames

    @property
    def _total(self) -> int:
        return self._limit if self._end is None else self._end - 1

    def push(self, column: list[int]) -> list[int] | None:
        """Take the next column; return the frame that it completes, nine codes below 1024, or None."""
        if self.done:
            return None
        number = len(self._columns)
        self._columns.append(column)
        if self._end is None and self._first < number <= self._limit and column[0] == EOS:
            self._end = number
        if number < CODEBOOKS:
            return None
        frame = number - CODEBOOKS
        self._frames = frame + 1
        return [code if code < CODEBOOK_SIZE else 0 for code in self._diagonal(frame)]

    def given(self) -> list[list[int]]:
        """Frames that the prefix alone completes; call once, before the first `push`."""
        frames = range(max(self._first - CODEBOOKS, 0))
        self._frames = len(frames)
        return [self._diagonal(frame) for frame in frames]

    def _diagonal(self, frame: int) -> list[int]:
        return [self._columns[frame + 1 + codebook][codebook] for codebook in range(CODEBOOKS)]
