"""From logits to codes, every row with its own settings, in the order of the original: repetition penalty, temperature, unified
sampling, top-p, top-k, min-p, then the largest of probability over noise.

The noise comes in from outside: same noise, same codes, whatever the neighbours do. A setting that is off leaves a row's
numbers untouched to the last bit, so a row does not change when a neighbour turns a filter on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from tts_provider.engines.zonos.config import CODEBOOKS, HEAD_WIDTH, VOCABULARY

__all__ = ["PENALTY_WINDOW", "Sampling", "SamplingRows", "draw_noise", "sample"]

PENALTY_WINDOW: Final = 2
"""Columns back that the repetition penalty sees."""
LEAST_PROBABILITY: Final = 1e-20
"""Floor under a logarithm."""
LEAST_NOISE: Final = 1e-30
"""Floor under a division; an exponential draw is smaller once in 1e30."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """One request's settings. The defaults are the original's."""

    temperature: float = 1.0
    """0 takes the likeliest code always."""
    top_p: float = 0.0
    """Share of probability that is kept; 0 keeps all."""
    top_k: int = 0
    """Codes that are kept; 0 keeps all."""
    min_p: float = 0.1
    """Codes below this share of the likeliest one's probability are dropped."""
    linear: float = 0.0
    """Unified sampling: factor on log probabilities; 0 turns it off."""
    confidence: float = 0.0
    """Unified sampling: how much entropy adds to `linear`."""
    quadratic: float = 0.0
    """Unified sampling: penalty on small probabilities."""
    repetition_penalty: float = 3.0
    """Divides the logit of a code said in the last two columns, once for each."""

    @property
    def shapes_distribution(self) -> bool:
        """Whether a filter beyond min-p is on."""
        return self.linear > 0 or self.top_p > 0 or self.top_k > 0


class SamplingRows:
    """The settings of all slots, one small tensor each; changed in place, so that a CUDA graph sees the change."""

    def __init__(self, slots: int, device: torch.device) -> None:
        self.temperature = torch.ones(slots, 1, 1, device=device)
        self.top_p = torch.zeros(slots, 1, 1, device=device)
        self.top_k = torch.zeros(slots, 1, 1, dtype=torch.int64, device=device)
        self.min_p = torch.zeros(slots, 1, 1, device=device)
        self.linear = torch.zeros(slots, 1, 1, device=device)
        self.confidence = torch.zeros(slots, 1, 1, device=device)
        self.quadratic = torch.zeros(slots, 1, 1, device=device)
        self.repetition_penalty = torch.ones(slots, 1, 1, device=device)

    def set(self, slot: int, sampling: Sampling) -> None:
        """Give `slot` these settings."""
        for name in Sampling.__dataclass_fields__:
            getattr(self, name)[slot] = getattr(sampling, name)

    def first(self, rows: int, start: int = 0) -> SamplingRows:
        """A view of `rows` slots from `start` on."""
        view = SamplingRows.__new__(SamplingRows)
        for name in Sampling.__dataclass_fields__:
            setattr(view, name, getattr(self, name)[start : start + rows])
        return view


def draw_noise(generator: torch.Generator, out: Tensor) -> None:
    """Fill `out` (..., 9, 1026) with exponential noise. On the CPU, one column a call, draws equal the original's."""
    out.exponential_(generator=generator)


def sample(
    logits: Tensor, noise: Tensor, rows: SamplingRows, said: Tensor | None, *, shaped: bool, eos_in_all: bool = False
) -> Tensor:
    """The codes of the next column, (slots, 9), int64.

    Args:
        logits: (slots, 9, 1025), fp32.
        noise: exponential, (slots, 9, 1026), fp32.
        rows: settings of these slots.
        said: the last two columns, (slots, 2, 9), for the penalty; None at the first column, which knows none.
        shaped: whether any of the rows has a filter beyond min-p; else that work is left out.
        eos_in_all: let every codebook say `EOS`; only so at the first column.
    """
    if not eos_in_all:
        ban = torch.zeros(CODEBOOKS, HEAD_WIDTH, dtype=torch.bool, device=logits.device)
        ban[1:, -1] = True
        logits = logits.masked_fill(ban, -torch.inf)
    if said is not None:
        logits = _penalise(logits, said, rows.repetition_penalty)
    greedy = rows.temperature <= 0
    probabilities = (logits / rows.temperature.masked_fill(greedy, 1.0)).softmax(-1)
    if shaped:
        probabilities = _unify(probabilities, rows)
        probabilities = _keep_top_p(probabilities, rows.top_p)
        probabilities = _keep_top_k(probabilities, rows.top_k)
    probabilities = _keep_min_p(probabilities, rows.min_p)
    drawn = (probabilities / noise[..., :HEAD_WIDTH].clamp_min(LEAST_NOISE)).argmax(-1)
    return torch.where(greedy[..., 0], logits.argmax(-1), drawn)


def _penalise(logits: Tensor, said: Tensor, penalty: Tensor) -> Tensor:
    """Codes in the window lose; a code said twice loses twice. A place without a frame holds a code that no head can say."""
    codes = torch.arange(VOCABULARY, device=logits.device)[:HEAD_WIDTH]
    factor = torch.ones_like(logits)
    for column in said.unbind(1):
        factor = torch.where(codes == column[..., None], factor * penalty, factor)
    return torch.where(logits <= 0, logits * factor, logits / factor)


def _unify(probabilities: Tensor, rows: SamplingRows) -> Tensor:
    logs = probabilities.clamp_min(LEAST_PROBABILITY).log()
    entropy = -(probabilities * logs).sum(-1, keepdim=True)
    raw = logs * (rows.linear + entropy * rows.confidence) - logs**2 * rows.quadratic
    # What had no probability gets none; the original can hand such a code out when `quadratic` is negative.
    raw = raw.masked_fill(probabilities == 0, -torch.inf)
    return torch.where(rows.linear > 0, raw.softmax(-1), probabilities)


def _keep_top_p(probabilities: Tensor, top_p: Tensor) -> Tensor:
    ordered, places = probabilities.sort(dim=-1, descending=True)
    ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered > top_p, 0.0)
    kept = torch.zeros_like(probabilities).scatter(-1, places, ordered)
    return torch.where(top_p > 0, _normalise(kept), probabilities)


def _keep_top_k(probabilities: Tensor, top_k: Tensor) -> Tensor:
    ordered = probabilities.sort(dim=-1, descending=True).values
    last = (top_k.clamp(1, HEAD_WIDTH) - 1).expand(*ordered.shape[:-1], 1)
    kept = probabilities.masked_fill(probabilities < ordered.gather(-1, last), 0.0)
    return torch.where(top_k > 0, _normalise(kept), probabilities)


def _keep_min_p(probabilities: Tensor, min_p: Tensor) -> Tensor:
    kept = probabilities.masked_fill(probabilities < min_p * probabilities.amax(-1, keepdim=True), 0.0)
    return torch.where(min_p > 0, _normalise(kept), probabilities)


def _normalise(kept: Tensor) -> Tensor:
    """`kept` with a sum of 1."""
    return kept / kept.sum(-1, keepdim=True)
