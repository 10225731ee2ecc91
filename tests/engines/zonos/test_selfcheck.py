"""The checks for real weights, run on tiny ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from tests.engines.zonos.checkpoints import write_dac, write_encoder, write_model
from tts_provider.engines.zonos.g2p import find_espeak
from tts_provider.engines.zonos.selfcheck import selfcheck

pytestmark = pytest.mark.skipif(find_espeak() is None, reason="espeakng-loader is not installed")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sound_checkpoint_passes(tmp_path: Path, dtype: str) -> None:
    """Nothing fails, and there is something to listen to."""
    wav = tmp_path / "out.wav"
    checks = list(
        selfcheck(
            model=str(write_model(tmp_path / "model")),
            dac=str(write_dac(tmp_path / "dac")),
            dtype=dtype,
            device="cpu",
            slots=2,
            wav=wav,
        )
    )
    assert [check.name for check in checks] == [
        "phonemes",
        "weights",
        "half precision",
        "batching",
        "streaming",
        "speed",
        "listening",
    ]
    assert [check for check in checks if check.passed is False] == []
    assert soundfile.info(wav).samplerate == 44_100


def test_a_speaker_encoder_of_another_shape_fails_its_check(tmp_path: Path) -> None:
    """The others are not touched by it."""
    checks = selfcheck(
        model=str(write_model(tmp_path / "model")),
        dac=str(write_dac(tmp_path / "dac")),
        speaker_model=str(write_encoder(tmp_path / "encoder")),
        device="cpu",
        slots=1,
    )
    failed = [check for check in checks if check.passed is False]
    assert [check.name for check in failed] == ["speaker encoder"]
    assert "do not fit" in failed[0].detail


def test_a_missing_checkpoint_is_the_last_check(tmp_path: Path) -> None:
    """It fails with the loader's sentence."""
    checks = list(selfcheck(model=str(tmp_path), dac=str(tmp_path), device="cpu"))
    assert checks[-1].name == "weights"
    assert checks[-1].passed is False
    assert "lacks" in checks[-1].detail
