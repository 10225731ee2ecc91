"""Equality with the original, from numbers recorded from it, and beside it where it can be imported.

The numbers come from Zyphra/Zonos at bc40d98 in fp32 with the weights and noise of `tiny`; its sampler's noise was replaced by
ours, and its writing of columns by one that does not mix up codebooks at the cap. Only numbers are kept.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.engines.zonos.models import scripted, speak, tiny_model, torch
from tts_provider.engines.zonos.decoder import Decoder, Prompt
from tts_provider.engines.zonos.languages import CODES
from tts_provider.engines.zonos.model import guide
from tts_provider.engines.zonos.phonemes import phoneme_ids
from tts_provider.engines.zonos.sampling import Sampling

PHONEMES = "ðə kˈæt sˈæt, ˈɔːl dˈeɪ."
SAMPLERS = {
    "min_p": Sampling(),
    "greedy": Sampling(temperature=0.0, min_p=0.0),
    "nucleus": Sampling(top_p=0.9, top_k=50, min_p=0.0),
    "unified": Sampling(linear=0.5, confidence=0.4, min_p=0.0),
    "shaped": Sampling(1.2, 0.95, 200, 0.02, 0.6, -0.1, 0.1, 1.5),
}


@pytest.fixture(scope="module")
def goldens() -> dict[str, np.ndarray]:
    """What the original said."""
    with np.load(Path(__file__).with_name("goldens.npz")) as file:
        return dict(file)


def prompt(
    goldens: dict[str, np.ndarray], sampling: Sampling, *, seed: int = 11, heard: int = 0, guidance: float = 2.0
) -> Prompt:
    """What the original was asked."""
    return Prompt(
        phonemes=phoneme_ids(PHONEMES),
        language=CODES.index("en-us"),
        speaker=goldens["speaker"].tolist(),
        emotion=goldens["emotion"].tolist(),
        fmax=21_000.0,
        pitch_std=35.0,
        speaking_rate=17.0,
        guidance=guidance,
        sampling=sampling,
        seed=seed,
        heard=goldens["heard"][:, :heard].T.tolist(),
    )


def test_the_prefix_is_the_originals(goldens: dict[str, np.ndarray]) -> None:
    """Conditioning differs by nothing but float noise of another machine."""
    decoder = Decoder(tiny_model(), slots=1, positions=64)
    with torch.inference_mode():
        prefix = decoder.model.conditioning(decoder.told(prompt(goldens, Sampling())))
    np.testing.assert_allclose(prefix.numpy(), goldens["prefix"], atol=1e-5)


def test_the_logits_of_every_step_are_the_originals(goldens: dict[str, np.ndarray]) -> None:
    """Along the recorded speech, every step's guided logits agree."""
    decoder = Decoder(tiny_model(), slots=2, positions=128, noise=scripted())
    heads, sums = [], []
    with torch.inference_mode():
        told = decoder.model.conditioning(decoder.told(prompt(goldens, Sampling())))
        before, _ = decoder.join(1, prompt(goldens, Sampling()), 60)
        logits = guide(decoder.model.prefill(told, before, decoder.cache, 1)[None], torch.tensor([2.0]))
        for _ in range(40):
            heads.append(logits[0, :, ::128])
            sums.append(logits[0].logsumexp(-1))
            columns = decoder.columns
            both = decoder.model.step(columns.current, columns.position, decoder.cache, 128)
            logits = guide(both[1:], torch.tensor([2.0]))
            decoder.steps(1)
    scale = float(np.abs(goldens["logits_head"]).max())
    assert float(np.abs(torch.stack(heads).numpy() - goldens["logits_head"]).max()) < 1e-5 * scale
    np.testing.assert_allclose(torch.stack(sums).numpy(), goldens["logits_lse"], rtol=1e-4)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("hop", [1, 7])
def test_the_codes_are_the_originals(goldens: dict[str, np.ndarray], name: str, hop: int) -> None:
    """Every sampler gives the same codes, frame for frame, the last eight at the cap included."""
    decoder = Decoder(tiny_model(), slots=2, positions=128, noise=scripted())
    frames = speak(decoder, prompt(goldens, SAMPLERS[name]), 60, slot=1, hop=hop)
    np.testing.assert_array_equal(np.array(frames).T, goldens[f"codes_{name}"])


def test_another_guidance_gives_the_originals_codes(goldens: dict[str, np.ndarray]) -> None:
    """The guidance scale is applied as the original applies it."""
    decoder = Decoder(tiny_model(), slots=1, positions=128, noise=scripted())
    frames = speak(decoder, prompt(goldens, Sampling(), seed=12, guidance=3.0), 40)
    np.testing.assert_array_equal(np.array(frames).T, goldens["codes_scale3"])


@pytest.mark.parametrize("heard", [0, 5, 25])
@pytest.mark.parametrize("eos_at", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 18, 19, 20, 21, 22, 27])
def test_an_end_anywhere_is_the_originals(goldens: dict[str, np.ndarray], heard: int, eos_at: int) -> None:
    """The end of speech in the first columns, later, around the cap of 20 frames and after it; with audio before it or not."""
    decoder = Decoder(tiny_model(), slots=1, positions=128, noise=scripted(eos_at))
    sampling = Sampling(min_p=0.0)
    frames = speak(decoder, prompt(goldens, sampling, seed=100 + eos_at, heard=heard), heard + 20)
    np.testing.assert_array_equal(np.array(frames).T, goldens[f"eos_{heard}_{eos_at}"])
