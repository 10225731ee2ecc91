"""Zonos as an `Engine`: a session is a voice and a slot, a chunk is a prompt of its own."""

from __future__ import annotations

import importlib.util
import logging
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
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
from tts_provider.engines.codec_lm import FinishReason, Scheduler, Slot
from tts_provider.engines.zonos.config import FRAME_RATE, MAX_FRAMES, MAX_PHONEMES, SAMPLE_RATE
from tts_provider.engines.zonos.embeddings import SpeakerEmbeddings
from tts_provider.engines.zonos.g2p import PhonemeWorker, find_espeak
from tts_provider.engines.zonos.japanese import JAPANESE_ADVICE, japanese_available, readings
from tts_provider.engines.zonos.languages import CODES, code_of, spoken_tag
from tts_provider.engines.zonos.options import OPTIONS, ZonosOptions, read_options
from tts_provider.engines.zonos.phonemes import PUNCTUATION, phoneme_ids
from tts_provider.engines.zonos.speakers import SpeakerFolder
from tts_provider.errors import EngineUnavailable, NoAudio, Overloaded, SynthesisFailed, UnknownSpeaker, UnsupportedLanguage

if TYPE_CHECKING:
    from tts_provider.engines.zonos.assembly import Parts
    from tts_provider.engines.zonos.decoder import Prompt

__all__ = ["DEFAULT_DAC", "DEFAULT_MODEL", "DEFAULT_SPEAKER_MODEL", "ZonosEngine", "ZonosSession", "availability"]

logger = logging.getLogger(__name__)

DEFAULT_MODEL: Final = "Zyphra/Zonos-v0.1-transformer"
DEFAULT_SPEAKER_MODEL: Final = "Zyphra/Zonos-v0.1-speaker-embedding"
DEFAULT_DAC: Final = "descript/dac_44khz"
PARALLEL_CHUNKS: Final = 2
"""Sentences of one request said side by side while slots are free: the next is ready when the first ends."""
RUNAWAY_FACTOR: Final = 3.0
RUNAWAY_SECONDS: Final = 2.0
"""A chunk may get three times as long as its phonemes promise, and two seconds: a model that does not end is ended there."""
_NEEDED: Final = ("torch", "transformers", "safetensors", "huggingface_hub", "espeakng_loader")


def availability() -> str | None:
    """None when the engine's libraries are installed, else what to do about it. Imports none of them."""
    if all(importlib.util.find_spec(name) is not None for name in _NEEDED) and find_espeak() is not None:
        return None
    return 'Zonos needs PyTorch, transformers and espeak-ng: pip install "tts-provider[zonos]"'


@dataclass(frozen=True, slots=True)
class _Running:
    """What there is while the engine runs."""

    scheduler: Scheduler[Prompt]
    worker: PhonemeWorker
    embeddings: SpeakerEmbeddings
    dictionary: trio.CapacityLimiter
    """One thread at a time for Japanese readings."""


class ZonosEngine:
    """Zyphra's Zonos v0.1, transformer variant; see `tts_provider.engines.base.Engine` for the methods."""

    def __init__(
        self,
        *,
        model: str = DEFAULT_MODEL,
        speaker_model: str = DEFAULT_SPEAKER_MODEL,
        dac: str = DEFAULT_DAC,
        speakers: Path | None = None,
        dtype: str = "auto",
        slots: int = 8,
        device: str = "auto",
        cache_dir: Path | None = None,
    ) -> None:
        """
        Args:
            model: hub id or folder of the language model.
            speaker_model: hub id or folder of the speaker encoder.
            dac: hub id or folder of the codec.
            speakers: folder of reference recordings, see `speakers`.
            dtype: of the language model, ``auto`` (bf16 on a GPU, fp32 on a CPU), ``float32`` or ``bfloat16``; the codec
                always computes in fp32.
            slots: chunks spoken at once; each costs 337 MiB of GPU memory in bf16.
            device: ``auto``, ``cpu`` or a CUDA device.
            cache_dir: where what was heard of voices is kept; None takes the user's cache folder.
        """
        self._model = model
        self._speaker_model = speaker_model
        self._dac = dac
        self._dtype = dtype
        self._device = device
        self._cache = cache_dir if cache_dir is not None else _user_cache()
        self._speakers = SpeakerFolder(speakers)
        self._running: _Running | None = None
        self._capabilities = Capabilities(
            sample_rate=SAMPLE_RATE,
            parallel_chunks=min(PARALLEL_CHUNKS, slots),
            speed=True,
            slots=slots,
            options=OPTIONS,
        )

    @property
    def name(self) -> str:
        return "zonos"

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def run(self, report: ProgressReport, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load, say so through `task_status`, and stay until cancelled.

        Raises:
            EngineUnavailable: it cannot be loaded, or the model failed; the message says what to do.
        """
        advice = availability()
        files = find_espeak()
        if advice is not None or files is None:
            raise EngineUnavailable(advice or "espeak-ng is not installed.", retryable=False)
        report(None, "importing PyTorch")
        # In a thread: the import takes seconds, and the loop serves others meanwhile.
        parts = await trio.to_thread.run_sync(self._assemble, limiter=trio.CapacityLimiter(1))
        scheduler = Scheduler(parts.slots, frames_per_step=parts.frames_per_step)
        embeddings = SpeakerEmbeddings(parts.load_encoder, _revision(self._speaker_model), self._cache)
        async with PhonemeWorker(files) as worker:
            self._running = _Running(scheduler, worker, embeddings, trio.CapacityLimiter(1))
            try:
                await scheduler.run(report, task_status=task_status)
            finally:
                self._running = None

    def voices(self) -> Sequence[Voice]:
        return [_voice(speaker) for speaker in self._speakers.files()]

    def resolve(self, request: VoiceRequest) -> VoiceChoice:
        tag, warning = spoken_tag(request.lang)
        if code_of(tag) == "ja" and not japanese_available():
            raise UnsupportedLanguage(JAPANESE_ADVICE, field="lang")
        speaker = request.speaker
        if request.voice is not None:
            known = {voice.id: voice for voice in self.voices()}
            if request.voice not in known:
                listed = ", ".join(known) or "none"
                raise UnknownSpeaker(f"Engine 'zonos' has no such voice. Voices: {listed}.", field="voice")
            speaker = int(request.voice)
        self._speakers.find(speaker)
        return VoiceChoice(_voice(speaker), tag, speaker, () if warning is None else (warning,))

    @asynccontextmanager
    async def session(
        self, choice: VoiceChoice, options: SpeechOptions, queued: QueueReport | None = None
    ) -> AsyncIterator[Session]:
        """Hear the voice if it is new, then hold a slot; see `tts_provider.engines.base.Engine.session`.

        Raises:
            InvalidRequest: an option is out of range.
            UnknownSpeaker: the recording is gone.
            SynthesisFailed: the recording is not usable.
            Overloaded: all slots are taken and the line is full.
        """
        wishes = read_options(options.extra, options.speed)
        running = self._running
        if running is None:
            raise EngineUnavailable("Engine 'zonos' is not loaded.")
        numbers = await running.embeddings.voice(self._speakers.find(int(choice.voice.id)), choice.voice.id)
        async with running.scheduler.slot(queued) as slot:
            yield ZonosSession(running, slot, numbers, code_of(choice.lang), wishes)

    def _assemble(self) -> Parts:
        from tts_provider.engines.zonos.assembly import Settings, assemble

        return assemble(
            Settings(
                self._model,
                self._speaker_model,
                self._dac,
                self._dtype,
                self._capabilities.slots or 1,
                self._device,
                self._cache,
            )
        )


class ZonosSession:
    """A voice, and a slot to speak in; a second chunk at the same time takes another slot if one is free."""

    def __init__(self, running: _Running, slot: Slot[Prompt], voice: Sequence[float], code: str, options: ZonosOptions) -> None:
        self._running = running
        self._slot = slot
        self._turn = trio.Lock()
        self._voice = voice
        self._code = code
        self._options = options
        self._seed = secrets.randbits(62) if options.seed is None else options.seed

    async def say(self, chunk: SpeechChunk, sink: Sink) -> None:
        """Speak `chunk`; one with nothing but marks is silence.

        Raises:
            NoAudio: the model ended before it began.
            SynthesisFailed: the chunk is too long, or espeak-ng or the model failed.
        """
        text = chunk.text
        if self._code == "ja":
            text = await trio.to_thread.run_sync(readings, text, limiter=self._running.dictionary)
        phonemes = await self._running.worker.phonemes(text, self._code)
        symbols = sum(symbol not in PUNCTUATION for symbol in phonemes)
        if not symbols:
            return
        from tts_provider.engines.zonos.assembly import make_prompt

        ids = phoneme_ids(phonemes)
        max_frames, ends_runaway = self._cap(symbols, len(ids), len(chunk.text))
        prompt = make_prompt(ids, CODES.index(self._code), self._voice, self._options, self._seed + chunk.index)
        silent = True
        async with self._a_slot() as slot, slot.speak(prompt, max_frames=max_frames, tokens=len(ids)) as speech:
            async for block in speech:
                silent = False
                await sink.audio(block)
        if speech.finish is FinishReason.LENGTH:
            logger.warning("A chunk of %d symbols ran on for %d frames and was ended", symbols, speech.frames)
            if not ends_runaway:
                raise SynthesisFailed(
                    f"The speech reached its limit of {max_frames / FRAME_RATE:.0f} s before its end. Send shorter sentences."
                )
        if silent:
            raise NoAudio("Zonos ended before it said anything. Try again, or with another seed.")

    def _cap(self, symbols: int, length: int, characters: int) -> tuple[int, bool]:
        """Frames at most for so many symbols, and whether only a model that does not end can need so many."""
        expected, most = symbols / self._options.speaking_rate, self._options.max_seconds
        if length > MAX_PHONEMES or expected > most:
            raise SynthesisFailed(
                f"A sentence of {characters} characters is about {expected:.0f} s of speech, and Zonos may say {most:.0f} s "
                "at a time. Send shorter sentences.",
                retryable=False,
            )
        guard = expected * RUNAWAY_FACTOR + RUNAWAY_SECONDS
        return min(round(min(guard, most) * FRAME_RATE), MAX_FRAMES), guard <= most

    @asynccontextmanager
    async def _a_slot(self) -> AsyncIterator[Slot[Prompt]]:
        """This session's slot, or a free one while that speaks, or this session's when it has spoken."""
        async with AsyncExitStack() as stack:
            slot = self._slot
            if self._turn.locked():
                try:
                    slot = await stack.enter_async_context(self._running.scheduler.slot(wait=False))
                except Overloaded:
                    await stack.enter_async_context(self._turn)
            else:
                await stack.enter_async_context(self._turn)
            yield slot


def _voice(speaker: int) -> Voice:
    return Voice(str(speaker), f"Speaker {speaker}", "en-US")


def _user_cache() -> Path:
    """The user's folder for what can be made again."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tts-provider" / "zonos"


def _revision(speaker_model: str) -> str:
    """What names the speaker encoder: its hub id, or the looks of the files in its folder."""
    folder = Path(speaker_model).expanduser()
    if not folder.is_dir():
        return speaker_model
    files = sorted(file for file in folder.iterdir() if file.suffix == ".pt")
    return repr([(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files])
