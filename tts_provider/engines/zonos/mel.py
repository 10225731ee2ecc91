"""What the speaker encoder hears: audio at 16 kHz as log mel bands. The definitions are torchaudio's, without torchaudio.

torchaudio is not used because the copy on the package index is built for CUDA and cannot be imported beside a CPU torch.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Final

import soxr  # type: ignore[import-untyped, unused-ignore]
import torch
from torch import Tensor
from torch.nn import functional

from tts_provider.engines.base import Samples

__all__ = ["ENCODER_RATE", "MEL_BANDS", "log_mel", "resample"]

ENCODER_RATE: Final = 16_000
"""Hz."""
MEL_BANDS: Final = 80
FFT: Final = 512
WINDOW: Final = 400
"""Samples; 25 ms."""
HOP: Final = 160
"""Samples; 10 ms."""
LEAST_POWER: Final = 1e-6
"""Added before the logarithm."""
ZERO_CROSSINGS: Final = 6
"""Half-width of the resampling filter."""
ROLLOFF: Final = 0.99
"""Share of the lower Nyquist frequency that the filter lets through."""
MAX_KERNEL: Final = 1 << 20
"""Numbers in a filter. Usual rates have a hundred thousand; odd ones without a common divisor would have a billion."""


def resample(samples: Samples, rate: int) -> Tensor:
    """`samples` at 16 kHz, shape (n,), fp32: a windowed sinc, as the encoder was trained with."""
    if rate == ENCODER_RATE:
        return torch.from_numpy(samples)
    divisor = math.gcd(rate, ENCODER_RATE)
    source, target = rate // divisor, ENCODER_RATE // divisor
    if source * target > MAX_KERNEL:
        return torch.from_numpy(soxr.resample(samples, rate, ENCODER_RATE))
    kernel, width = _sinc_kernel(source, target)
    padded = functional.pad(torch.from_numpy(samples)[None, None], (width, width + source))
    out = functional.conv1d(padded, kernel, stride=source)[0].T.reshape(-1)
    return out[: -(-target * len(samples) // source)]


def log_mel(samples: Tensor) -> Tensor:
    """Log mel bands of `samples` (n,) at 16 kHz, each band's mean taken away: (80, 1 + n / 160)."""
    window = torch.hann_window(WINDOW, device=samples.device)
    spectrum = torch.stft(samples, FFT, HOP, WINDOW, window, center=True, pad_mode="reflect", return_complex=True)
    bands = _mel_filters().to(samples.device).T @ spectrum.abs().square()
    logs = (bands + LEAST_POWER).log()
    return logs - logs.mean(dim=1, keepdim=True)


@cache
def _mel_filters() -> Tensor:
    """Triangles on the HTK mel scale, (257, 80)."""
    frequencies = torch.linspace(0, ENCODER_RATE // 2, FFT // 2 + 1)
    highest = 2595.0 * math.log10(1.0 + ENCODER_RATE / 2 / 700.0)
    corners = 700.0 * (10.0 ** (torch.linspace(0.0, highest, MEL_BANDS + 2) / 2595.0) - 1.0)
    width = corners.diff()
    distance = corners[None] - frequencies[:, None]
    falling, rising = -distance[:, :-2] / width[:-1], distance[:, 2:] / width[1:]
    return torch.minimum(falling, rising).clamp_min(0.0)


@cache
def _sinc_kernel(source: int, target: int) -> tuple[Tensor, int]:
    """A filter for each of `target` phases, (target, 1, taps), and how far it reaches back."""
    cutoff = min(source, target) * ROLLOFF
    width = math.ceil(ZERO_CROSSINGS * source / cutoff)
    taps = torch.arange(-width, width + source, dtype=torch.float64)[None] / source
    time = (torch.arange(0, -target, -1, dtype=torch.float64)[:, None] / target + taps) * cutoff
    time = time.clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
    window = torch.cos(time * math.pi / ZERO_CROSSINGS / 2) ** 2
    kernel = torch.sinc(time) * window * (cutoff / source)
    return kernel[:, None].float(), width
