"""Whether two recordings say the same text, whoever speaks: mel cepstra and dynamic time warping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import soxr

from tts_provider.engines.base import Samples

__all__ = ["rank_by_dtw"]

Floats = npt.NDArray[np.float64]

SAMPLE_RATE: Final = 16000
FRAME: Final = 400  # 25 ms
HOP: Final = 160  # 10 ms
FFT: Final = 512
BANDS: Final = 24
LOWEST_HZ: Final = 100.0
HIGHEST_HZ: Final = 6000.0
CEPSTRA: Final = 12
SILENCE_LEVEL: Final = 0.005


def rank_by_dtw(samples: Samples, sample_rate: int, candidates: Mapping[str, tuple[Samples, int]]) -> list[tuple[str, float]]:
    """The `candidates` (name: audio and its sample rate) with their distance to `samples`, nearest first.

    Mel cepstra with means removed, compared along the best path through time. To check that audio says its text without
    recognising speech, rank renderings of that text and of decoys by some other voice: the right one comes first.
    """
    ours = _cepstra(samples, sample_rate)
    distances = [(name, _dtw(ours, _cepstra(*audio))) for name, audio in candidates.items()]
    return sorted(distances, key=lambda pair: pair[1])


def _cepstra(samples: Samples, sample_rate: int) -> Floats:
    loud = np.flatnonzero(np.abs(samples) > SILENCE_LEVEL)
    speech = samples[loud[0] : loud[-1] + 1] if len(loud) else samples
    x: Samples = soxr.resample(speech, sample_rate, SAMPLE_RATE) if sample_rate != SAMPLE_RATE else speech
    padded = np.pad(x.astype(np.float64), FRAME // 2)
    power = np.abs(np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP] * np.hanning(FRAME), FFT)) ** 2
    logs = np.log(power @ _mel_bands() + 1e-4)
    cosines = np.cos(np.pi * np.outer(np.arange(BANDS) + 0.5, np.arange(1, CEPSTRA + 1)) / BANDS)
    cepstra: Floats = logs @ cosines
    spread: Floats = (cepstra - cepstra.mean(axis=0)) / (cepstra.std(axis=0) + 1e-6)
    return spread


def _mel_bands() -> Floats:
    """Triangles, shape (FFT / 2 + 1, BANDS), at equal distances in mel."""
    low, high = np.log1p(LOWEST_HZ / 700), np.log1p(HIGHEST_HZ / 700)
    edges = 700.0 * np.expm1(np.linspace(low, high, BANDS + 2)) * FFT / SAMPLE_RATE
    bins = np.arange(FFT // 2 + 1)
    return np.array([np.interp(bins, edges[band : band + 3], [0.0, 1.0, 0.0], 0.0, 0.0) for band in range(BANDS)]).T


def _dtw(one: Floats, two: Floats) -> float:
    """Cost of the best path from the first to the last frames of both, per frame."""
    costs = np.sqrt(np.maximum((one**2).sum(1)[:, None] + (two**2).sum(1)[None] - 2 * one @ two.T, 0.0))
    # Along anti-diagonals all cells are independent: one numpy step for each instead of one Python step for each cell.
    rows, columns = costs.shape
    before, previous = np.full(rows + 1, np.inf), np.full(rows + 1, np.inf)
    for diagonal in range(rows + columns - 1):
        row = np.arange(max(0, diagonal - columns + 1), min(rows, diagonal + 1))
        here = np.full(rows + 1, np.inf)
        cost = costs[row, diagonal - row]
        if diagonal == 0:
            here[row + 1] = cost
        else:
            here[row + 1] = np.minimum(before[row] + 2 * cost, np.minimum(previous[row], previous[row + 1]) + cost)
        before, previous = previous, here
    return float(previous[rows] / (rows + columns))
