"""Puts the heavy parts of the engine together; importing it imports torch, so the engine does so when it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import DacModel

from tts_provider.engines.base import ProgressReport
from tts_provider.engines.codec_lm.device import choose_device, choose_dtype
from tts_provider.engines.zonos.decoder import Prompt
from tts_provider.engines.zonos.embeddings import Encoder
from tts_provider.engines.zonos.model import ZonosModel
from tts_provider.engines.zonos.options import ZonosOptions
from tts_provider.engines.zonos.sampling import Sampling
from tts_provider.engines.zonos.slots import ZonosSlots, frames_per_step
from tts_provider.engines.zonos.speaker_encoder import SpeakerEncoder
from tts_provider.engines.zonos.weights import load_dac, load_model

__all__ = ["Parts", "Settings", "assemble", "make_prompt"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the engine was told."""

    model: str
    speaker_model: str
    dac: str
    dtype: str
    slots: int
    device: str
    cache: Path | None


@dataclass(frozen=True, slots=True)
class Parts:
    """What the engine runs on; nothing of it is loaded yet."""

    slots: ZonosSlots
    frames_per_step: int
    load_encoder: Callable[[], Encoder]


def assemble(settings: Settings) -> Parts:
    """The parts for `settings`.

    Raises:
        EngineUnavailable: there is no such device or dtype.
    """
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)

    def load(report: ProgressReport) -> tuple[ZonosModel, DacModel]:
        model = load_model(settings.model, device, dtype, report)
        return model, load_dac(settings.dac, device, report)

    def load_encoder() -> Encoder:
        return SpeakerEncoder.load(settings.speaker_model, device, settings.cache)

    return Parts(ZonosSlots(load, slots=settings.slots), frames_per_step(device), load_encoder)


def make_prompt(ids: Sequence[int], language: int, voice: Sequence[float], options: ZonosOptions, seed: int) -> Prompt:
    """The prompt for phoneme `ids` in row `language`, spoken by `voice` as `options` ask."""
    settings = dict(options.sampling or {})
    renamed = {"conf": "confidence", "quad": "quadratic"}
    known = {field.name for field in dataclasses.fields(Sampling)}
    changed = {renamed.get(name, name): value for name, value in settings.items()}
    assert changed.keys() <= known
    sampling = dataclasses.replace(Sampling(), **changed)  # type: ignore[arg-type] # top_k was read as an integer
    return Prompt(
        phonemes=ids,
        language=language,
        speaker=voice,
        emotion=options.emotion,
        fmax=options.fmax,
        pitch_std=options.pitch_std,
        speaking_rate=options.speaking_rate,
        guidance=options.cfg_scale,
        sampling=sampling,
        seed=seed % (1 << 63),
    )
