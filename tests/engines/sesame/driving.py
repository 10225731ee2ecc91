"""Drive a `SesameModel` step by step without a scheduler, and collect what each slot says."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from tts_provider.engines.base import Samples
from tts_provider.engines.codec_lm import FinishReason, Join
from tts_provider.engines.sesame.core import SesameModel
from tts_provider.engines.sesame.ending import EndRules
from tts_provider.engines.sesame.prompt import TurnPrompt
from tts_provider.engines.sesame.voices import find_voices

__all__ = ["RAW", "Driver", "loaded"]

RAW = EndRules(silent_frames=None, repeated_frames=None)
"""Only the model's own end and the cap: random weights loop and fall silent as they like."""


@functools.cache
def loaded(checkpoint: Path, *, slots: int = 1, voices: Path | None = None, rules: EndRules = RAW) -> SesameModel:
    """A model on the CPU in fp32, ready to step. The same for the same arguments: loading takes most of a test's time."""
    model = SesameModel(
        model=str(checkpoint),
        dtype="float32",
        device="cpu",
        slots=slots,
        voices=list(find_voices(voices).values()),
        rules=rules,
    )
    model.load(lambda share, doing: None)
    return model


class Driver:
    """Joins, leaves and steps; begins by making everybody leave."""

    def __init__(self, model: SesameModel) -> None:
        model.step([], list(range(model.slots)), 1)
        self.model = model
        self.audio: dict[int, list[Samples]] = {}
        self.codes: dict[int, list[list[int]]] = {}
        """Slot → the frames of its last sentence."""
        self.finish: dict[int, FinishReason | None] = {}
        self._joins: list[Join[TurnPrompt]] = []
        self._leaves: list[int] = []

    def join(
        self,
        slot: int,
        text: str,
        frames: int,
        *,
        fresh: bool = True,
        seed: int = 0,
        temperature: float = 0.0,
        top_k: int = 20,
        voice: str = "",
        label: int = 0,
    ) -> None:
        """Let `slot` say `text` from the next step on, greedily unless told otherwise."""
        ids = self.model.tokens.turn(label, text)
        prompt = TurnPrompt(ids, len(text), voice, seed, temperature, top_k)
        self._joins.append(Join(slot, prompt, frames, fresh))
        self.audio[slot] = []
        self.finish[slot] = None

    def leave(self, slot: int) -> None:
        """Cut `slot` off before the next step."""
        self._leaves.append(slot)
        self.finish.pop(slot, None)

    def step(self, steps: int = 1, frames: int = 1) -> None:
        """Make `steps` calls of `frames` frames each."""
        for _ in range(steps):
            for output in self.model.step(self._joins, self._leaves, frames):
                self.audio[output.slot].append(output.audio)
                self.finish[output.slot] = output.finish
                self.codes[output.slot] = self.model.frames_of(output.slot)
            self._joins, self._leaves = [], []

    def run(self, frames: int = 1) -> None:
        """Step until nobody speaks."""
        self.step(frames=frames)
        while any(finish is None for finish in self.finish.values()):
            self.step(frames=frames)

    def sound(self, slot: int) -> Samples:
        """All audio of the slot's last sentence."""
        return np.concatenate(self.audio[slot])
