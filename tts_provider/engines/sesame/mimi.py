"""Mimi's decoder, one frame at a time and row by row, equal to decoding the whole clip at once.

The library's decoder can be given a K/V cache but forgets its convolutions' pasts, so pieces decoded by it do not fit together.
Here each convolution keeps the inputs that its next output still needs, and the transformer a ring of the keys in its window.
All state has one row per slot; a row is reset on its own. The decoder is causal, so nothing is held back: a frame of codes in,
its 1920 samples out.
"""

from __future__ import annotations

from typing import Final, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from tts_provider.engines.sesame.weights import LibraryModule

__all__ = ["MimiStream", "decoder_parts"]

STEPS_PER_FRAME: Final = 2
"""The transformer runs at 25 Hz, the codes at 12.5."""


class _Streamed(Protocol):
    """A layer that remembers."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def reset(self, row: int) -> None: ...


def decoder_parts(codec: LibraryModule) -> tuple[LibraryModule, LibraryModule, LibraryModule]:
    """The upsampler, the transformer and the convolutional decoder of a `MimiModel`.

    transformers 5.21 to 5.23 moved them below ``codec.decoder``; before, they stood on the model itself.
    """
    decoder = codec.decoder
    if hasattr(decoder, "decoder_seanet"):
        return decoder.upsample, decoder.decoder_transformer, decoder.decoder_seanet
    return codec.upsample, codec.decoder_transformer, decoder


class MimiStream:
    """Streaming decoder for a fixed number of rows."""

    def __init__(self, codec: LibraryModule, rows: int) -> None:
        """Use the weights of `codec` (fp32; it must have been moved to its device before its first use, because its
        codebooks cache themselves)."""
        upsample, transformer, seanet = decoder_parts(codec)
        self._quantizer = codec.quantizer
        self._upsample = _ConvTranspose(upsample.conv, rows)
        self._transformer = _Transformer(transformer, rows)
        self._layers = [_streamed(layer, rows) for layer in seanet.layers]

    def reset(self, row: int) -> None:
        """Start a new clip in `row`."""
        self._upsample.reset(row)
        self._transformer.reset(row)
        for layer in self._layers:
            layer.reset(row)

    def decode(self, codes: Tensor) -> Tensor:
        """Decode one frame of each of the first rows.

        Args:
            codes: (rows, codebooks) int64.

        Returns:
            (rows, samples) float32.
        """
        x = self._upsample(self._quantizer.decode(codes[:, :, None]))
        x = self._transformer(x.transpose(1, 2)).transpose(1, 2)
        for layer in self._layers:
            x = layer(x)
        return x[:, 0]


def _streamed(layer: LibraryModule, rows: int) -> _Streamed:
    inner = getattr(layer, "conv", None)
    if isinstance(inner, nn.ConvTranspose1d):
        return _ConvTranspose(inner, rows)
    if isinstance(inner, nn.Conv1d):
        if layer.pad_mode != "constant":
            raise ValueError(f"Mimi pads with '{layer.pad_mode}'; streaming is only proven for 'constant'.")
        return _Conv(inner, rows)
    if hasattr(layer, "block"):
        return _Residual(layer, rows)
    return _Stateless(layer)


class _Stateless:
    """A layer without a past, such as an activation."""

    def __init__(self, layer: LibraryModule) -> None:
        self._layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = self._layer(x)
        return out

    def reset(self, row: int) -> None:
        pass


class _Past:
    """The last inputs of a layer, (rows, channels, steps); zeros before a clip, as the causal padding is."""

    def __init__(self, rows: int, channels: int, steps: int, like: Tensor) -> None:
        self._past = like.new_zeros(rows, channels, steps)

    def reset(self, row: int) -> None:
        self._past[row] = 0.0

    def prepend(self, x: Tensor) -> Tensor:
        """`x` after its past, which moves on in place: a captured graph keeps its addresses."""
        past = self._past[: x.shape[0]]
        joined = torch.cat([past, x], dim=-1)
        past.copy_(joined[..., joined.shape[-1] - past.shape[-1] :])
        return joined


class _Conv(_Past):
    """A causal convolution of stride 1."""

    def __init__(self, conv: nn.Conv1d, rows: int) -> None:
        if conv.stride[0] != 1:
            raise ValueError("Mimi's decoder has a strided convolution, which is not known here.")
        super().__init__(rows, conv.in_channels, (conv.kernel_size[0] - 1) * conv.dilation[0], conv.weight)
        self._conv = conv

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = self._conv(self.prepend(x))
        return out


class _ConvTranspose(_Past):
    """A causal transposed convolution whose kernel spans two strides: each output needs one past input."""

    def __init__(self, conv: nn.ConvTranspose1d, rows: int) -> None:
        self._stride = int(conv.stride[0])
        if conv.kernel_size[0] != 2 * self._stride:
            raise ValueError("Mimi's upsampling kernel is not twice its stride.")
        super().__init__(rows, conv.in_channels, 1, conv.weight)
        self._conv = conv

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = self._conv(self.prepend(x))
        return out[..., self._stride : self._stride * (x.shape[-1] + 1)]


class _Residual:
    """A residual block: its convolutions remember, its sum does not."""

    def __init__(self, block: LibraryModule, rows: int) -> None:
        self._block = [_streamed(layer, rows) for layer in block.block]
        self._shortcut = _streamed(block.shortcut, rows)

    def __call__(self, x: Tensor) -> Tensor:
        out = x
        for layer in self._block:
            out = layer(out)
        return self._shortcut(x) + out

    def reset(self, row: int) -> None:
        self._shortcut.reset(row)
        for layer in self._block:
            layer.reset(row)


class _Transformer:
    """The decoder's transformer over a ring of keys and values, two steps a call."""

    def __init__(self, module: LibraryModule, rows: int) -> None:
        config = module.config
        self._module = module
        self._heads = int(config.num_attention_heads)
        self._kv_heads = int(config.num_key_value_heads)
        self._head_size = int(config.head_dim)
        self._window = int(config.sliding_window)
        # Both steps are written before either looks: the first still needs the oldest key of its window.
        self._ring = self._window + STEPS_PER_FRAME - 1
        weight = module.layers[0].input_layernorm.weight
        self._frequencies: Tensor = module.rotary_emb.inv_freq.to(weight.device, torch.float32)
        self._cache = weight.new_zeros(len(module.layers), 2, rows, self._kv_heads, self._ring, self._head_size)
        self._seen = torch.zeros(rows, dtype=torch.int64, device=weight.device)
        self._cells = torch.arange(self._ring, device=weight.device)
        self._steps = torch.arange(STEPS_PER_FRAME, device=weight.device)

    def reset(self, row: int) -> None:
        self._seen[row] = 0  # hides the ring's old cells

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        at = self._seen[:rows, None] + self._steps  # (rows, 2): absolute positions
        newest = at[:, -1:]
        held = newest - (newest - self._cells) % self._ring  # (rows, ring): the position that each cell holds
        age = at[:, :, None] - held[:, None, :]
        visible = ((age >= 0) & (age < self._window) & (held >= 0)[:, None, :])[:, None]
        angles = (at[..., None].float() * self._frequencies).repeat(1, 1, 2)[:, None]
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        row = torch.arange(rows, device=x.device)[:, None]
        cell = at % self._ring
        for index, layer in enumerate(self._module.layers):
            attention = layer.self_attn
            normed = layer.input_layernorm(x)
            q = _turn(self._split(attention.q_proj(normed), self._heads), cos, sin)
            k = _turn(self._split(attention.k_proj(normed), self._kv_heads), cos, sin)
            v = self._split(attention.v_proj(normed), self._kv_heads)
            self._cache[index, 0][row, :, cell] = k.transpose(1, 2)
            self._cache[index, 1][row, :, cell] = v.transpose(1, 2)
            keys, values = self._cache[index, :, :rows]
            mixed = functional.scaled_dot_product_attention(
                q, keys, values, attn_mask=visible, enable_gqa=self._heads != self._kv_heads
            )
            mixed = attention.o_proj(mixed.transpose(1, 2).reshape(rows, STEPS_PER_FRAME, -1))
            x = x + layer.self_attn_layer_scale(mixed)
            x = x + layer.mlp_layer_scale(layer.mlp(layer.post_attention_layernorm(x)))
        self._seen[:rows] += STEPS_PER_FRAME
        return x

    def _split(self, x: Tensor, heads: int) -> Tensor:
        return x.view(*x.shape[:2], heads, self._head_size).transpose(1, 2)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
