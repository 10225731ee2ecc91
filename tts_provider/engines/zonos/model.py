"""The Zonos transformer: codes in, logits out, with keys and values kept per slot.

Parameters have the names of the published checkpoint (246 of them). Each slot owns two rows: one told everything, one told the
text alone; `guide` joins their logits. A step computes the first `rows` slots at their own positions, which is what a CUDA
graph can hold and what makes a row independent of its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from tts_provider.engines.zonos.conditioning import PrefixConditioner
from tts_provider.engines.zonos.config import CODEBOOKS, HEAD_WIDTH, VOCABULARY, BackboneConfig, ZonosConfig

__all__ = ["GUIDANCE_ROWS", "KeyValues", "ZonosModel", "guide"]

GUIDANCE_ROWS: Final = 2
"""Rows of one slot: what is told, and the text alone."""
ROTARY_BASE: Final = 10_000.0


@dataclass(frozen=True, slots=True)
class KeyValues:
    """Keys and values of all slots, each of shape (layers, slots, 2, kv_heads, positions, head_dim)."""

    keys: Tensor
    values: Tensor
    cosine: Tensor
    """Rotary table, shape (positions, head_dim / 2), fp32."""
    sine: Tensor

    @classmethod
    def empty(
        cls, config: BackboneConfig, slots: int, positions: int, *, dtype: torch.dtype, device: torch.device
    ) -> KeyValues:
        """Zeros for `slots` slots of up to `positions` positions."""
        shape = (config.layers, slots, GUIDANCE_ROWS, config.kv_heads, positions, config.head_dim)
        exponent = torch.arange(0, config.head_dim, 2).float() / config.head_dim
        angle = torch.outer(torch.arange(positions).float(), 1.0 / ROTARY_BASE**exponent)
        return cls(
            torch.zeros(shape, dtype=dtype, device=device),
            torch.zeros(shape, dtype=dtype, device=device),
            angle.cos().to(device),
            angle.sin().to(device),
        )

    @property
    def positions(self) -> int:
        return self.keys.shape[4]

    def clear(self, slot: int) -> None:
        """Forget what `slot` held. Masking alone would not do: a NaN left behind survives a weight of zero."""
        self.keys[:, slot].zero_()
        self.values[:, slot].zero_()


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """`x` turned by its position, in fp32, adjacent numbers as pairs."""
    pairs = x.float().reshape(*x.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    return torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], dim=-1).flatten(-2).type_as(x)


class _Attention(nn.Module):
    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.in_proj = nn.Linear(config.width, (config.heads + 2 * config.kv_heads) * config.head_dim, bias=False)
        self.out_proj = nn.Linear(config.width, config.width, bias=False)

    def _project(self, x: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of `x` (..., width), each (..., heads, head_dim), turned."""
        packed = self.in_proj(x)
        packed = packed.view(*x.shape[:-1], -1, self.head_dim)
        query, key, value = packed.split([self.heads, self.kv_heads, self.kv_heads], dim=-2)
        return _rotate(query, cosine, sine), _rotate(key, cosine, sine), value

    def prefill(self, x: Tensor, keys: Tensor, values: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """A prefix `x` (2, n, width) from position 0; its keys and values go into the slot's (2, kv_heads, n, head_dim)."""
        query, key, value = (part.transpose(1, 2) for part in self._project(x, cosine[:, None], sine[:, None]))
        keys.copy_(key)
        values.copy_(value)
        out = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        projected: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return projected

    def step(
        self, x: Tensor, keys: Tensor, values: Tensor, cosine: Tensor, sine: Tensor, at: tuple[Tensor, Tensor], mask: Tensor
    ) -> Tensor:
        """One position of each row: `x` (rows, width), `keys` (rows, kv_heads, positions, head_dim), `at` row and position."""
        query, key, value = self._project(x, cosine[:, None], sine[:, None])
        keys[at[0], :, at[1]] = key
        values[at[0], :, at[1]] = value
        # The queries that share a key head become the "length" of a query: no key is copied, no kernel needs to know of groups.
        grouped = query.reshape(x.shape[0], self.kv_heads, -1, self.head_dim)
        length = mask.shape[-1]
        out = functional.scaled_dot_product_attention(grouped, keys[:, :, :length], values[:, :, :length], attn_mask=mask)
        projected: Tensor = self.out_proj(out.flatten(1))
        return projected


class _FeedForward(nn.Module):
    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, 2 * config.mlp_width, bias=False)
        self.fc2 = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y, gate = self.fc1(x).chunk(2, dim=-1)
        out: Tensor = self.fc2(y * functional.silu(gate))
        return out


class _Block(nn.Module):
    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width, eps=config.norm_epsilon)
        self.mixer = _Attention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_epsilon)
        self.mlp = _FeedForward(config)


class _Backbone(nn.Module):
    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm_f = nn.LayerNorm(config.width, eps=config.norm_epsilon)


class ZonosModel(nn.Module):
    """The language model with its prefix conditioner; audio is `dac`'s matter."""

    def __init__(self, config: ZonosConfig) -> None:
        super().__init__()
        self.config = config
        width = config.backbone.width
        self.backbone = _Backbone(config.backbone)
        self.prefix_conditioner = PrefixConditioner(config)
        self.embeddings = nn.ModuleList(nn.Embedding(VOCABULARY, width) for _ in range(CODEBOOKS))
        self.heads = nn.ModuleList(nn.Linear(width, HEAD_WIDTH, bias=False) for _ in range(CODEBOOKS))
        self._head_weight: Tensor | None = None

    def fuse_heads(self) -> None:
        """Lay the nine heads out as one matrix, of which they become views: one kernel instead of nine. Call after loading."""
        fused = torch.cat([head.weight.data for head in self._linear_heads()])
        for head, part in zip(self._linear_heads(), fused.chunk(CODEBOOKS), strict=True):
            head.weight.data = part
        self._head_weight = fused

    def conditioning(self, told: Mapping[str, Tensor]) -> Tensor:
        """The two rows of a prefix, shape (2, positions, width): with all that is told, and with the phonemes alone."""
        return torch.cat([self.prefix_conditioner(told), self.prefix_conditioner({"espeak": told["espeak"]})])

    def embed(self, codes: Tensor) -> Tensor:
        """Sum of the nine embeddings of `codes` (..., 9): (..., width)."""
        embedded = [table(codes[..., index]) for index, table in enumerate(self.embeddings)]
        out: Tensor = sum(embedded[1:], start=embedded[0])
        return out

    def prefill(self, prefix: Tensor, columns: Tensor, cache: KeyValues, slot: int) -> Tensor:
        """Read `prefix` (2, p, width) and code `columns` (n, 9) into `slot`; logits of the next column, (2, 9, 1025), fp32."""
        codes = self.embed(columns).expand(GUIDANCE_ROWS, -1, -1)
        x = torch.cat([prefix, codes], dim=1)
        length = x.shape[1]
        cosine, sine = cache.cosine[:length], cache.sine[:length]
        for index, block in enumerate(self._blocks()):
            keys, values = cache.keys[index, slot, :, :, :length], cache.values[index, slot, :, :, :length]
            x = x + block.mixer.prefill(block.norm(x), keys, values, cosine, sine)
            x = x + block.mlp(block.norm2(x))
        return self._logits(self.backbone.norm_f(x[:, -1]))

    def step(self, columns: Tensor, positions: Tensor, cache: KeyValues, length: int) -> Tensor:
        """Put one code column into each of the first slots; logits of the next, (slots, 2, 9, 1025), fp32.

        Args:
            columns: (slots, 9), int64.
            positions: where each column goes, (slots,), int64; below `length`.
            length: how far keys are looked at: above every position. A row sees its own positions only.
        """
        slots = columns.shape[0]
        x = self.embed(columns).repeat_interleave(GUIDANCE_ROWS, dim=0)
        where = positions.repeat_interleave(GUIDANCE_ROWS)
        at = (torch.arange(x.shape[0], device=x.device), where)
        mask = (torch.arange(length, device=x.device) <= where[:, None])[:, None, None]
        cosine, sine = cache.cosine[where], cache.sine[where]
        for index, block in enumerate(self._blocks()):
            keys, values = cache.keys[index, :slots].flatten(0, 1), cache.values[index, :slots].flatten(0, 1)
            x = x + block.mixer.step(block.norm(x), keys, values, cosine, sine, at, mask)
            x = x + block.mlp(block.norm2(x))
        return self._logits(self.backbone.norm_f(x)).view(slots, GUIDANCE_ROWS, CODEBOOKS, HEAD_WIDTH)

    def _logits(self, hidden: Tensor) -> Tensor:
        assert self._head_weight is not None, "fuse_heads() comes first"
        return functional.linear(hidden, self._head_weight).view(-1, CODEBOOKS, HEAD_WIDTH).float()

    def _blocks(self) -> list[_Block]:
        return [block for block in self.backbone.layers if isinstance(block, _Block)]

    def _linear_heads(self) -> list[nn.Linear]:
        return [head for head in self.heads if isinstance(head, nn.Linear)]


def guide(logits: Tensor, scale: Tensor) -> Tensor:
    """Classifier-free guidance: logits (slots, 2, 9, n) and scales (slots,) to (slots, 9, n). A scale of 1 is the told row."""
    told, untold = logits.unbind(1)
    wide = scale[:, None, None]
    return torch.where(wide == 1.0, told, untold + (told - untold) * wide)
