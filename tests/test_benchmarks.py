"""The soak, for two minutes unless told otherwise, and the load benchmark, for as long as it takes to see that it works."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks.soak import soak

SOAK_S = float(os.environ.get("TTS_SOAK_S", "120"))
"""Of the soak; what a developer in a hurry sets lower."""
LOAD_TIMEOUT_S = 60


def test_a_soak_with_hostile_clients_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """The process lives, has no fault, and keeps no descriptor, thread or process; good clients got all that they asked for."""
    report = soak(SOAK_S)
    with capsys.disabled():
        print(f"\nsoak of {SOAK_S:.0f} s, 10 % of the clients hostile\n{report}")
    assert report.problems == []


def test_the_load_benchmark_prints_its_figures() -> None:
    """One short step with few streams; the search for the highest number is not for machines that are shared."""
    command = [sys.executable, "-m", "benchmarks.load", "--streams", "20", "--seconds", "2", "--rounds", "1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=LOAD_TIMEOUT_S, check=True)
    assert "bare     20 streams" in result.stdout
    assert "ours     20 streams" in result.stdout
    assert "failed" not in result.stdout
    assert "ratio" in result.stdout
