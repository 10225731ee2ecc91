"""Tiny models for the tests, and one way to let them speak."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import pytest

from tests.engines.zonos.tiny import CONFIG, NumpyNoise, weights

torch = pytest.importorskip("torch", reason="the 'zonos' extra is not installed")

from tts_provider.engines.zonos.config import read_config  # noqa: E402
from tts_provider.engines.zonos.decoder import Decoder, Prompt  # noqa: E402
from tts_provider.engines.zonos.delay import FrameReader  # noqa: E402
from tts_provider.engines.zonos.model import ZonosModel  # noqa: E402

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
