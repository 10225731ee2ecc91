"""The DAC decoder as a stream: frames in, samples out, equal to decoding the whole clip at once.

transformers' `DacModel` gives the weights and the layers; this module gives each layer a memory. A convolution that looks both
ways becomes one that looks back and answers late: by half its reach, at its own rate. Along the decoder the delays add up to
`StreamingDac.lag` samples (4757 for the published codec), the same for every push.

What the whole-clip decoder pads with zeros before the start and after the end is here outputs forced to zero, layer by layer.
So every push of n frames gives 512 n samples whatever its place in the clip, and pushes of several slots run as one batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DacModel

from tts_provider.engines.base import Samples
from tts_provider.engines.zonos.config import CODEBOOK_SIZE, CODEBOOKS, HOP
from tts_provider.errors import EngineUnavailable

__all__ = ["Push", "StreamingDac"]

ENDLESS: Final = 1 << 40
"""Frames of a clip whose end is not known yet."""


@dataclass(frozen=True, slots=True)
class Push:
    """Frames for one slot."""

    slot: int
    frames: Sequence[Sequence[int]]
    """Nine codes each, below 1024; may be empty at the end."""
    last: bool = False
    """Whether the clip ends with them: all that is still held back comes out."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """The rows of one pass, and where in their clips they are."""

    rows: Tensor
    starts: Tensor
    """Frames pushed before, (b, 1, 1)."""
    totals: Tensor
    """Frames of the clip, (b, 1, 1); `ENDLESS` while unknown."""
    first_start: int
    """The least of `starts`."""
    ending: bool
    """Whether any total is known."""

    def silence_outside(self, x: Tensor, rate: int, delay: int) -> Tensor:
        """`x` (b, channels, n), `rate` samples a frame and `delay` late, with zeros where the clip has not begun or is over."""
        if not self.ending and self.first_start * rate >= delay:
            return x
        time = self.starts * rate - delay + torch.arange(x.shape[-1], device=x.device)
        return torch.where((time >= 0) & (time < self.totals * rate), x, 0.0)


class _Memory:
    """The last `length` inputs of a layer, for every slot."""

    def __init__(self, slots: int, channels: int, length: int, like: Tensor) -> None:
        self._tail = torch.zeros(slots, channels, length, dtype=like.dtype, device=like.device)

    def extend(self, x: Tensor, batch: _Batch) -> Tensor:
        """`x` with what came before it in front, (b, channels, length + n); remembers its end."""
        whole = torch.cat([self._tail[batch.rows], x], dim=-1)
        self._tail[batch.rows] = whole[..., x.shape[-1] :]
        return whole

    def clear(self, slot: int) -> None:
        self._tail[slot] = 0.0


class _Conv:
    """A convolution at `rate` samples a frame whose input is `delay` samples late."""

    def __init__(self, conv: nn.Module, rate: int, delay: int, slots: int) -> None:
        if not isinstance(conv, nn.Conv1d) or conv.stride != (1,) or conv.groups != 1 or not isinstance(conv.padding, tuple):
            raise _unexpected("a convolution")
        reach = (conv.kernel_size[0] - 1) * conv.dilation[0]
        if 2 * conv.padding[0] != reach:
            raise _unexpected("a padding")
        self._conv, self._rate = conv, rate
        self.delay = delay + reach // 2
        self.memories = [_Memory(slots, conv.in_channels, reach, conv.weight)]

    def __call__(self, x: Tensor, batch: _Batch) -> Tensor:
        whole = self.memories[0].extend(x, batch)
        out = functional.conv1d(whole, self._conv.weight, self._conv.bias, dilation=self._conv.dilation)
        return batch.silence_outside(out, self._rate, self.delay)


class _Upsample:
    """A transposed convolution of twice its stride: each output needs the input above it and the one before."""

    def __init__(self, conv: nn.Module, rate: int, delay: int, slots: int) -> None:
        if not isinstance(conv, nn.ConvTranspose1d) or conv.groups != 1 or not isinstance(conv.padding, tuple):
            raise _unexpected("a transposed convolution")
        self._stride = conv.stride[0]
        if conv.kernel_size[0] != 2 * self._stride or 2 * conv.padding[0] != self._stride or conv.output_padding != (0,):
            raise _unexpected("a transposed convolution's shape")
        self._conv = conv
        self.rate = rate * self._stride
        self.delay = delay * self._stride + conv.padding[0]
        self.memories = [_Memory(slots, conv.in_channels, 1, conv.weight)]

    def __call__(self, x: Tensor, batch: _Batch) -> Tensor:
        whole = self.memories[0].extend(x, batch)
        out = functional.conv_transpose1d(whole, self._conv.weight, self._conv.bias, stride=self._stride)
        out = out[..., self._stride : self._stride + x.shape[-1] * self._stride]
        return batch.silence_outside(out, self.rate, self.delay)


class _Residual:
    """Two convolutions beside a straight line, which waits for them."""

    def __init__(self, unit: nn.Module, rate: int, delay: int, slots: int) -> None:
        self._snakes = [_module(unit, "snake1"), _module(unit, "snake2")]
        first = _Conv(_module(unit, "conv1"), rate, delay, slots)
        second = _Conv(_module(unit, "conv2"), rate, first.delay, slots)
        self._convs = [first, second]
        self.delay = second.delay
        channels = _channels(_module(unit, "conv1"))
        self._straight = _Memory(slots, channels, self.delay - delay, next(unit.parameters()))
        self.memories = [*first.memories, *second.memories, self._straight]

    def __call__(self, x: Tensor, batch: _Batch) -> Tensor:
        out = x
        for snake, conv in zip(self._snakes, self._convs, strict=True):
            out = conv(snake(out), batch)
        return self._straight.extend(x, batch)[..., : x.shape[-1]] + out


class StreamingDac:
    """A decoder for `slots` clips at a time."""

    def __init__(self, dac: DacModel, slots: int) -> None:
        """
        Args:
            dac: loaded, in eval mode, fp32; only its quantizer and decoder are used.

        Raises:
            EngineUnavailable: it is another codec, or transformers has changed the decoder's layers.
        """
        if dac.config.n_codebooks != CODEBOOKS or dac.config.codebook_size != CODEBOOK_SIZE or dac.config.hop_length != HOP:
            raise EngineUnavailable(
                "The DAC model is not the 44.1 kHz codec with 9 codebooks that Zonos speaks.", retryable=False
            )
        decoder = dac.decoder
        self._quantizer = dac.quantizer
        self._device = next(decoder.parameters()).device
        layers: list[_Conv | _Upsample | _Residual | nn.Module] = []
        conv = _Conv(_module(decoder, "conv1"), 1, 0, slots)
        layers.append(conv)
        rate, delay = 1, conv.delay
        for block in _modules(decoder, "block"):
            upsample = _Upsample(_module(block, "conv_t1"), rate, delay, slots)
            layers += [_module(block, "snake1"), upsample]
            rate, delay = upsample.rate, upsample.delay
            for name in ("res_unit1", "res_unit2", "res_unit3"):
                unit = _Residual(_module(block, name), rate, delay, slots)
                layers.append(unit)
                delay = unit.delay
        last = _Conv(_module(decoder, "conv2"), rate, delay, slots)
        layers += [_module(decoder, "snake1"), last, _module(decoder, "tanh")]
        if rate != HOP:
            raise _unexpected("its strides")
        self._layers = layers
        self.lag: Final = last.delay
        """Samples by which what comes out is behind what went in."""
        self._memories = [memory for layer in layers if not isinstance(layer, nn.Module) for memory in layer.memories]
        self._starts = [0] * slots
        self.frames_decoded = 0
        """Frames that were pushed so far, by all slots; those of silence that flush a clip's end not counted."""

    @property
    def flush_frames(self) -> int:
        """Frames of silence that push out the end of a clip."""
        return -(-self.lag // HOP)

    def reset(self, slot: int) -> None:
        """Begin a new clip in `slot`."""
        self._starts[slot] = 0
        for memory in self._memories:
            memory.clear(slot)

    def push(self, pushes: Iterable[Push]) -> list[Samples]:
        """Decode; return what became final of each push, in their order. Pushes of one length run as one batch."""
        pushes = list(pushes)
        out: list[Samples] = [np.zeros(0, np.float32)] * len(pushes)
        by_length: dict[int, list[int]] = {}
        for index, push in enumerate(pushes):
            length = len(push.frames) + (self.flush_frames if push.last else 0)
            if length:
                by_length.setdefault(length, []).append(index)
        for length, indices in by_length.items():
            group = [pushes[index] for index in indices]
            for index, samples in zip(indices, self._push(group, length), strict=True):
                out[index] = samples
        return out

    def _push(self, group: Sequence[Push], length: int) -> list[Samples]:
        starts = [self._starts[push.slot] for push in group]
        totals = [start + len(push.frames) if push.last else ENDLESS for start, push in zip(starts, group, strict=True)]
        batch = _Batch(
            torch.tensor([push.slot for push in group], device=self._device),
            torch.tensor(starts, device=self._device)[:, None, None],
            torch.tensor(totals, device=self._device)[:, None, None],
            min(starts),
            any(push.last for push in group),
        )
        codes = torch.zeros(len(group), CODEBOOKS, length, dtype=torch.int64)
        for row, push in zip(codes, group, strict=True):
            if push.frames:
                row[:, : len(push.frames)] = torch.tensor([list(frame) for frame in push.frames]).T
        x = self._quantizer.from_codes(codes.to(self._device))[0]
        x = batch.silence_outside(x, 1, 0)
        for layer in self._layers:
            x = layer(x) if isinstance(layer, nn.Module) else layer(x, batch)
        samples = x[:, 0].cpu().numpy()
        result = []
        for row, push, start, total in zip(samples, group, starts, totals, strict=True):
            time = start * HOP - self.lag  # of the row's first sample
            result.append(row[max(-time, 0) : max(total * HOP - time, 0)].copy())
            self._starts[push.slot] += length
            self.frames_decoded += len(push.frames)
        return result


def _module(parent: nn.Module, name: str) -> nn.Module:
    child = getattr(parent, name, None)
    if not isinstance(child, nn.Module):
        raise _unexpected(f"no '{name}'")
    return child


def _modules(parent: nn.Module, name: str) -> Iterable[nn.Module]:
    children = getattr(parent, name, None)
    if not isinstance(children, nn.ModuleList):
        raise _unexpected(f"no list '{name}'")
    return children


def _channels(conv: nn.Module) -> int:
    if not isinstance(conv, nn.Conv1d):
        raise _unexpected("a convolution")
    return conv.in_channels


def _unexpected(what: str) -> EngineUnavailable:
    return EngineUnavailable(
        f"The DAC decoder of the installed transformers is not built as expected ({what}). "
        'Install the versions that were tested: pip install "tts-provider[zonos]".',
        retryable=False,
    )
