"""Zonos as the batching loop sees it: rows of prompts in, blocks of audio out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from transformers import DacModel

from tts_provider.engines.base import ProgressReport, Samples
from tts_provider.engines.codec_lm import FinishReason, Join, Output
from tts_provider.engines.codec_lm.memory import is_out_of_memory, no_memory
from tts_provider.engines.zonos.config import CODEBOOKS, MAX_FRAMES, MAX_PHONEMES
from tts_provider.engines.zonos.dac import Push, StreamingDac
from tts_provider.engines.zonos.decoder import Decoder, Noise, Prompt, seeded_noise
from tts_provider.engines.zonos.delay import FrameReader
from tts_provider.engines.zonos.model import ZonosModel

__all__ = ["FIRST_PUSH", "POSITIONS", "ZonosSlots", "frames_per_step"]


POSITIONS: Final = -(-(MAX_PHONEMES + 16 + MAX_FRAMES + 2 * CODEBOOKS) // 8) * 8
"""Places in the cache of one slot: a prompt and the longest speech. 337 MiB a slot in bf16."""

FIRST_PUSH: Final = 14
"""Frames before the first audio. The codec holds back 4757 samples, so 14 frames give 2411, which is 55 ms: enough to begin
with, while 10 would give 8 ms."""
LATER_PUSHES: Final = (8, 16)
STEADY_PUSH: Final = 24
"""Frames in a push once the speech runs: 280 ms. Small pushes read the codec's weights more often for the same audio."""

GPU_FRAMES_PER_STEP: Final = 7
"""Frames that a GPU makes between two looks at what joins and leaves: 10 ms. The first audio needs 21, three times as many."""


def frames_per_step(device: torch.device) -> int:
    """Frames in one round of the loop: few where a frame takes long."""
    return GPU_FRAMES_PER_STEP if device.type == "cuda" else 1


@dataclass(slots=True)
class _Row:
    """A slot that speaks."""

    reader: FrameReader
    waiting: list[list[int]] = field(default_factory=list)
    """Whole frames that the codec has not had yet."""
    pushes: int = 0

    def next_push(self) -> int:
        sizes = (FIRST_PUSH, *LATER_PUSHES)
        return sizes[self.pushes] if self.pushes < len(sizes) else STEADY_PUSH


class ZonosSlots:
    """The model and its codec; see `codec_lm.SlotModel` for the methods."""

    def __init__(
        self,
        load: Callable[[ProgressReport], tuple[ZonosModel, DacModel]],
        *,
        slots: int,
        positions: int = POSITIONS,
        noise: Callable[[int, torch.device], Noise] = seeded_noise,
    ) -> None:
        """
        Args:
            load: gives the loaded nets.
            positions: places in the cache of one slot.
            noise: where a prompt's randomness comes from.
        """
        self._load = load
        self._slots = slots
        self._positions = positions
        self._noise = noise
        self._decoder: Decoder | None = None
        self._dac: StreamingDac | None = None
        self._rows: dict[int, _Row] = {}

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def dac(self) -> StreamingDac | None:
        """The codec while it is loaded; it counts what it decodes."""
        return self._dac

    @torch.inference_mode()
    def load(self, report: ProgressReport) -> None:
        model, codec = self._load(report)
        report(None, "preparing the slots")
        self._decoder = Decoder(model, slots=self._slots, positions=self._positions, noise=self._noise)
        self._dac = StreamingDac(codec, self._slots)
        self._decoder.warm_up(lambda share: report(share, "capturing graphs"))

    @torch.inference_mode()
    def step(self, joins: Sequence[Join[Prompt]], leaves: Sequence[int], frames: int) -> Sequence[Output]:
        assert self._decoder is not None
        assert self._dac is not None
        for slot in leaves:
            self._decoder.leave(slot)
            self._rows.pop(slot, None)
        outputs = [no_memory(join.slot) for join in joins if not self._try_join(join)]
        if not self._rows:
            return outputs
        before_step = {slot: row.reader.frames for slot, row in self._rows.items()}
        for slot, columns in self._decoder.steps(frames).items():
            row = self._rows[slot]
            row.waiting += [frame for column in columns if (frame := row.reader.push(column)) is not None]
        audio = self._decode()
        for slot, row in list(self._rows.items()):
            finish = None
            if row.reader.done:
                finish = FinishReason.STOP if row.reader.ended_itself else FinishReason.LENGTH
                self._decoder.leave(slot)
                del self._rows[slot]
            made = row.reader.frames - before_step[slot]
            outputs.append(Output(slot, audio[slot], made, finish))
        return outputs

    def _try_join(self, join: Join[Prompt]) -> bool:
        """Take a prompt in; False, and the slot is forgotten, when there is no memory for it."""
        assert self._decoder is not None
        assert self._dac is not None
        try:
            before, first = self._decoder.join(join.slot, join.prompt, join.max_frames)
            reader = FrameReader(before, join.max_frames)
            self._dac.reset(join.slot)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._decoder.leave(join.slot)
            return False
        self._rows[join.slot] = _Row(reader, waiting=reader.given())
        reader.push(first)
        return True

    def unload(self) -> None:
        self._decoder = self._dac = None
        self._rows.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _decode(self) -> dict[int, Samples]:
        """Audio of every row that has frames enough for its next push, or has come to its end; none for the others."""
        assert self._dac is not None
        pushes = []
        for slot, row in self._rows.items():
            size = row.next_push()
            if row.reader.done:
                pushes.append(Push(slot, row.waiting, last=True))
                row.waiting = []
            elif len(row.waiting) >= size:
                pushes.append(Push(slot, row.waiting[:size]))
                row.waiting = row.waiting[size:]
                row.pushes += 1
        audio = {slot: np.zeros(0, np.float32) for slot in self._rows}
        audio.update(zip((push.slot for push in pushes), self._dac.push(pushes), strict=True))
        return audio
