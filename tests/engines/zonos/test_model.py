"""The transformer: its published shape, its cache against full recomputation, its two rows against separate runs."""

from __future__ import annotations

import numpy as np
import pytest

from tests.engines.zonos.models import tiny_model, torch
from tests.engines.zonos.tiny import CONFIG
from tts_provider.engines.zonos.config import read_config
from tts_provider.engines.zonos.decoder import Decoder, Prompt
from tts_provider.engines.zonos.model import KeyValues, ZonosModel, guide
from tts_provider.engines.zonos.phonemes import phoneme_ids

PROMPT = Prompt(phoneme_ids("hˈaɪ ðˈɛɹ"), 24, speaker=[0.1] * 128, emotion=[0.3, 0, 0.1, 0, 0, 0, 0.2, 0.4])


def published_config() -> dict[str, object]:
    """The published transformer's measures."""
    attention = {**CONFIG["backbone"]["attn_cfg"], "num_heads": 16, "num_heads_kv": 4, "rotary_emb_dim": 128}
    backbone = {
        **CONFIG["backbone"],
        "d_model": 2048,
        "attn_mlp_d_intermediate": 8192,
        "n_layer": 26,
        "attn_layer_idx": list(range(26)),
        "attn_cfg": attention,
    }
    return {**CONFIG, "backbone": backbone}


def test_at_full_size_it_has_the_published_tensors() -> None:
    """246 names, 1.6244 billion numbers, the shapes of the checkpoint."""
    with torch.device("meta"):
        state = ZonosModel(read_config(published_config())).state_dict()
    assert len(state) == 246
    assert sum(value.numel() for value in state.values()) == pytest.approx(1.6244e9, rel=1e-4)
    shapes = {
        "backbone.layers.25.mixer.in_proj.weight": (3072, 2048),
        "backbone.layers.0.mixer.out_proj.weight": (2048, 2048),
        "backbone.layers.7.mlp.fc1.weight": (16_384, 2048),
        "backbone.layers.7.mlp.fc2.weight": (2048, 8192),
        "backbone.layers.7.norm.bias": (2048,),
        "backbone.layers.7.norm2.weight": (2048,),
        "backbone.norm_f.bias": (2048,),
        "embeddings.8.weight": (1026, 2048),
        "heads.8.weight": (1025, 2048),
        "prefix_conditioner.conditioners.0.phoneme_embedder.weight": (189, 2048),
        "prefix_conditioner.conditioners.1.project.weight": (2048, 128),
        "prefix_conditioner.conditioners.1.uncond_vector": (2048,),
        "prefix_conditioner.conditioners.2.weight": (1024, 8),
        "prefix_conditioner.conditioners.5.weight": (1024, 1),
        "prefix_conditioner.conditioners.6.int_embedder.weight": (128, 2048),
        "prefix_conditioner.project.bias": (2048,),
        "prefix_conditioner.norm.weight": (2048,),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes


def test_steps_on_the_cache_equal_reading_everything_again() -> None:
    """Logits of column n from n steps, and from one prefill of n columns."""
    model = tiny_model()
    columns = torch.from_numpy(np.random.RandomState(1).randint(0, 1026, size=(12, 9)))
    with torch.inference_mode():
        prefix = model.conditioning(Decoder(model, slots=1, positions=64).told(PROMPT))
        length = prefix.shape[1]
        cache = KeyValues.empty(model.config.backbone, 2, 64, dtype=torch.float32, device=torch.device("cpu"))
        model.prefill(prefix, columns[:1], cache, 1)
        for count in range(2, 13):
            both = torch.stack([columns[0], columns[count - 1]])
            step = model.step(both, torch.tensor([0, length + count - 1]), cache, 64)[1]
            other = KeyValues.empty(model.config.backbone, 1, 64, dtype=torch.float32, device=torch.device("cpu"))
            torch.testing.assert_close(step, model.prefill(prefix, columns[:count], other, 0), atol=2e-5, rtol=1e-5)


def test_the_length_looked_at_changes_nothing() -> None:
    """Places beyond a row's own are masked, whatever is in them short of NaN."""
    model = tiny_model()
    with torch.inference_mode():
        prefix = model.conditioning(Decoder(model, slots=1, positions=64).told(PROMPT))
        cache = KeyValues.empty(model.config.backbone, 1, 64, dtype=torch.float32, device=torch.device("cpu"))
        model.prefill(prefix, torch.full((1, 9), 1025), cache, 0)
        at = prefix.shape[1] + 1
        cache.keys[..., at + 1 :, :], cache.values[..., at + 1 :, :] = 1e4, 1e4
        short = model.step(torch.zeros(1, 9, dtype=torch.int64), torch.tensor([at]), cache, at + 1)
        long = model.step(torch.zeros(1, 9, dtype=torch.int64), torch.tensor([at]), cache, 64)
    torch.testing.assert_close(short, long, atol=1e-5, rtol=1e-5)


def test_guidance_equals_two_separate_runs() -> None:
    """The told and the untold row do not see each other; a scale of 1 is the told one, untouched."""
    model = tiny_model()
    column = torch.full((1, 9), 1025)
    with torch.inference_mode():
        prefix = model.conditioning(Decoder(model, slots=1, positions=64).told(PROMPT))
        rows = []
        for alone in (prefix[:1], prefix[1:]):
            cache = KeyValues.empty(model.config.backbone, 1, 64, dtype=torch.float32, device=torch.device("cpu"))
            rows.append(model.prefill(alone.expand(2, -1, -1), column, cache, 0)[0])
        cache = KeyValues.empty(model.config.backbone, 1, 64, dtype=torch.float32, device=torch.device("cpu"))
        both = model.prefill(prefix, column, cache, 0)[None]
    told, untold = rows
    torch.testing.assert_close(both[0, 0], told, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(guide(both, torch.tensor([3.0]))[0], untold + 3 * (told - untold), atol=1e-4, rtol=1e-4)
    assert torch.equal(guide(both, torch.tensor([1.0]))[0], both[0, 0])


def test_in_bf16_the_logits_stay_near() -> None:
    """Half precision differs by about a hundredth."""
    import copy

    half = copy.deepcopy(tiny_model()).to(torch.bfloat16)
    half.fuse_heads()
    logits = []
    with torch.inference_mode():
        for model in (tiny_model(), half):
            decoder = Decoder(model, slots=1, positions=64)
            prefix = model.conditioning(decoder.told(PROMPT))
            logits.append(model.prefill(prefix, torch.full((1, 9), 1025), decoder.cache, 0))
    assert float((logits[0] - logits[1]).abs().max() / logits[0].abs().max()) < 0.05


def test_the_untold_row_keeps_the_text() -> None:
    """Dropping everything but the phonemes is what the original compares with."""
    model = tiny_model()
    decoder = Decoder(model, slots=1, positions=64)
    with torch.inference_mode():
        bare = Prompt(PROMPT.phonemes, 24, fmax=None, pitch_std=None, speaking_rate=None)
        told = model.conditioning(decoder.told(PROMPT))
        untold = {"espeak": decoder.told(bare)["espeak"]}
        torch.testing.assert_close(model.prefix_conditioner(untold), told[1:])
    assert not torch.equal(told[0], told[1])


def test_a_prompt_that_does_not_fit_is_refused() -> None:
    """Rather than written over its neighbour."""
    with torch.inference_mode(), pytest.raises(ValueError, match="do not fit"):
        Decoder(tiny_model(), slots=1, positions=40).join(0, PROMPT, 20)
