"""The prefix that tells the model what to say and how: phonemes, then one position each for voice, emotion, range, pitch, rate
and language. Names of parameters are those of the published checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tts_provider.engines.zonos.config import ConditionerConfig, ZonosConfig
from tts_provider.engines.zonos.phonemes import PHONEME_IDS

__all__ = ["PrefixConditioner"]


class _Conditioner(nn.Module):
    """One part: a value in, shape (1, n, inputs), positions out, shape (1, n, width)."""

    def __init__(self, config: ConditionerConfig, width: int) -> None:
        super().__init__()
        self.name = config.name
        self.uncond_vector = nn.Parameter(torch.zeros(width)) if config.learned_absence else None
        self.project = nn.Linear(config.cond_dim or width, width) if config.project else nn.Identity()

    def absent(self) -> Tensor:
        assert self.uncond_vector is not None
        return self.uncond_vector.view(1, 1, -1)

    def embed(self, value: Tensor) -> Tensor:
        return value

    def forward(self, value: Tensor) -> Tensor:
        out: Tensor = self.project(self.embed(value))
        return out


class _Phonemes(_Conditioner):
    def __init__(self, config: ConditionerConfig, width: int) -> None:
        super().__init__(config, width)
        self.phoneme_embedder = nn.Embedding(PHONEME_IDS, width)

    def embed(self, value: Tensor) -> Tensor:
        out: Tensor = self.phoneme_embedder(value)
        return out


class _Passthrough(_Conditioner):
    def embed(self, value: Tensor) -> Tensor:
        parameter = next(self.project.parameters(), None)
        return value if parameter is None else value.to(parameter.dtype)


class _Fourier(_Conditioner):
    weight: Tensor

    def __init__(self, config: ConditionerConfig, width: int) -> None:
        super().__init__(config, width)
        self.low, self.high = config.low, config.high
        # A buffer in the checkpoint: cast with the model, as the original does.
        self.register_buffer("weight", torch.zeros(width // 2, config.input_dim))

    def embed(self, value: Tensor) -> Tensor:
        share = ((value - self.low) / (self.high - self.low)).to(self.weight.dtype)
        angle = 2 * math.pi * share @ self.weight.T
        return torch.cat([angle.cos(), angle.sin()], dim=-1)


class _Integer(_Conditioner):
    def __init__(self, config: ConditionerConfig, width: int) -> None:
        super().__init__(config, width)
        self.low = int(config.low)
        self.int_embedder = nn.Embedding(int(config.high) - self.low + 1, width)

    def embed(self, value: Tensor) -> Tensor:
        out: Tensor = self.int_embedder(value.squeeze(-1).long() - self.low)
        return out


_CLASSES: Mapping[str, type[_Conditioner]] = {
    "EspeakPhonemeConditioner": _Phonemes,
    "PassthroughConditioner": _Passthrough,
    "FourierConditioner": _Fourier,
    "IntegerConditioner": _Integer,
}


class PrefixConditioner(nn.Module):
    """All parts, joined along the positions, projected and normalised."""

    def __init__(self, config: ZonosConfig) -> None:
        super().__init__()
        width = config.backbone.width
        self.conditioners = nn.ModuleList(_CLASSES[part.type](part, width) for part in config.conditioners)
        self.project = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, values: Mapping[str, Tensor]) -> Tensor:
        """The prefix, shape (1, positions, width).

        Args:
            values: by name. ``espeak``: phoneme ids, int64, shape (1, n). The others: shape (1, 1, inputs), fp32. A name left
                out is "not told"; only the phonemes must be there.
        """
        parts = []
        for part in self.conditioners:
            assert isinstance(part, _Conditioner)
            value = values.get(part.name)
            parts.append(part.absent() if value is None else part(value))
        out: Tensor = self.norm(self.project(torch.cat(parts, dim=1)))
        return out
