"""CSM in slots: the `SlotModel` that the scheduler steps, and all that knows both rows and sentences.

A slot's context grows with its request: ``[voice prompt][sentence 1][its frames][zero frame][sentence 2]...``. It goes on in
place, because decoding a codec's audio and encoding it again does not give the codes back; and it is rebuilt from the stored
codes (voice prompt and the last sentences) when it runs out of room, has become long, or ends in a runaway's junk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from tts_provider.engines.base import ProgressReport, Samples
from tts_provider.engines.codec_lm import FinishReason, Join, Output
from tts_provider.engines.codec_lm.device import choose_device, choose_dtype
from tts_provider.engines.codec_lm.memory import is_out_of_memory, no_memory
from tts_provider.engines.sesame.ending import Codes, Ending, EndRules
from tts_provider.engines.sesame.frame import FrameModel
from tts_provider.engines.sesame.hub import locate
from tts_provider.engines.sesame.mimi import MimiStream
from tts_provider.engines.sesame.prompt import Tokens, TurnPrompt
from tts_provider.engines.sesame.runner import EagerRunner, GraphRunner, Runner
from tts_provider.engines.sesame.voices import SAMPLE_RATE, SesameVoice
from tts_provider.engines.sesame.weights import CsmWeights, LibraryModule, load_weights
from tts_provider.errors import EngineUnavailable

__all__ = ["CONTEXT_TURNS", "KEPT_TURNS", "SesameModel"]

CONTEXT_TURNS: Final = 8
"""Sentences kept in place before the context is rebuilt; contexts of 20 turns were reported to make long pauses."""
KEPT_TURNS: Final = 2
"""Sentences that a rebuilt context keeps: enough for pace and pitch."""
MAX_PROMPT_SHARE: Final = 0.5
"""Of the positions, for a voice prompt."""


@dataclass(frozen=True, slots=True)
class _Prefix:
    """A voice prompt as keys and values, copied into a slot instead of computed for it."""

    cache: Tensor
    """(layers, 2, key-value heads, positions, head size)"""

    @property
    def length(self) -> int:
        return int(self.cache.shape[3])


@dataclass(slots=True)
class _Turn:
    """A sentence that was spoken: what a rebuilt context needs of it."""

    ids: tuple[int, ...]
    frames: list[Codes]


@dataclass(slots=True)
class _Row:
    """A slot in use."""

    prefix: int
    """Length of its voice prompt."""
    generator: torch.Generator
    position: int
    """Positions that hold context."""
    turns: list[_Turn] = field(default_factory=list)
    ending: Ending | None = None
    """Of the sentence being spoken; None between two."""
    ids: tuple[int, ...] = ()
    spoken: Sequence[Codes] = ()
    """Frames of the sentence being spoken, or of the last one."""
    rebuild: bool = False
    """Whether the context holds frames that should not be there."""


class SesameModel:
    """A `SlotModel` for `TurnPrompt`."""

    def __init__(
        self,
        *,
        model: str,
        dtype: str,
        device: str,
        slots: int,
        voices: Sequence[SesameVoice],
        rules: EndRules | None = None,
        graphs: bool = True,
    ) -> None:
        """
        Args:
            model: hub id or folder.
            dtype, device: as in `SesameEngine`.
            slots: rows.
            voices: those whose prompts are prepared when loading.
            rules: when speech has ended; the defaults if None.
            graphs: False never captures CUDA graphs, for comparing with them.
        """
        self._source = model
        self._dtype = dtype
        self._device = device
        self._slots = slots
        self._voices = voices
        self._rules = rules if rules is not None else EndRules()
        self._graphs = graphs
        self._rows: dict[int, _Row] = {}
        self._prefixes: dict[str, _Prefix] = {}
        self._loaded: _Loaded | None = None

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def tokens(self) -> Tokens:
        """The tokenizer; only while loaded."""
        return self._parts.tokens

    @property
    def sample_rate(self) -> int:
        """Hz; only while loaded."""
        return self._parts.sample_rate

    def room(self, voice: str) -> int:
        """Positions that a sentence of `voice` may take, text and frames; only while loaded."""
        prefix = self._prefixes.get(voice)
        return self._parts.frames.positions - (prefix.length if prefix else 0) - 1

    def load(self, report: ProgressReport) -> None:
        folder = locate(self._source, report)
        device = choose_device(self._device)
        report(None, "loading the model")
        weights = load_weights(folder, device, choose_dtype(self._dtype, device))
        with torch.inference_mode():
            self._prepare(folder, weights, report)

    def unload(self) -> None:
        on_gpu = self._loaded is not None and self.on_gpu
        self._loaded = None
        self._rows.clear()
        self._prefixes.clear()
        if on_gpu:
            torch.cuda.empty_cache()

    def step(self, joins: Sequence[Join[TurnPrompt]], leaves: Sequence[int], frames: int) -> Sequence[Output]:
        with torch.inference_mode():
            for slot in leaves:
                self._leave(slot)
            refused = [no_memory(join.slot) for join in joins if not self._try_join(join)]
            made: dict[int, list[Output]] = {}
            for _ in range(frames):
                for output in self._frame():
                    made.setdefault(output.slot, []).append(output)
            return [*(_merge(outputs) for outputs in made.values()), *refused]

    def frames_of(self, slot: int) -> list[list[int]]:
        """The codes of what `slot` is saying or has said last, for checks."""
        return [frame.tolist() for frame in self._rows[slot].spoken]

    def decode_at_once(self, codes: Sequence[Sequence[int]]) -> Samples:
        """The audio of frames of codes, by the library's own decoder, for checks."""
        parts = self._parts
        with torch.inference_mode():
            whole = torch.tensor(codes, dtype=torch.int64, device=parts.frames.device).T[None]
            audio: Samples = parts.codec.decode(whole).audio_values[0, 0].cpu().numpy()
        return audio

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU; only while loaded."""
        return bool(self._parts.frames.device.type == "cuda")

    @property
    def parameters(self) -> int:
        """How many the checkpoint has; only while loaded."""
        return self._parts.parameters

    @property
    def _parts(self) -> _Loaded:
        assert self._loaded is not None, "only while loaded"
        return self._loaded

    def _prepare(self, folder: Path, weights: CsmWeights, report: ProgressReport) -> None:
        if weights.sample_rate != SAMPLE_RATE:
            raise EngineUnavailable(f"The checkpoint's codec speaks at {weights.sample_rate} Hz, not at {SAMPLE_RATE}.")
        frames = FrameModel(weights, self._slots)
        mimi = MimiStream(weights.codec, self._slots)
        runner: Runner
        if frames.device.type == "cuda" and self._graphs:
            runner = GraphRunner(frames, mimi, report)
        else:
            runner = EagerRunner(frames, mimi)
        self._loaded = _Loaded(frames, mimi, runner, weights.codec, Tokens(folder), weights.sample_rate, weights.parameters)
        prompted = [voice for voice in self._voices if voice.prompted]
        for number, voice in enumerate(prompted):
            report(number / len(prompted), f"preparing the voice {voice.voice.id}")
            audio = torch.from_numpy(voice.read(weights.sample_rate)).to(frames.device)
            codes = weights.codec.encode(audio[None, None]).audio_codes[0].T  # (frames, codebooks)
            self._prefixes[voice.voice.id] = self._prefix(voice, codes)
        frames.at.zero_()  # the prompts were made in the first row

    def _prefix(self, voice: SesameVoice, codes: Tensor) -> _Prefix:
        parts = self._parts
        ids = parts.tokens.turn(voice.label, voice.transcript or "")
        embeddings = parts.turn(ids, codes)
        length = embeddings.shape[0]
        if length > MAX_PROMPT_SHARE * parts.frames.positions:
            raise EngineUnavailable(f"The prompt of the voice '{voice.voice.id}' is too long; use a shorter recording.")
        parts.frames.prefill(0, 0, embeddings)
        return _Prefix(parts.frames.cache[:, :, 0, :, :length].clone())

    def _leave(self, slot: int) -> None:
        self._rows.pop(slot, None)
        frames = self._parts.frames
        frames.at[slot] = 0
        frames.moving[slot] = 0

    def _try_join(self, join: Join[TurnPrompt]) -> bool:
        """Take a prompt in; False, and the slot is forgotten, when there is no memory for it."""
        try:
            self._join(join)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._leave(join.slot)
            return False
        return True

    def _join(self, join: Join[TurnPrompt]) -> None:
        prompt, slot, parts = join.prompt, join.slot, self._parts
        if join.fresh:
            self._rows[slot] = self._start(slot, prompt)
        row = self._rows[slot]
        parts.frames.sampler.set_row(slot, prompt.temperature, prompt.top_k)
        # +1: a frame that ends the speech is written too.
        needed = row.position + len(prompt.ids) + join.max_frames + 1
        if row.rebuild or len(row.turns) >= CONTEXT_TURNS or needed > parts.frames.positions:
            self._rebuild(slot, row, room=parts.frames.positions - len(prompt.ids) - join.max_frames - 1)
        parts.frames.prefill(slot, row.position, parts.frames.embed_text(prompt.ids))
        row.position += len(prompt.ids)
        parts.frames.moving[slot] = 1
        parts.mimi.reset(slot)
        row.ids = prompt.ids
        row.ending = Ending(self._rules, prompt.characters, min(join.max_frames, parts.frames.positions - row.position - 1))
        row.spoken = row.ending.frames

    def _start(self, slot: int, prompt: TurnPrompt) -> _Row:
        parts = self._parts
        prefix = self._prefixes.get(prompt.voice)
        if prefix is not None:
            parts.frames.cache[:, :, slot, :, : prefix.length] = prefix.cache
        generator = torch.Generator(parts.frames.device).manual_seed(prompt.seed)
        length = prefix.length if prefix is not None else 0
        return _Row(prefix=length, generator=generator, position=length)

    def _rebuild(self, slot: int, row: _Row, room: int) -> None:
        """Start the context anew after its voice prompt: with the last sentences, as many as there is room for."""
        parts = self._parts
        row.turns = row.turns[-KEPT_TURNS:]
        while row.turns and row.prefix + sum(len(turn.ids) + len(turn.frames) + 1 for turn in row.turns) > room:
            del row.turns[0]
        row.position = row.prefix
        row.rebuild = False
        if row.turns:
            kept = torch.cat([parts.turn(turn.ids, parts.codes(turn.frames)) for turn in row.turns])
            parts.frames.prefill(slot, row.position, kept)
            row.position += kept.shape[0]

    def _frame(self) -> Sequence[Output]:
        """One frame of every row that speaks."""
        running = {slot: row for slot, row in self._rows.items() if row.ending is not None}
        if not running:
            return []
        parts = self._parts
        for slot, row in running.items():
            parts.frames.sampler.draw(slot, row.generator)
        rows = max(running) + 1
        codes, audio = parts.runner.step(rows, length=max(row.position for row in running.values()) + 1)
        codes_here: Codes = codes[:rows].cpu().numpy()
        audio_here: Samples = audio[:rows].cpu().numpy()
        return [self._told(slot, row, codes_here[slot].copy(), audio_here[slot]) for slot, row in running.items()]

    def _told(self, slot: int, row: _Row, codes: Codes, audio: Samples) -> Output:
        assert row.ending is not None
        row.position += 1
        ready, finish = row.ending.push(codes, audio)
        if finish is not None:
            self._parts.frames.moving[slot] = 0
            row.rebuild = finish is not FinishReason.STOP  # then there is no zero frame either
            if finish is not FinishReason.LENGTH:  # what ran to the cap is no example to follow
                row.turns.append(_Turn(row.ids, row.ending.frames))
            row.ending = None
        samples = np.concatenate(ready) if ready else np.zeros(0, dtype=np.float32)
        return Output(slot, samples, 1, finish)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What there is only while loaded."""

    frames: FrameModel
    mimi: MimiStream
    runner: Runner
    codec: LibraryModule
    tokens: Tokens
    sample_rate: int
    parameters: int

    @property
    def zero_frame(self) -> Tensor:
        """(1, hidden): what ends a turn's audio."""
        return self.frames.embed_frames(torch.zeros(1, self.frames.codebooks, dtype=torch.int64, device=self.frames.device))

    def codes(self, frames: Sequence[Codes]) -> Tensor:
        """(length, codebooks) on the device."""
        shape = (len(frames), self.frames.codebooks)
        return torch.from_numpy(np.array(frames, dtype=np.int64).reshape(shape)).to(self.frames.device)

    def turn(self, ids: Sequence[int], codes: Tensor) -> Tensor:
        """The embeddings of a whole turn: text, frames, zero frame."""
        return torch.cat([self.frames.embed_text(ids), self.frames.embed_frames(codes), self.zero_frame])


def _merge(outputs: Sequence[Output]) -> Output:
    """One output for a slot's frames of one step."""
    if len(outputs) == 1:
        return outputs[0]
    audio = np.concatenate([output.audio for output in outputs])
    return Output(outputs[0].slot, audio, sum(output.frames for output in outputs), outputs[-1].finish)
