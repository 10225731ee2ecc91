"""Beside the original itself, where it is installed: same weights, same seed of torch's generator, same codes.

The package cannot be installed as published; with its ``zonos/backbone`` folder added it runs, and this with it.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from tests.engines.zonos.models import speak, tiny_model, torch
from tests.engines.zonos.tiny import CONFIG, weights
from tts_provider.engines.zonos.decoder import Decoder, Prompt
from tts_provider.engines.zonos.phonemes import phoneme_ids
from tts_provider.engines.zonos.sampling import Sampling

pytestmark = pytest.mark.filterwarnings("ignore")  # the original's, and its dependencies'

PHONEMES = "ðə kˈæt sˈæt, ˈɔːl dˈeɪ."
EMOTION = [0.3, 0.0, 0.1, 0.0, 0.3, 0.0, 0.1, 0.2]
FRAMES = 60
MIXED_UP = 8
"""Frames at the cap whose codebooks the original exchanges."""


class _NoCodec:
    num_codebooks = 9


@pytest.fixture(scope="module")
def original() -> Any:
    """The original on the tiny weights, in fp32."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("zonos", reason="the original is not installed")
        model_module = pytest.importorskip("zonos.model", exc_type=ImportError, reason="the original cannot be imported")
        conditioning: Any = importlib.import_module("zonos.conditioning")
        backbones: Any = importlib.import_module("zonos.backbone").BACKBONES
        config_class: Any = importlib.import_module("zonos.config").ZonosConfig

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_module, "DACAutoencoder", _NoCodec)
        patch.setattr(conditioning, "phonemize", lambda texts, languages: list(texts))
        config = config_class.from_dict(CONFIG)
        config.pad_vocab_to_multiple_of = 0
        net = model_module.Zonos(config, backbones["torch"]).float().eval()
        shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
        net.load_state_dict({name: torch.from_numpy(value) for name, value in weights(shapes, 1).items()})
        net.config.pad_vocab_to_multiple_of = 8
        net._pad_embeddings_and_heads()
        allocate = net.setup_cache
        patch.setattr(net, "setup_cache", lambda batch_size, max_seqlen: allocate(batch_size, max_seqlen, torch.float32))
        yield net


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"min_p": 0.1}, Sampling()),
        ({"temperature": 0.0}, Sampling(temperature=0.0, min_p=0.0)),
        ({"top_p": 0.9, "top_k": 50}, Sampling(top_p=0.9, top_k=50, min_p=0.0)),
        ({"linear": 0.5, "conf": 0.4, "quad": 0.0}, Sampling(linear=0.5, confidence=0.4, min_p=0.0)),
    ],
)
@pytest.mark.parametrize("heard", [0, 11])
def test_the_codes_are_the_originals(original: Any, theirs: dict[str, float], ours: Sampling, heard: int) -> None:
    """All frames but those that the original mixes up, and none of those equal by more than chance."""
    make_cond_dict: Any = importlib.import_module("zonos.conditioning").make_cond_dict
    voice = np.random.RandomState(5).standard_normal(128).astype(np.float32)
    before = np.random.RandomState(6).randint(0, 1024, size=(heard, 9))
    prefix_codes = torch.from_numpy(before.T)[None] if heard else None
    told = make_cond_dict(text=PHONEMES, language="en-us", speaker=torch.from_numpy(voice), emotion=list(EMOTION), device="cpu")
    with torch.inference_mode():
        prefix = original.prepare_conditioning(told)
        torch.manual_seed(7)
        expected = original.generate(
            prefix,
            audio_prefix_codes=prefix_codes,
            max_new_tokens=FRAMES,
            sampling_params=theirs,
            progress_bar=False,
            disable_torch_compile=True,
        )[0].numpy()
    prompt = Prompt(phoneme_ids(PHONEMES), 24, voice.tolist(), EMOTION, sampling=ours, seed=7, heard=before.tolist())
    decoder = Decoder(tiny_model(), slots=1, positions=160)
    with torch.inference_mode():
        torch.testing.assert_close(decoder.model.conditioning(decoder.told(prompt)), prefix, atol=1e-6, rtol=0)
    frames = np.array(speak(decoder, prompt, heard + FRAMES)).T
    assert frames.shape == expected.shape
    np.testing.assert_array_equal(frames[:, :-MIXED_UP], expected[:, :-MIXED_UP])
    assert (frames[:, -MIXED_UP:] != expected[:, -MIXED_UP:]).any()
