"""The checks that users run with the real weights, run with the tiny ones."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the sesame extra")
pytest.importorskip("transformers", reason="needs the sesame extra")

from tests.engines.sesame.conftest import ENDING_TEXT
from tts_provider.engines.sesame.selfcheck import Check, selfcheck


def checks(model: Path, **settings: object) -> dict[str, Check]:
    return {check.name: check for check in selfcheck(model=str(model), device="cpu", text=ENDING_TEXT, **settings)}  # type: ignore[arg-type]


def test_a_sound_checkpoint_passes_what_can_be_judged_without_ears(checkpoint: Path) -> None:
    made = checks(checkpoint, compare=True)
    assert list(made) == ["libraries", "weights", "ending", "streaming", "loudness", "speed", "first audio", "codes"]
    assert made["weights"].passed
    assert made["streaming"].passed
    assert made["codes"].passed, made["codes"].detail
    assert made["first audio"].passed is None
    assert "ms a frame" in made["speed"].detail


def test_a_speech_that_does_not_end_is_found(checkpoint: Path) -> None:
    made = checks(checkpoint)
    assert made["ending"].passed is False
    assert "length" in made["ending"].detail


def test_a_checkpoint_that_cannot_be_loaded_ends_the_check_with_the_reason(tmp_path: Path) -> None:
    made = checks(tmp_path)
    assert list(made) == ["libraries", "weights"]
    assert made["weights"].passed is False
    assert "config.json" in made["weights"].detail


def test_missing_libraries_end_the_check_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (only,) = selfcheck(model=str(tmp_path))
    assert only.passed is False
    assert "pip install" in only.detail
