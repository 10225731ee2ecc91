"""Tiny models for the tests, and one way to let them speak."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.engines.zonos.tiny import CONFIG, NumpyNoise, weights

pytest.importorskip("torch", reason="the 'zonos' extra is not installed")
pytest.importorskip("transformers", reason="the 'zonos' extra is not installed")

import torch
from transformers import DacConfig, DacModel

from tts_provider.engines.zonos.config import read_config
from tts_provider.engines.zonos.decoder import Decoder, Prompt
from tts_provider.engines.zonos.delay import FrameReader
from tts_provider.engines.zonos.model import ZonosModel

torch.set_num_threads(1)  # tiny matrices: a second thread only costs, and the tests share their machine

__all__ = [
    "ScriptedNoise",
    "dac_config",
    "scripted",
    "speak",
    "tiny_dac",
    "tiny_dac_double",
    "tiny_model",
    "torch",
]

if TYPE_CHECKING:
    from torch import Tensor

    from tts_provider.engines.zonos.decoder import Noise


@cache
def tiny_model(seed: int = 1, eos_gain: float = 1.0) -> ZonosModel:
    """The tiny model, fp32, on the CPU."""
    model = ZonosModel(read_config(CONFIG)).eval().requires_grad_(False)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights(shapes, seed, eos_gain).items()})
    model.fuse_heads()
    return model


class ScriptedNoise:
    """Numpy's noise for a row of the decoder."""

    def __init__(self, seed: int, eos_at: int | None = None) -> None:
        self._noise = NumpyNoise(seed, eos_at)

    def fill(self, out: Tensor) -> None:
        for column in out:
            column.copy_(torch.from_numpy(self._noise.column()))


def scripted(eos_at: int | None = None) -> Callable[[int, torch.device], Noise]:
    """A source of numpy's noise for `Decoder`."""
    return lambda seed, device: ScriptedNoise(seed, eos_at)


def speak(decoder: Decoder, prompt: Prompt, limit: int, *, slot: int = 0, hop: int = 1) -> list[list[int]]:
    """All frames that `prompt` becomes on a decoder of which no other slot runs."""
    with torch.inference_mode():
        before, first = decoder.join(slot, prompt, limit)
        reader = FrameReader(before, limit)
        frames = reader.given()
        columns = [first]
        while True:
            frames += [frame for column in columns if (frame := reader.push(column)) is not None]
            if reader.done:
                break
            columns = decoder.steps(hop)[slot]
        decoder.leave(slot)
    return frames


def dac_config() -> DacConfig:
    """The published codec's shape, with few channels."""
    return DacConfig(
        encoder_hidden_size=2,
        downsampling_ratios=[2, 4, 8, 8],
        decoder_hidden_size=32,
        n_codebooks=9,
        codebook_size=1024,
        codebook_dim=8,
        sampling_rate=44_100,
    )


@cache
def tiny_dac(seed: int = 2) -> DacModel:
    """The tiny codec, fp32, on the CPU, with weights that numpy makes."""
    dac = DacModel(dac_config())
    torch.nn.Module.train(dac, False)
    dac.requires_grad_(False)
    random = np.random.RandomState(seed)
    state = {}
    for name, value in sorted(dac.state_dict().items()):
        normal = random.standard_normal(tuple(value.shape)).astype(np.float32)
        if name.endswith("alpha"):
            normal = 1.0 + 0.1 * normal
        elif "codebook" not in name:
            normal *= 0.6 / np.sqrt(np.prod(value.shape[1:]) if value.dim() > 1 else 100.0)
        state[name] = torch.from_numpy(normal.astype(np.float32))
    dac.load_state_dict(state)
    return dac


@cache
def tiny_dac_double() -> DacModel:
    """The tiny codec in fp64, in which equal means equal."""
    dac = copy.deepcopy(tiny_dac())
    torch.nn.Module.double(dac)
    return dac
