"""CSM as an `Engine`: sessions are slots, chunks are turns of one context."""

from __future__ import annotations

import importlib.util
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from tts_provider.engines.base import (
    Capabilities,
    ProgressReport,
    QueueReport,
    Session,
    Sink,
    SpeechChunk,
    SpeechOptions,
    Voice,
    VoiceChoice,
    VoiceRequest,
)
from tts_provider.engines.codec_lm import FinishReason, Scheduler, SchedulerStatistics, Slot
from tts_provider.engines.languages import canonical_tag, closest_tag, unsupported
from tts_provider.engines.sesame.ending import EndRules, frame_cap
from tts_provider.engines.sesame.options import OPTIONS, SamplingOptions, sampling_options
from tts_provider.engines.sesame.prompt import TurnPrompt, plain
from tts_provider.engines.sesame.voices import LANGUAGE, SAMPLE_RATE, SPEAKERS, SesameVoice, find_voices
from tts_provider.errors import EngineUnavailable, NoAudio, SynthesisFailed, UnknownSpeaker

if TYPE_CHECKING:
    from tts_provider.engines.sesame.core import SesameModel

__all__ = ["DEFAULT_MODEL", "SAMPLE_RATE", "SesameEngine", "SesameSession", "availability"]

logger = logging.getLogger(__name__)

DEFAULT_MODEL: Final = "sesame/csm-1b"
FIXED_SEED: Final = 20250313
"""Seed of a voice without a recording, plus its label: any number, but always the same one."""
MIN_ROOM: Final = 25
"""Frames (2 s) that must be left for a sentence beside its text; with less it is refused."""
_NEEDED: Final = ("torch", "transformers", "tokenizers", "huggingface_hub")


def availability() -> str | None:
    """None when the engine's libraries are installed, else what to do about it. Imports none of them."""
    if all(importlib.util.find_spec(name) is not None for name in _NEEDED):
        return None
    return 'Sesame CSM needs PyTorch and transformers: pip install "tts-provider[sesame]"'


class SesameEngine:
    """Sesame's CSM-1B; see `tts_provider.engines.base.Engine` for the methods."""

    def __init__(
        self,
        *,
        model: str = DEFAULT_MODEL,
        dtype: str = "auto",
        temperature: float = 0.9,
        top_k: int = 50,
        slots: int = 8,
        voices: Path | None = None,
        device: str = "auto",
        rules: EndRules | None = None,
    ) -> None:
        """
        Args:
            model: hub id, or a folder with the checkpoint.
            dtype: of the language model, ``auto`` (bf16 on a GPU, fp32 on a CPU), ``float32`` or ``bfloat16``; the codec
                always computes in fp32.
            temperature: 0 always takes the likeliest code.
            top_k: codes to choose from, 1 to 256.
            slots: requests spoken at once; each costs 64 MiB of GPU memory.
            voices: folder of recordings and transcripts, see `voices`.
            device: ``auto``, ``cpu`` or a CUDA device.
            rules: when a sentence that does not end is ended.

        Raises:
            InvalidRequest: temperature or top_k is out of range.
        """
        self._model = model
        self._dtype = dtype
        self._device = device
        self._slots = slots
        self._folder = voices
        self._rules = rules
        self._defaults = sampling_options(
            {"temperature": temperature, "top_k": top_k}, SamplingOptions(temperature=0.9, top_k=50)
        )
        self._voices: dict[str, SesameVoice] = {}
        self._running: tuple[Scheduler[TurnPrompt], SesameModel] | None = None
        self._capabilities = Capabilities(sample_rate=SAMPLE_RATE, slots=slots, options=OPTIONS)

    @property
    def name(self) -> str:
        return "sesame"

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def run(self, report: ProgressReport, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load, say so through `task_status`, and stay until cancelled.

        Raises:
            EngineUnavailable: it cannot be loaded, or the model failed; the message says what to do.
        """
        advice = availability()
        if advice is not None:
            raise EngineUnavailable(advice)
        report(None, "importing PyTorch")
        # In a thread: the import takes seconds, and the loop serves others meanwhile.
        limiter = trio.CapacityLimiter(1)
        build = await trio.to_thread.run_sync(_import_core, limiter=limiter)
        self._voices = await trio.to_thread.run_sync(find_voices, self._folder, limiter=limiter)
        model = build(
            model=self._model,
            dtype=self._dtype,
            device=self._device,
            slots=self._slots,
            voices=list(self._voices.values()),
            rules=self._rules,
        )
        scheduler = Scheduler(model)
        self._running = scheduler, model
        try:
            await scheduler.run(report, task_status=task_status)
        finally:
            self._running = None

    def voices(self) -> Sequence[Voice]:
        return [voice.voice for voice in self._voices.values()]

    def resolve(self, request: VoiceRequest) -> VoiceChoice:
        tag = canonical_tag(request.lang)
        if closest_tag(tag, [LANGUAGE]) is None:
            raise unsupported(tag, self.name, [LANGUAGE])
        name = request.voice if request.voice is not None else SPEAKERS.get(request.speaker)
        if name is None:
            raise UnknownSpeaker(
                f"Engine 'sesame' has no speaker {request.speaker}. Speakers: {min(SPEAKERS)} to {max(SPEAKERS)}.",
                field="speaker",
            )
        voice = self._voices.get(name)
        if voice is None:
            raise UnknownSpeaker(f"Engine 'sesame' has no such voice. Voices: {', '.join(self._voices)}.", field="voice")
        warnings: tuple[str, ...] = ()
        if not voice.prompted:
            warnings = (
                f"CSM has no recording for the voice '{name}': a fixed seed keeps it as stable as it can, but its timbre may "
                "change with the text. The server's owner can add one with TTS_SESAME_VOICES.",
            )
        return VoiceChoice(voice.voice, LANGUAGE, request.speaker, warnings)

    def statistics(self) -> SchedulerStatistics | None:
        """What the slots do now, for metrics; None when not loaded."""
        return self._running[0].statistics() if self._running is not None else None

    @asynccontextmanager
    async def session(
        self, choice: VoiceChoice, options: SpeechOptions, queued: QueueReport | None = None
    ) -> AsyncIterator[Session]:
        """Hold a slot; see `tts_provider.engines.base.Engine.session`.

        Raises:
            Overloaded: all slots are taken and the line is full.
            InvalidRequest: an option is out of range.
        """
        sampling = sampling_options(options.extra, self._defaults)
        if self._running is None:
            raise EngineUnavailable("Engine 'sesame' is not loaded.")
        scheduler, model = self._running
        voice = self._voices[choice.voice.id]
        async with scheduler.slot(queued) as slot:
            yield SesameSession(slot, model, voice, replace(sampling, seed=_seed(voice, sampling.seed)))


class SesameSession:
    """A slot that goes on from sentence to sentence."""

    def __init__(self, slot: Slot[TurnPrompt], model: SesameModel, voice: SesameVoice, sampling: SamplingOptions) -> None:
        self._slot = slot
        self._model = model
        self._voice = voice
        self._sampling = sampling
        self.finish_reason: FinishReason | None = None
        """Why the last chunk ended; None before and while it is spoken. Anything but `STOP` is a runaway that was cut."""

    async def say(self, chunk: SpeechChunk, sink: Sink) -> None:
        """Speak `chunk` as the context's next turn.

        Raises:
            NoAudio: the model ended before it began.
            SynthesisFailed: the chunk is too long for the model's context, or the model failed.
        """
        self.finish_reason = None
        text = plain(chunk.text)
        if not text:
            return
        prompt = self._prompt(text)
        room = self._model.room(self._voice.voice.id) - len(prompt.ids)
        if room < MIN_ROOM:
            raise SynthesisFailed(
                f"A sentence of {len(text)} characters is too long for CSM's context. Send shorter sentences.", retryable=False
            )
        max_frames = min(frame_cap(len(text)), room)
        async with self._slot.speak(prompt, max_frames=max_frames, tokens=len(prompt.ids)) as speech:
            silent = True
            async for block in speech:
                silent = False
                await sink.audio(block)
        self.finish_reason = speech.finish
        if speech.finish is not FinishReason.STOP:
            logger.warning("A sentence of %d characters ran on for %d frames: %s", len(text), speech.frames, speech.finish)
        if silent:
            raise NoAudio("CSM ended before it said anything. Try again, or with another seed.")

    def _prompt(self, text: str) -> TurnPrompt:
        sampling = self._sampling
        assert sampling.seed is not None
        return TurnPrompt(
            ids=self._model.tokens.turn(self._voice.label, text),
            characters=len(text),
            voice=self._voice.voice.id,
            seed=sampling.seed,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
        )


def _seed(voice: SesameVoice, asked: int | None) -> int:
    if asked is not None:
        return asked
    # A recording makes the voice; then another try may as well come out better.
    return secrets.randbits(62) if voice.prompted else FIXED_SEED + voice.label


def _import_core() -> type[SesameModel]:
    from tts_provider.engines.sesame.core import SesameModel

    return SesameModel
