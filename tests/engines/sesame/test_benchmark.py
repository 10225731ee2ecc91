"""The benchmark runs; what it measures on a CPU with a toy means nothing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("torch", reason="needs the sesame extra")
pytest.importorskip("transformers", reason="needs the sesame extra")

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "sesame.py"


@pytest.fixture(scope="module")
def benchmark_script(_quiet_torch: None) -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_sesame", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_it_prints_a_line_for_each_batch_size(benchmark_script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark_script.main(["--tiny", "--device", "cpu", "--frames", "2", "--batches", "1", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("generate(): ")
    assert [line.split()[0] for line in lines[3:]] == ["1", "3"]


def test_the_check_compares_all_frames(benchmark_script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark_script.main(["--tiny", "--device", "cpu", "--frames", "2", "--check"]) == 0
    assert "8 of 8 frames equal" in capsys.readouterr().out


def test_the_limit_of_the_full_model_is_what_its_bytes_say(benchmark_script: ModuleType) -> None:
    """1.94 ms a frame at batch 1 in bf16 on an H200, by the published sizes."""
    import torch

    weights_module = importlib.import_module("tts_provider.engines.sesame.weights")
    with torch.device("meta"):
        model = benchmark_script.library.CsmForConditionalGeneration(benchmark_script._config(False))
    weights = weights_module.take_weights(model, torch.device("meta"), torch.bfloat16)
    assert benchmark_script._limit_ms(weights, 1) == pytest.approx(1.94, abs=0.06)
    assert weights.parameters == pytest.approx(1632e6, rel=0.001)
