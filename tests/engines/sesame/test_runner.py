"""Graphs are chosen and fed right; what a GPU does with them is `benchmarks/sesame.py --check`'s to show."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the sesame extra")
pytest.importorskip("transformers", reason="needs the sesame extra")

from tts_provider.engines.sesame.frame import FrameModel  # noqa: E402
from tts_provider.engines.sesame.mimi import MimiStream  # noqa: E402
from tts_provider.engines.sesame.runner import EagerRunner, GraphRunner, Runner  # noqa: E402
from tts_provider.engines.sesame.weights import load_weights  # noqa: E402


class FakeGraph:
    """Replays by calling what was captured again, and writes to the captured results as a graph does."""

    def __init__(self) -> None:
        self.call: tuple[int, int] = (0, 0)
        self.results: tuple[Any, Any] = (None, None)
        self.runner: Any = None

    def replay(self) -> None:
        for result, made in zip(self.results, FakeCuda.real_step(self.runner, *self.call), strict=True):
            result.copy_(made)


class FakeCuda:
    """As much of ``torch.cuda`` as capturing takes, on a CPU."""

    real_step = EagerRunner.step
    capturing: FakeGraph | None = None
    captured: list[tuple[int, int]]

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.captured = []
        stream = type("Stream", (), {"wait_stream": lambda self, other: None})
        fakes: dict[str, Any] = {
            "graph_pool_handle": object,
            "device": lambda device: nullcontext(),
            "Stream": stream,
            "current_stream": stream,
            "stream": lambda stream: nullcontext(),
            "CUDAGraph": FakeGraph,
            "graph": self.graph,
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr(EagerRunner, "step", self.step_of())

    @contextmanager
    def graph(self, graph: FakeGraph, pool: object) -> Iterator[None]:
        self.capturing = graph
        yield
        self.capturing = None

    def step_of(self) -> Any:
        def step(runner: EagerRunner, rows: int, length: int) -> tuple[Any, Any]:
            results = FakeCuda.real_step(runner, rows, length)
            if self.capturing is not None:
                graph = self.capturing
                graph.call, graph.results, graph.runner = (rows, length), results, runner
                self.captured.append(graph.call)
            return results

        return step


def speak(weights: Any, make: Any) -> list[list[list[int]]]:
    """Three rows that join one after the other, greedy; the first gets long meanwhile."""
    with torch.inference_mode():
        model, mimi = FrameModel(weights, 3), MimiStream(weights.codec, 3)
        runner: Runner = make(model, mimi)
        made: list[list[list[int]]] = [[], [], []]
        places = [0, 0, 0]
        for row, tokens in enumerate((500, 9, 30)):
            model.prefill(row, 0, model.embed_text([65 + index % 20 for index in range(tokens)]))
            mimi.reset(row)
            model.moving[row] = 1
            places[row] = tokens
            for _ in range(8):
                codes, audio = runner.step(row + 1, max(places) + 1)
                assert audio.shape[0] == codes.shape[0] >= row + 1
                for speaking in range(row + 1):
                    made[speaking].append(codes[speaking].tolist())
                    places[speaking] += 1
    return made


def test_graphs_of_larger_buckets_say_what_exact_sizes_say(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a change of the length's bucket, too: the first row passes position 512."""
    weights = load_weights(checkpoint, torch.device("cpu"), torch.float32)
    expected = speak(weights, EagerRunner)
    cuda = FakeCuda(monkeypatch)
    told: list[float | None] = []
    made = speak(weights, lambda model, mimi: GraphRunner(model, mimi, lambda share, doing: told.append(share)))
    assert made == expected
    assert sorted(cuda.captured) == [(rows, length) for rows in (1, 2, 3) for length in (512, 1024, 2048)]
    assert told == sorted(share for share in told if share is not None)
    assert told[-1] == 1.0
