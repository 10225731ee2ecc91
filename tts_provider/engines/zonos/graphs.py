"""CUDA graphs of one step, by size: without them a step is bound by the host, some 600 kernel launches for 0.7 ms of work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch

__all__ = ["StepGraphs"]

WARM_UP_RUNS: Final = 2
"""Runs before a capture: libraries choose their kernels and take their workspaces in the first."""


class StepGraphs:
    """Captured steps. The step must read and write tensors that stay in place, and nothing else."""

    def __init__(self, step: Callable[[int, int, bool], None]) -> None:
        """
        Args:
            step: called with rows, length and whether the sampler shapes the distribution.
        """
        self._step = step
        self._graphs: dict[tuple[int, int, bool], torch.cuda.CUDAGraph] = {}
        self._pool: Any = None  # torch's handle of a memory pool

    def capture(self, rows: int, length: int, shaped: bool) -> None:
        """Record the step of this size. It runs a few times first, so every slot must be at rest."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                self._step(rows, length, shaped)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Steps never run side by side, so all graphs may share one pool of memory.
        with torch.cuda.graph(graph, pool=self._pool):
            self._step(rows, length, shaped)
        self._pool = graph.pool()
        self._graphs[rows, length, shaped] = graph

    def replay(self, rows: int, length: int, shaped: bool) -> None:
        """Run the step of this size."""
        self._graphs[rows, length, shaped].replay()
