"""Run one step of all rows: frame and audio, eagerly on a CPU, as a captured CUDA graph on a GPU.

A step launches some 3,700 kernels, which takes longer than they do. A graph is one launch; it needs fixed shapes, so there is
one for each bucket of (rows, length), and everything that changes lies in tensors that keep their address.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from tts_provider.engines.base import ProgressReport
from tts_provider.engines.sesame.frame import FrameModel
from tts_provider.engines.sesame.mimi import MimiStream

__all__ = ["EagerRunner", "GraphRunner", "Runner"]

EAGER_LENGTH_STEP: Final = 128
"""Positions; eager attention looks at the next multiple."""
GRAPH_LENGTHS: Final = (512, 1024, 2048)
"""Positions that a graph looks at. A graph costs about half a second to capture, so there are few."""
WARM_UP_STEPS: Final = 2
"""Eager steps before a capture: libraries allocate workspaces, and the codec caches its codebooks."""


class Runner(Protocol):
    """Makes steps."""

    def step(self, rows: int, length: int) -> tuple[Tensor, Tensor]:
        """Frames (at least rows, codebooks) int64 and their audio (at least rows, samples) float32, valid until the next call.

        Args:
            rows: the first so many rows are stepped.
            length: positions that the longest of those that move needs, the one it writes included.
        """


class EagerRunner:
    """Launches every operation by itself."""

    def __init__(self, model: FrameModel, mimi: MimiStream) -> None:
        self._model = model
        self._mimi = mimi

    def step(self, rows: int, length: int) -> tuple[Tensor, Tensor]:
        rounded = -(-length // EAGER_LENGTH_STEP) * EAGER_LENGTH_STEP
        codes = self._model.step(rows, min(rounded, self._model.positions))
        return codes, self._mimi.decode(codes)


class GraphRunner:
    """Replays a graph of the smallest bucket that fits. Not yet run on a GPU: capture and replay are unproven."""

    def __init__(self, model: FrameModel, mimi: MimiStream, report: ProgressReport) -> None:
        """Capture all buckets; rows and cache hold garbage afterwards."""
        self._eager = EagerRunner(model, mimi)
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
        self._row_buckets = list(_powers_of_two(model.rows))
        self._lengths = sorted({min(length, model.positions) for length in GRAPH_LENGTHS} | {model.positions})
        pool = torch.cuda.graph_pool_handle()
        total = len(self._row_buckets) * len(self._lengths)
        # The largest first: the smaller ones then find room in its memory pool.
        with torch.cuda.device(model.device):
            for rows in reversed(self._row_buckets):
                for length in reversed(self._lengths):
                    self._capture(rows, length, pool)
                    report(len(self._graphs) / total, "capturing CUDA graphs")
        model.at.zero_()

    def step(self, rows: int, length: int) -> tuple[Tensor, Tensor]:
        bucket = next(size for size in self._row_buckets if size >= rows)
        graph, codes, audio = self._graphs[bucket, next(size for size in self._lengths if size >= length)]
        graph.replay()
        return codes, audio

    def _capture(self, rows: int, length: int, pool: Any) -> None:
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call,unused-ignore]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                self._eager.step(rows, length)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            codes, audio = self._eager.step(rows, length)
        self._graphs[rows, length] = graph, codes, audio


def _powers_of_two(up_to: int) -> Iterator[int]:
    size = 1
    while size < up_to:
        yield size
        size *= 2
    yield up_to
