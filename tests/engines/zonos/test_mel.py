"""Mel bands, resampling and the speaker net against numbers recorded from torchaudio and the original."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.engines.zonos.checkpoints import recording, small_encoder
from tests.engines.zonos.models import torch
from tts_provider.engines.zonos.mel import log_mel, resample
from tts_provider.engines.zonos.speaker_encoder import SpeakerEncoder


@pytest.fixture(scope="module")
def goldens() -> dict[str, np.ndarray]:
    """What torchaudio 2.11 and Zyphra/Zonos at bc40d98 made of the same recordings."""
    with np.load(Path(__file__).with_name("speaker_goldens.npz")) as file:
        return dict(file)


def test_mel_bands_are_torchaudios(goldens: dict[str, np.ndarray]) -> None:
    """Log power in 80 bands, each band's mean taken away."""
    mel = log_mel(torch.from_numpy(recording(1.5, 16_000, 3)))
    assert mel.shape == (80, 151)
    np.testing.assert_allclose(mel[::4, ::7].numpy(), goldens["mel"], atol=2e-4)


@pytest.mark.parametrize("rate", [8_000, 22_050, 24_000, 44_100, 48_000])
def test_resampling_is_torchaudios(goldens: dict[str, np.ndarray], rate: int) -> None:
    """The same windowed sinc, to the rounding of its filter."""
    out = resample(recording(0.5, rate, 2), rate)
    assert len(out) == goldens[f"length_{rate}"]
    np.testing.assert_allclose(out[::40].numpy(), goldens[f"resample_{rate}"], atol=1e-4)


def test_audio_at_the_encoders_rate_is_untouched() -> None:
    """16 kHz needs no filter."""
    samples = recording(0.2)
    np.testing.assert_array_equal(resample(samples, 16_000).numpy(), samples)


def test_an_odd_rate_needs_no_giant_filter() -> None:
    """44,101 Hz shares no divisor with 16 kHz: a plain sinc filter would have 700 million numbers."""
    samples = recording(1.0, 44_101)
    out = resample(samples, 44_101)
    assert abs(len(out) - 16_000) <= 1
    usual = resample(recording(1.0, 44_100), 44_100)
    assert float((out[2000:14_000].square().mean() / usual[2000:14_000].square().mean() - 1).abs()) < 0.01


def test_the_voice_is_the_originals(goldens: dict[str, np.ndarray]) -> None:
    """Resampling, bands, net and map together."""
    voice = small_encoder().embed(recording(2.0, 24_000, 2), 24_000)
    scale = float(np.abs(goldens["voice"]).max())
    np.testing.assert_allclose(np.array(voice), goldens["voice"], atol=1e-3 * scale)


def test_the_published_encoder_has_the_published_size() -> None:
    """1199 tensors and the map's two; 98.94 million parameters in the net."""
    with torch.device("meta"):
        encoder = SpeakerEncoder()
    assert len(encoder.net.state_dict()) == 1199
    assert sum(parameter.numel() for parameter in encoder.net.parameters()) == 98_937_408
    assert len(encoder.state_dict()) == 1201
