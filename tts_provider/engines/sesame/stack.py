"""A Llama-shaped stack of layers over a static K/V cache, for CSM's backbone and its depth decoder alike.

Own code instead of the library's modules because slots join and leave: each row has its own position, the cache is one static
tensor, and nothing waits for the device. Same numbers as the library's layers in fp32, half the kernel launches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from tts_provider.engines.sesame.weights import LibraryModule

__all__ = ["Cache", "Layer", "Stack"]

Cache: TypeAlias = Tensor
"""Keys and values, shape (layers, 2, rows, key-value heads, positions, head size)."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's weights, fused where one product does for several."""

    input_norm: Tensor
    qkv: Tensor
    output: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor


class Stack:
    """Layers, final norm and rotary tables, taken from a loaded `transformers` module."""

    def __init__(self, module: LibraryModule, positions: int) -> None:
        """Take the weights of `module` (CSM's backbone or depth model), with rotary tables for `positions` positions."""
        config = module.config
        self.heads = int(config.num_attention_heads)
        self.kv_heads = int(config.num_key_value_heads)
        self.head_size = int(config.head_dim)
        self.eps = float(config.rms_norm_eps)
        self.layers = [_fuse(layer) for layer in module.layers]
        self.norm: Tensor = module.norm.weight.detach()
        self.dtype = self.norm.dtype
        self.device = self.norm.device
        # The library rounds the tables to the weights' dtype; so do we, or bf16 would differ from it for no gain.
        cos, sin = module.rotary_emb(self.norm[None], torch.arange(positions, device=self.device)[None])
        self.cos: Tensor = cos[0].detach()
        self.sin: Tensor = sin[0].detach()

    def new_cache(self, rows: int, positions: int) -> Cache:
        """Zeroed room for `rows` rows of `positions` positions. Zeroed: garbage may be NaN, and 0 × NaN is not 0."""
        shape = (len(self.layers), 2, rows, self.kv_heads, positions, self.head_size)
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def extend(self, x: Tensor, cache: Cache, row: int, start: int) -> Tensor:
        """Append several positions to one row.

        Args:
            x: (length, hidden), the embeddings.
            cache: positions ``start`` to ``start + length`` of `row` are written, all before them are attended to.

        Returns:
            (length, hidden), after the final norm.
        """
        length = x.shape[0]
        end = start + length
        cos, sin = self.cos[start:end], self.sin[start:end]
        visible = torch.ones(length, end, dtype=torch.bool, device=self.device).tril(start)
        for index, layer in enumerate(self.layers):
            q, k, v = self._qkv(layer, x, cos, sin)  # (length, heads, head)
            keys, values = cache[index, 0, row], cache[index, 1, row]
            keys[:, start:end] = k.transpose(0, 1)
            values[:, start:end] = v.transpose(0, 1)
            mixed = functional.scaled_dot_product_attention(
                q.transpose(0, 1)[None], keys[None, :, :end], values[None, :, :end], attn_mask=visible, enable_gqa=True
            )
            x = self._finish(layer, x, mixed[0].transpose(0, 1))
        return functional.rms_norm(x, (x.shape[-1],), self.norm, self.eps)

    def advance(self, x: Tensor, cache: Cache, at: Tensor, length: int) -> Tensor:
        """Append one position to each of the first rows, each at its own place.

        Args:
            x: (rows, hidden), the embeddings.
            cache: written at `at`.
            at: (rows,) int64, the position that each row writes; it attends to all up to it.
            length: positions looked at, above every `at`; fixed for a captured graph.
        """
        rows = x.shape[0]
        row = torch.arange(rows, device=self.device)
        visible = (torch.arange(length, device=self.device) <= at[:, None])[:, None, None, :]
        cos, sin = self.cos[at], self.sin[at]
        for index, layer in enumerate(self.layers):
            q, k, v = self._qkv(layer, x, cos, sin)
            cache[index, 0][row, :, at] = k
            cache[index, 1][row, :, at] = v
            x = self._finish(layer, x, self._attend(q, cache[index, :, :rows, :, :length], visible))
        return functional.rms_norm(x, (x.shape[-1],), self.norm, self.eps)

    def advance_together(self, x: Tensor, cache: Cache, at: int) -> Tensor:
        """Append one position, the same, to all rows: no mask, and no index that lives on the device."""
        rows = x.shape[0]
        cos, sin = self.cos[at], self.sin[at]
        for index, layer in enumerate(self.layers):
            q, k, v = self._qkv(layer, x, cos, sin)
            cache[index, 0, :rows, :, at] = k
            cache[index, 1, :rows, :, at] = v
            x = self._finish(layer, x, self._attend(q, cache[index, :, :rows, :, : at + 1], None))
        return functional.rms_norm(x, (x.shape[-1],), self.norm, self.eps)

    def _attend(self, q: Tensor, kv: Tensor, visible: Tensor | None) -> Tensor:
        # One query per row: the heads that share keys stand where queries stand, so that keys are never repeated.
        grouped = q.view(q.shape[0], self.kv_heads, -1, self.head_size)
        return functional.scaled_dot_product_attention(grouped, kv[0], kv[1], attn_mask=visible)

    def _qkv(self, layer: Layer, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        normed = functional.rms_norm(x, (x.shape[-1],), layer.input_norm, self.eps)
        fused = functional.linear(normed, layer.qkv).view(x.shape[0], -1, self.head_size)
        q, k, v = torch.split(fused, [self.heads, self.kv_heads, self.kv_heads], dim=1)
        cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
        return q * cos + _half_turn(q) * sin, k * cos + _half_turn(k) * sin, v

    def _finish(self, layer: Layer, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + functional.linear(mixed.reshape(x.shape[0], -1), layer.output)
        normed = functional.rms_norm(x, (x.shape[-1],), layer.mlp_norm, self.eps)
        gate, up = functional.linear(normed, layer.gate_up).chunk(2, dim=-1)
        return x + functional.linear(functional.silu(gate) * up, layer.down)


def _fuse(layer: LibraryModule) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return Layer(
        input_norm=layer.input_layernorm.weight.detach(),
        qkv=torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]).detach(),
        output=attention.o_proj.weight.detach(),
        mlp_norm=layer.post_attention_layernorm.weight.detach(),
        gate_up=torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]).detach(),
        down=mlp.down_proj.weight.detach(),
    )


def _half_turn(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)
