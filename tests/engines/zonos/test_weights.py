"""Checkpoints that are not whole, not Zonos, or not safe."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engines.zonos.checkpoints import (
    ENCODER_BLOCKS,
    ENCODER_PLANES,
    recording,
    small_encoder,
    write_dac,
    write_encoder,
    write_model,
)
from tests.engines.zonos.models import dac_config, tiny_model, torch
from tests.engines.zonos.tiny import CONFIG
from tts_provider.engines.zonos.config import ZonosConfig, read_config
from tts_provider.engines.zonos.hub import locate
from tts_provider.engines.zonos.speaker_encoder import ENCODER_FILES, SpeakerEncoder
from tts_provider.engines.zonos.weights import load_dac, load_model
from tts_provider.errors import EngineUnavailable

CPU = torch.device("cpu")


def silent(share: float | None, doing: str) -> None:
    """A report that nobody reads."""


def test_a_whole_checkpoint_is_loaded_as_it_is(tmp_path: Path) -> None:
    """Every tensor, in the dtype asked for, with progress."""
    shares: list[float] = []
    model = load_model(
        str(write_model(tmp_path)),
        CPU,
        torch.bfloat16,
        lambda share, doing: shares.append(share) if share is not None else None,
    )
    for name, value in tiny_model().state_dict().items():
        assert torch.equal(model.state_dict()[name], value.bfloat16()), name
    assert shares == sorted(shares)
    assert len(shares) == len(tiny_model().state_dict())


def change_tensors(change: Callable[[dict[str, torch.Tensor]], object], folder: Path) -> str:
    """A checkpoint whose tensors were changed."""
    from safetensors.torch import load_file, save_file

    write_model(folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return str(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("heads.3.weight"), r"1 tensors are missing \(heads.3.weight\)"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), r"1 tensors are not known \(extra\)"),
        (
            lambda tensors: tensors.update({"heads.3.weight": torch.zeros(1024, 64)}),
            r"another shape \(heads.3.weight \[1024, 64\] instead of \[1025, 64\]\)",
        ),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    """The error names the tensor and what is wrong with it."""
    with pytest.raises(EngineUnavailable, match=message):
        load_model(change_tensors(change, tmp_path), CPU, torch.float32, silent)


def test_damaged_and_missing_files_are_refused(tmp_path: Path) -> None:
    """A cut download, no JSON, an empty folder."""
    folder = write_model(tmp_path / "a")
    os.truncate(folder / "model.safetensors", 5000)
    with pytest.raises(EngineUnavailable, match="damaged"):
        load_model(str(folder), CPU, torch.float32, silent)
    (folder / "config.json").write_text("{")
    with pytest.raises(EngineUnavailable, match="JSON"):
        load_model(str(folder), CPU, torch.float32, silent)
    with pytest.raises(EngineUnavailable, match=r"lacks config\.json, model\.safetensors"):
        load_model(str(tmp_path), CPU, torch.float32, silent)


def edited(*path: str, value: object) -> dict[str, Any]:
    """The tiny configuration with one value changed."""
    config = copy.deepcopy(CONFIG)
    at = config
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (edited("backbone", "ssm_cfg", value={"layer": "Mamba2"}), "hybrid"),
        (edited("backbone", "attn_layer_idx", value=[0, 2]), "hybrid"),
        (edited("backbone", "rms_norm", value=True), "rms_norm"),
        (edited("backbone", "attn_cfg", "rotary_emb_interleaved", value=False), "rotary_emb_interleaved is False"),
        (edited("backbone", "attn_cfg", "rotary_emb_dim", value=8), "rotary_emb_dim"),
        (edited("backbone", "attn_cfg", "qkv_proj_bias", value=True), "qkv_proj_bias"),
        (edited("backbone", "attn_cfg", "num_heads", value=5), "do not divide"),
        (edited("backbone", "d_model", value="wide"), "d_model is 'wide'"),
        (edited("backbone", value=None), "backbone is no object"),
        (edited("eos_token_id", value=2), "eos_token_id is 2"),
        (edited("prefix_conditioner", "projection", value="mlp"), "projection is 'mlp'"),
        (edited("prefix_conditioner", "conditioners", value=[]), "the conditioners are"),
        (edited("prefix_conditioner", "conditioners", value=[{"type": "Other", "name": "x"}]), "'Other' is not known"),
        ([], "config.json is no object"),
    ],
)
def test_another_architecture_is_refused(config: object, message: str) -> None:
    """Whatever would change the arithmetic; the error names the key."""
    with pytest.raises(EngineUnavailable, match=message):
        read_config(config)


def test_keys_that_change_nothing_are_let_through() -> None:
    """The published file may carry more than is known here."""
    expected = read_config(CONFIG)
    assert isinstance(expected, ZonosConfig)
    assert read_config({**CONFIG, "pad_vocab_to_multiple_of": 8, "note": "x"}) == expected


def test_the_codec_is_loaded_without_its_encoder(tmp_path: Path) -> None:
    """Strictly, in fp32."""
    dac = load_dac(str(write_dac(tmp_path)), CPU, silent)
    assert not hasattr(dac, "encoder")
    assert next(dac.decoder.parameters()).dtype is torch.float32
    assert not any(parameter.requires_grad for parameter in dac.parameters())


def test_a_codec_that_is_not_whole_or_another_one_is_refused(tmp_path: Path) -> None:
    """A missing tensor would be left random by the library, and only be heard."""
    from safetensors.torch import load_file, save_file
    from transformers import DacModel

    folder = write_dac(tmp_path / "a")
    tensors = load_file(folder / "model.safetensors")
    del tensors["decoder.conv2.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EngineUnavailable, match=r"decoder\.conv2\.weight"):
        load_dac(str(folder), CPU, silent)
    config = dac_config()
    config.sampling_rate = 16_000
    DacModel(config).save_pretrained(tmp_path / "b")
    with pytest.raises(EngineUnavailable, match="16000 Hz"):
        load_dac(str(tmp_path / "b"), CPU, silent)


def test_the_speaker_encoder_is_kept_as_safetensors(tmp_path: Path) -> None:
    """Read from its pickles once; the copy gives the same voice, and a damaged one is made again."""
    samples = recording()
    folder, cache = write_encoder(tmp_path / "net"), tmp_path / "cache"

    def load() -> list[float]:
        encoder = SpeakerEncoder.load(str(folder), CPU, cache, blocks=ENCODER_BLOCKS, planes=ENCODER_PLANES)
        return list(encoder.embed(samples, 16_000))

    first = load()
    np.testing.assert_allclose(first, small_encoder().embed(samples, 16_000), rtol=1e-4, atol=1e-4)
    (kept,) = cache.iterdir()
    assert kept.suffix == ".safetensors"
    np.testing.assert_allclose(load(), first, rtol=1e-5, atol=1e-5)
    kept.write_bytes(b"x" * 100)
    np.testing.assert_allclose(load(), first, rtol=1e-5, atol=1e-5)
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]


class Evil:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.mkdir, (str(Evil.marker),)  # type: ignore[return-value]

    marker: Path


@pytest.mark.parametrize("kind", ["evil", "list", "numbers", "rubbish"])
def test_a_pickle_that_holds_more_than_tensors_is_refused(tmp_path: Path, kind: str) -> None:
    """And nothing in it runs."""
    Evil.marker = tmp_path / "ran"
    folder = write_encoder(tmp_path / "net")
    file = folder / ENCODER_FILES[1]
    if kind == "rubbish":
        file.write_bytes(b"rubbish")
    else:
        torch.save({"evil": Evil(), "list": [1], "numbers": {"weight": 3}}[kind], file)
    with pytest.raises(EngineUnavailable, match=r"LDA-128\.pt"):
        SpeakerEncoder.load(str(folder), CPU, tmp_path / "cache", blocks=ENCODER_BLOCKS, planes=ENCODER_PLANES)
    assert not Evil.marker.exists()


def test_an_encoder_of_another_shape_is_refused(tmp_path: Path) -> None:
    """The published shape is asked for unless told otherwise."""
    with pytest.raises(EngineUnavailable, match="do not fit"):
        SpeakerEncoder.load(str(write_encoder(tmp_path)), CPU, None)


def test_a_hub_that_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With both remedies."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EngineUnavailable, match=r"Go online once.*folder.*TTS_ZONOS_MODEL"):
        locate("nobody/nothing-here", ["config.json"], "TTS_ZONOS_MODEL", silent)
