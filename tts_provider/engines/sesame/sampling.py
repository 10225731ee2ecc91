"""Choose a code for each row: temperature, top-k and noise, all of them the row's own.

Taking ``argmax(p / e)`` with exponential noise ``e`` is how `torch.multinomial` draws one sample. With the noise from outside,
what a row says depends on its seed alone, whatever runs beside it, and the choice can be captured in a graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tts_provider.engines.sesame.options import MAX_TOP_K

__all__ = ["Sampler", "choose"]


@dataclass(slots=True)
class Sampler:
    """The rows' settings and their noise, as tensors that a graph can read."""

    temperature: Tensor
    """(rows,) float32; 0 chooses the likeliest code."""
    top_k: Tensor
    """(rows,) int64, 1 to `MAX_TOP_K`."""
    noise: Tensor
    """(rows, codebooks, codes) float32, drawn anew for each frame."""

    @classmethod
    def new(cls, rows: int, codebooks: int, codes: int, device: torch.device) -> Sampler:
        """Greedy rows."""
        return cls(
            temperature=torch.zeros(rows, device=device),
            top_k=torch.ones(rows, dtype=torch.int64, device=device),
            noise=torch.ones(rows, codebooks, codes, device=device),
        )

    def set_row(self, row: int, temperature: float, top_k: int) -> None:
        """How `row` samples from now on."""
        self.temperature[row] = temperature
        self.top_k[row] = top_k

    def draw(self, row: int, generator: torch.Generator) -> None:
        """New noise for one frame of `row`.

        On the CPU one draw for each codebook, as `generate()` does, so that the same seed gives the same codes; on a GPU
        one draw for the frame, as each is a kernel launch.
        """
        noise = self.noise[row]
        for part in noise if noise.device.type == "cpu" else (noise,):
            part.exponential_(generator=generator)


def choose(logits: Tensor, allowed: int, sampler: Sampler, codebook: int) -> Tensor:
    """The code of each row.

    Args:
        logits: (rows, codes), any float dtype.
        allowed: codes from this one on are reserved and never chosen: the codec has no entry for them.
        sampler: of at least as many rows.
        codebook: which of the frame's codes this is.

    Returns:
        (rows,) int64.
    """
    rows, codes = logits.shape
    scores = logits.float()
    scores[:, allowed:] = -torch.inf
    greedy = scores.argmax(dim=-1)
    temperature = sampler.temperature[:rows, None]
    scores = scores / torch.where(temperature > 0, temperature, 1.0)
    best = scores.topk(min(MAX_TOP_K, codes), dim=-1).values
    last = sampler.top_k[:rows, None].clamp(max=best.shape[1]) - 1
    scores = scores.masked_fill(scores < best.gather(1, last), -torch.inf)
    drawn = (scores.softmax(dim=-1) / sampler.noise[:rows, codebook]).argmax(dim=-1)
    return torch.where(temperature[:, 0] > 0, drawn, greedy)
