"""The language model at work on all slots: prompts in, columns of codes out. Knows nothing of audio or of who listens.

The state of every slot lives on the device and moves by itself; the host reads the new columns once in several steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import torch
from torch import Tensor

from tts_provider.engines.zonos.config import CODEBOOKS, VOCABULARY
from tts_provider.engines.zonos.delay import Columns, delayed_prefix
from tts_provider.engines.zonos.graphs import StepGraphs
from tts_provider.engines.zonos.model import KeyValues, ZonosModel, guide
from tts_provider.engines.zonos.sampling import Sampling, SamplingRows, draw_noise, sample

__all__ = ["Decoder", "Noise", "Prompt", "seeded_noise"]

LENGTH_BUCKETS: Final = (512, 1024, 2048)
"""Positions that a step looks at, on a GPU: one graph each, and one for the whole cache. A step at position 600 reads 1024."""
EAGER_LENGTH_STEP: Final = 64
"""Positions by which the length grows without graphs; a little is wasted, and kernels see few different shapes."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What to say and how, in the model's own terms."""

    phonemes: Sequence[int]
    """Rows of the phoneme table, begin and end included."""
    language: int
    """Index in `languages.CODES`."""
    speaker: Sequence[float] | None = None
    """The voice, 128 numbers; None leaves it to the model."""
    emotion: Sequence[float] | None = None
    """Eight shares: happiness, sadness, disgust, fear, surprise, anger, other, neutral. Their sum is made 1."""
    fmax: float | None = 22_050.0
    """Hz."""
    pitch_std: float | None = 20.0
    """Hz."""
    speaking_rate: float | None = 15.0
    """Phonemes per second."""
    guidance: float = 2.0
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    heard: Sequence[Sequence[int]] = ()
    """Frames of nine codes that the speech shall continue; they come out again before the new ones."""

    @property
    def shaped(self) -> bool:
        return self.sampling.shapes_distribution


class Noise(Protocol):
    """Where a row's randomness comes from."""

    def fill(self, out: Tensor) -> None:
        """Write exponential noise into `out` (columns, 9, 1026)."""


class _SeededNoise:
    def __init__(self, seed: int, device: torch.device) -> None:
        self._generator = torch.Generator(device).manual_seed(seed)

    def fill(self, out: Tensor) -> None:
        draw_noise(self._generator, out)


def seeded_noise(seed: int, device: torch.device) -> Noise:
    """Noise of torch's own generator; the same seed gives the same noise on the same kind of device."""
    return _SeededNoise(seed, device)


class Decoder:
    """A loaded model with room for `slots` rows of `positions` positions."""

    def __init__(
        self,
        model: ZonosModel,
        *,
        slots: int,
        positions: int,
        noise: Callable[[int, torch.device], Noise] = seeded_noise,
    ) -> None:
        head = next(model.heads.parameters())
        self.model = model
        self.device = head.device
        self.slots = slots
        self.cache = KeyValues.empty(model.config.backbone, slots, positions, dtype=head.dtype, device=self.device)
        self.columns = Columns(slots, self.device)
        self._sampling = SamplingRows(slots, self.device)
        self._guidance = torch.ones(slots, device=self.device)
        self._make_noise = noise
        self._noises: dict[int, Noise] = {}
        self._noise_now = torch.ones(slots, CODEBOOKS, VOCABULARY, device=self.device)
        self._positions: dict[int, int] = {}  # the host's copy of `columns.position`: never asked of the device
        self._shaped: set[int] = set()
        self._graphs: StepGraphs | None = None

    @property
    def running(self) -> Sequence[int]:
        """Slots that the next step computes."""
        return sorted(self._positions)

    def warm_up(self, report: Callable[[float], None]) -> None:
        """Make ready for fast steps, on a GPU; `report` is told the share done. Nothing may be running."""
        if self.device.type == "cuda":
            self.capture(report)

    def capture(self, report: Callable[[float], None]) -> None:
        """Capture the graphs of every size, and step with them from now on."""
        graphs = StepGraphs(self._step)
        sizes = [
            (rows, length, shaped) for rows in self._row_buckets() for length in self._lengths() for shaped in (False, True)
        ]
        for index, (rows, length, shaped) in enumerate(sizes):
            graphs.capture(rows, length, shaped)
            report((index + 1) / len(sizes))
        self._graphs = graphs

    def told(self, prompt: Prompt) -> dict[str, Tensor]:
        """What the prefix conditioner reads of `prompt`, on the device."""
        told = {"espeak": torch.tensor([list(prompt.phonemes)], device=self.device)}
        numbers: dict[str, Sequence[float] | None] = {
            "speaker": prompt.speaker,
            "emotion": prompt.emotion,
            "fmax": _one(prompt.fmax),
            "pitch_std": _one(prompt.pitch_std),
            "speaking_rate": _one(prompt.speaking_rate),
            "language_id": [prompt.language],
        }
        for name, values in numbers.items():
            if values is not None:
                told[name] = torch.tensor([[list(values)]], dtype=torch.float32, device=self.device)
        if prompt.emotion is not None:
            told["emotion"] = told["emotion"] / told["emotion"].sum(-1, keepdim=True)
        return told

    def join(self, slot: int, prompt: Prompt, limit: int) -> tuple[Tensor, list[int]]:
        """Read `prompt` into `slot` and say its first column.

        Args:
            limit: frames at most, those in `Prompt.heard` included.

        Returns:
            The columns before the first one said, (n + 1, 9), on the host, and the first column.
        """
        prefix = self.model.conditioning(self.told(prompt))
        heard = torch.tensor([list(frame) for frame in prompt.heard], dtype=torch.int64).reshape(-1, CODEBOOKS).T
        before, given = delayed_prefix(heard)
        position = prefix.shape[1] + before.shape[0]
        if position + limit + CODEBOOKS > self.cache.positions:
            raise ValueError(f"{position} positions and {limit} frames do not fit into {self.cache.positions} positions")
        self.cache.clear(slot)
        self._sampling.set(slot, prompt.sampling)
        self._guidance[slot] = prompt.guidance
        noise = self._noises[slot] = self._make_noise(prompt.seed, self.device)
        logits = guide(
            self.model.prefill(prefix, before.to(self.device), self.cache, slot)[None], self._guidance[slot : slot + 1]
        )
        first_noise = torch.empty(1, CODEBOOKS, VOCABULARY, device=self.device)
        noise.fill(first_noise)
        row = self._sampling.first(1, slot)
        first = sample(logits, first_noise, row, None, shaped=prompt.shaped, eos_in_all=True)
        self.columns.start(slot, before.to(self.device), given.to(self.device), position, limit)
        self.columns.advance(first, slot)
        self._positions[slot] = position
        if prompt.shaped:
            self._shaped.add(slot)
        said: list[int] = self.columns.current[slot].tolist()
        return before, said

    def leave(self, slot: int) -> None:
        """Take `slot` out of the steps."""
        self.columns.rest(slot)
        self._positions.pop(slot, None)
        self._noises.pop(slot, None)
        self._shaped.discard(slot)

    def steps(self, count: int) -> dict[int, list[list[int]]]:
        """The next `count` columns of every running slot; one wait for the device.

        A speech that ended meanwhile repeats its last column.
        """
        running = self.running
        rows, length = running[-1] + 1, max(self._positions.values()) + count
        if self._graphs is not None:
            rows = next(bucket for bucket in self._row_buckets() if bucket >= rows)
            length = next(bucket for bucket in self._lengths() if bucket >= min(length, self.cache.positions))
        else:
            length = min(-(-length // EAGER_LENGTH_STEP) * EAGER_LENGTH_STEP, self.cache.positions)
        noise = torch.empty(len(running), count, CODEBOOKS, VOCABULARY, device=self.device)
        for index, slot in enumerate(running):
            self._noises[slot].fill(noise[index])
        rows_of = torch.tensor(running, device=self.device)
        step = self._step if self._graphs is None else self._graphs.replay
        log = []
        for index in range(count):
            self._noise_now[rows_of] = noise[:, index]
            step(rows, length, bool(self._shaped))
            log.append(self.columns.current[rows_of])
        for slot in running:
            self._positions[slot] = min(self._positions[slot] + count, self.cache.positions - 1)
        said: list[list[list[int]]] = torch.stack(log, dim=1).tolist()
        return dict(zip(running, said, strict=True))

    def _step(self, rows: int, length: int, shaped: bool) -> None:
        """One column of the first `rows` slots, on the device alone: this is what a graph holds."""
        columns = self.columns
        logits = self.model.step(columns.current[:rows], columns.position[:rows], self.cache, length)
        logits = guide(logits, self._guidance[:rows])
        settings = self._sampling.first(rows)
        columns.advance(sample(logits, self._noise_now[:rows], settings, columns.said(rows), shaped=shaped))

    def _row_buckets(self) -> Sequence[int]:
        return sorted({min(1 << power, self.slots) for power in range(self.slots.bit_length() + 1)})

    def _lengths(self) -> Sequence[int]:
        return [*(length for length in LENGTH_BUCKETS if length < self.cache.positions), self.cache.positions]


def _one(value: float | None) -> Sequence[float] | None:
    return None if value is None else [value]
