"""The net that hears who speaks: ResNet293 with SimAM, attentive pooling, and a linear map to the 128 numbers Zonos takes.

Parameters have the names of the published files (1199 tensors, and 2 of the map).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from tts_provider.engines.zonos.mel import MEL_BANDS

__all__ = ["EMBEDDING", "PUBLISHED_BLOCKS", "PUBLISHED_PLANES", "SpeakerNet"]

EMBEDDING: Final = 256
"""Numbers that the net makes of a voice, before the map."""
PUBLISHED_BLOCKS: Final = (10, 20, 64, 3)
PUBLISHED_PLANES: Final = 64
SIMAM_LAMBDA: Final = 1e-4
LEAST_VARIANCE: Final = 1e-5
ATTENTION: Final = 128


class _Block(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        straight = stride == 1 and inputs == planes
        parts = [] if straight else [nn.Conv2d(inputs, planes, 1, stride, bias=False), nn.BatchNorm2d(planes)]
        self.downsample = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        out = _attend(out) + self.downsample(x)
        activated: Tensor = out.relu()
        return activated


def _attend(x: Tensor) -> Tensor:
    """SimAM: each place weighed by how far it is from its channel's mean."""
    count = x.shape[2] * x.shape[3] - 1
    distance = (x - x.mean(dim=(2, 3), keepdim=True)).square()
    variance = distance.sum(dim=(2, 3), keepdim=True) / count
    return x * (distance / (4 * (variance + SIMAM_LAMBDA)) + 0.5).sigmoid()


class _Front(nn.Module):
    def __init__(self, blocks: Sequence[int], planes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, planes, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        inputs = planes
        for index, count in enumerate(blocks):
            outputs = planes << index
            strides = [2 if index else 1] + [1] * (count - 1)
            layer = [_Block(inputs if place == 0 else outputs, outputs, stride) for place, stride in enumerate(strides)]
            setattr(self, f"layer{index + 1}", nn.Sequential(*layer))
            inputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        for name, layer in self.named_children():
            if name.startswith("layer"):
                x = layer(x)
        return x


class _Pooling(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.Conv1d(channels, ATTENTION, 1),
            nn.ReLU(),
            nn.BatchNorm1d(ATTENTION),
            nn.Conv1d(ATTENTION, channels, 1),
            nn.Softmax(dim=2),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1, 2)
        weight = self.attention(x)
        mean = (x * weight).sum(dim=2)
        deviation = ((x.square() * weight).sum(dim=2) - mean.square()).clamp_min(LEAST_VARIANCE).sqrt()
        return torch.cat([mean, deviation], dim=1)


class SpeakerNet(nn.Module):
    """Log mel bands to an embedding."""

    def __init__(self, blocks: Sequence[int] = PUBLISHED_BLOCKS, planes: int = PUBLISHED_PLANES) -> None:
        super().__init__()
        self.front = _Front(blocks, planes)
        channels = planes * 8 * (MEL_BANDS // 8)
        self.pooling = _Pooling(channels)
        self.bottleneck = nn.Linear(2 * channels, EMBEDDING)

    def forward(self, mel: Tensor) -> Tensor:
        """The embedding, (256,), of one voice's bands (80, n)."""
        out: Tensor = self.bottleneck(self.pooling(self.front(mel[None, None])))
        return out[0]
