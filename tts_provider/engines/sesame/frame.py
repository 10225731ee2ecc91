"""CSM itself: from a row's state to its next frame of 32 codes, for all rows at once.

A row's *state* is the backbone's last hidden vector. A step turns it into a frame and the frame into the next state:

    state ──▶ code 0 ──▶ depth decoder, 31 passes ──▶ codes 1 to 31 ──▶ their summed embeddings ──▶ backbone ──▶ state

so that a prefill, which ends in a state, joins at any step. Everything lives in tensors of fixed shape and address, and a step
makes no decision on the host: a graph of it can be captured (`graphs`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from tts_provider.engines.sesame.sampling import Sampler, choose
from tts_provider.engines.sesame.stack import Cache, Stack
from tts_provider.engines.sesame.weights import CsmWeights

__all__ = ["FrameModel"]


class FrameModel:
    """Rows of CSM: prefilled one by one, stepped together."""

    def __init__(self, weights: CsmWeights, rows: int) -> None:
        self.rows = rows
        self.codebooks = weights.codebooks
        self.codes = weights.codes
        """Codes per codebook that the codec knows; the heads have a few reserved ones more."""
        self.positions = weights.positions
        """Length of a row's context."""
        self._backbone = Stack(weights.backbone, weights.positions)
        self._depth = Stack(weights.depth, weights.codebooks)
        self.device = self._backbone.device
        if self.device.type == "cuda":  # cuDNN's attention has crashed on Hopper with the depth decoder's shapes
            torch.backends.cuda.enable_cudnn_sdp(False)
        self._text_table = weights.text_table
        self._audio_table = weights.audio_table
        self._head = weights.head
        self._depth_heads = weights.depth_heads
        self._projector = weights.projector
        vocabulary = self._head.shape[0]
        self._offsets = torch.arange(self.codebooks, device=self.device) * vocabulary
        self.cache: Cache = self._backbone.new_cache(rows, self.positions)
        self._depth_cache: Cache = self._depth.new_cache(rows, self.codebooks)
        self.sampler = Sampler.new(rows, self.codebooks, vocabulary, self.device)
        self.state = torch.zeros(rows, self._head.shape[1], dtype=self._backbone.dtype, device=self.device)
        self.at = torch.zeros(rows, dtype=torch.int64, device=self.device)
        """(rows,) where each row writes next."""
        self.moving = torch.zeros(rows, dtype=torch.int64, device=self.device)
        """(rows,) 1 for the rows that somebody listens to, 0 for the others."""

    def embed_text(self, ids: Sequence[int]) -> Tensor:
        """(length, hidden) for token ids."""
        return self._text_table[torch.tensor(ids, dtype=torch.int64, device=self.device)]

    def embed_frames(self, codes: Tensor) -> Tensor:
        """(length, hidden) for frames of codes, (length, codebooks) int64: the sum over the codebooks."""
        embedded: Tensor = self._audio_table[codes + self._offsets].sum(dim=-2)
        return embedded

    def prefill(self, row: int, start: int, x: Tensor) -> None:
        """Append embeddings (length, hidden) at `start` of `row`; its next frame follows them."""
        hidden = self._backbone.extend(x, self.cache, row, start)
        self.state[row] = hidden[-1]
        self.at[row] = start + x.shape[0]

    def step(self, rows: int, length: int) -> Tensor:
        """Make the next frame of each of the first `rows` rows and move them on.

        Rows that do not move compute garbage and write it at their own place, where no context is yet and the next prefill
        begins.

        Args:
            rows: how many.
            length: positions that the backbone looks at; above the place of each row that moves.

        Returns:
            (rows, codebooks) int64, each below `codes`. A frame whose first 31 codes are 0 ends the speech; its last code is
            then made 0 too, because the all-zero frame is what the model has learned to see there.
        """
        codes = self._frame(self.state[:rows])
        ended = (codes[:, :-1] == 0).all(dim=-1, keepdim=True)
        codes = codes.masked_fill(ended, 0)
        self.state[:rows] = self._backbone.advance(self.embed_frames(codes), self.cache, self.at[:rows], length)
        self.at[:rows] += self.moving[:rows]
        return codes

    def _frame(self, state: Tensor) -> Tensor:
        rows = state.shape[0]
        code = choose(functional.linear(state, self._head), self.codes, self.sampler, 0)
        codes = [code]
        self._depth.advance_together(functional.linear(state, self._projector), self._depth_cache, 0)
        for codebook in range(1, self.codebooks):
            embedded = self._audio_table[code + self._offsets[codebook - 1]]
            hidden = self._depth.advance_together(functional.linear(embedded, self._projector), self._depth_cache, codebook)
            logits = functional.linear(hidden, self._depth_heads[codebook - 1])
            code = choose(logits, self.codes, self.sampler, codebook)
            codes.append(code)
        return torch.stack(codes, dim=-1).view(rows, self.codebooks)
