"""Tiny checkpoints in folders, in the published layout, and recordings of voices."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import soundfile

from tests.engines.zonos.models import tiny_dac, tiny_model, torch
from tests.engines.zonos.tiny import CONFIG
from tts_provider.engines.base import Samples
from tts_provider.engines.zonos.speaker_encoder import ENCODER_FILES, SpeakerEncoder
from tts_provider.engines.zonos.speaker_net import SpeakerNet

from safetensors.torch import save_file  # isort: skip

ENCODER_BLOCKS = (1, 1, 1, 1)
ENCODER_PLANES = 4


def write_model(folder: Path, eos_gain: float = 1.0) -> Path:
    """The tiny language model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    tensors = {name: value.clone().contiguous() for name, value in tiny_model(1, eos_gain).state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


def write_dac(folder: Path) -> Path:
    """The tiny codec."""
    tiny_dac().save_pretrained(folder)
    return folder


def speaker_state(seed: int = 4) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights of a small speaker net and of the map behind it, the latter in fp64 as published."""
    random = np.random.RandomState(seed)
    net: dict[str, torch.Tensor] = {}
    for name, value in sorted(SpeakerNet(ENCODER_BLOCKS, ENCODER_PLANES).state_dict().items()):
        if "num_batches" in name:
            net[name] = value
            continue
        normal = random.standard_normal(tuple(value.shape))
        if "running_var" in name:
            normal = np.abs(normal) * 0.5 + 0.5
        elif value.dim() > 1:
            normal = normal / np.sqrt(np.prod(value.shape[1:]))
        net[name] = torch.from_numpy(normal.astype(np.float32))
    weight, bias = random.standard_normal((128, 256)) / 16, random.standard_normal(128)
    return net, {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}


def write_encoder(folder: Path) -> Path:
    """A small speaker encoder in the published files."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, state in zip(ENCODER_FILES, speaker_state(), strict=True):
        torch.save(state, folder / file)
    return folder


class SmallEncoder(SpeakerEncoder):
    """The encoder with the small net's shape, in place of the published one."""

    @classmethod
    def load(  # type: ignore[override] # the shape is the small one's
        cls, model: str, device: torch.device, folder: Path | None
    ) -> SpeakerEncoder:
        return SpeakerEncoder.load(model, device, folder, blocks=ENCODER_BLOCKS, planes=ENCODER_PLANES)


def recording(seconds: float = 2.0, rate: int = 16_000, seed: int = 1) -> Samples:
    """Something like a voice: a few gliding tones and some noise."""
    random = np.random.RandomState(seed)
    time = np.arange(round(seconds * rate)) / rate
    tones = sum(np.sin(2 * np.pi * (110 + 30 * seed) * k * time + np.sin(3 * time)) / k for k in range(1, 6))
    samples: Samples = (0.1 * (tones + 0.1 * random.standard_normal(len(time)))).astype(np.float32)
    return samples


def write_recording(path: Path, seconds: float = 2.0, rate: int = 16_000, seed: int = 1) -> Path:
    """A WAV of `recording`."""
    soundfile.write(path, recording(seconds, rate, seed), rate)
    return path


def small_encoder() -> SpeakerEncoder:
    """The small encoder, loaded without files."""
    encoder = SpeakerEncoder(ENCODER_BLOCKS, ENCODER_PLANES).eval().requires_grad_(False)
    net, linear = copy.deepcopy(speaker_state())
    encoder.net.load_state_dict(net)
    encoder.map.load_state_dict({name: value.float() for name, value in linear.items()})
    return encoder
