"""The engine on tiny checkpoints, through its public contract."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import trio
import trio.testing

from tests.engines.zonos.checkpoints import SmallEncoder, write_dac, write_encoder, write_model, write_recording
from tests.engines.zonos.models import speak, tiny_dac, tiny_model, torch
from tts_provider.engines.base import Samples, SpeechChunk, SpeechOptions, VoiceRequest, WordMark
from tts_provider.engines.zonos import ZonosEngine, assembly, availability
from tts_provider.engines.zonos import engine as engine_module
from tts_provider.engines.zonos.assembly import make_prompt
from tts_provider.engines.zonos.config import FRAME_RATE
from tts_provider.engines.zonos.decoder import Decoder
from tts_provider.engines.zonos.g2p import PhonemeWorker, find_espeak
from tts_provider.engines.zonos.languages import CODES
from tts_provider.engines.zonos.options import read_options
from tts_provider.engines.zonos.phonemes import phoneme_ids
from tts_provider.errors import (
    EngineUnavailable,
    InvalidRequest,
    Overloaded,
    SynthesisFailed,
    UnknownSpeaker,
    UnsupportedLanguage,
)

pytestmark = pytest.mark.skipif(availability() is not None, reason="the 'zonos' extra is not installed")

EOS_GAIN = 2.0
DEADLINE = 120.0
"""s; far above what a loaded machine needs."""


class Heard:
    """A sink that keeps what it gets, and may wait before it takes more."""

    def __init__(self, *, stuck_after: int | None = None) -> None:
        self.blocks: list[Samples] = []
        self.got = trio.Event()
        self.released = trio.Event()
        self._stuck_after = stuck_after

    async def audio(self, samples: Samples) -> None:
        self.blocks.append(samples)
        self.got.set()
        if self._stuck_after is not None and len(self.blocks) > self._stuck_after:
            await self.released.wait()
        await trio.lowlevel.checkpoint()

    async def encoded(self, data: bytes, seconds: float) -> None:
        raise AssertionError("nobody asked for encoded audio")

    async def words(self, marks: Sequence[WordMark]) -> None:
        raise AssertionError("the engine gives no word marks")

    @property
    def samples(self) -> Samples:
        return np.concatenate(self.blocks) if self.blocks else np.zeros(0, np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints and two voices."""
    base = tmp_path_factory.mktemp("zonos")
    write_model(base / "model", EOS_GAIN)
    write_model(base / "endless")
    write_dac(base / "dac")
    write_encoder(base / "encoder")
    (base / "voices").mkdir()
    write_recording(base / "voices" / "0.wav", seed=1)
    write_recording(base / "voices" / "speaker_3.wav", seed=2, rate=24_000)
    return base


@pytest.fixture(autouse=True)
def small_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published speaker net has 99 million parameters; the tests' has a few thousand."""
    monkeypatch.setattr(assembly, "SpeakerEncoder", SmallEncoder)


def build(files: Path, *, slots: int = 2, model: str = "model") -> ZonosEngine:
    """An engine on the tiny checkpoints."""
    return ZonosEngine(
        model=str(files / model),
        speaker_model=str(files / "encoder"),
        dac=str(files / "dac"),
        speakers=files / "voices",
        slots=slots,
        device="cpu",
        cache_dir=files / "cache",
    )


@asynccontextmanager
async def running(engine: ZonosEngine) -> AsyncIterator[trio.CancelScope]:
    """The engine loaded; gives the scope that unloads it."""
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run, lambda share, doing: None)
            yield nursery.cancel_scope
            nursery.cancel_scope.cancel()


async def say(engine: ZonosEngine, text: str, sink: Heard, *, speaker: int = 0, lang: str = "en-US", **extra: object) -> None:
    """One chunk in a session of its own."""
    choice = engine.resolve(VoiceRequest(lang=lang, speaker=speaker))
    async with engine.session(choice, SpeechOptions(extra=extra)) as session:
        await session.say(SpeechChunk(text), sink)


async def expected(engine: ZonosEngine, files: Path, text: str, *, seed: int, code: str = "en-us") -> Samples:
    """The same, without slots, streaming or batching: all frames first, then transformers' decoding of the clip."""
    espeak = find_espeak()
    assert espeak is not None
    async with PhonemeWorker(espeak) as worker:
        ids = phoneme_ids(await worker.phonemes(text, code))
    encoder = SmallEncoder.load(str(files / "encoder"), torch.device("cpu"), None)
    from tts_provider.engines.zonos.speakers import decode

    recording = await decode((files / "voices" / "0.wav").read_bytes(), "0")
    prompt = make_prompt(ids, CODES.index(code), encoder.embed(recording.samples, recording.rate), read_options({}), seed)
    frames = speak(Decoder(tiny_model(1, EOS_GAIN), slots=1, positions=512), prompt, 300)
    with torch.inference_mode():
        audio: Samples = tiny_dac().decode(audio_codes=torch.tensor(frames).T[None]).audio_values[0].numpy()
    return audio


def close(actual: Samples, wanted: Samples) -> None:
    """Equal but for rounding."""
    assert actual.shape == wanted.shape
    np.testing.assert_allclose(actual, wanted, atol=2e-5)


async def test_streamed_audio_is_the_whole_clips(files: Path) -> None:
    """The blocks of one chunk, put together, are the clip decoded at once from the same codes."""
    engine = build(files)
    async with running(engine):
        sink = Heard()
        await say(engine, "Hello there, world.", sink, seed=6)
        assert engine.capabilities.sample_rate == 44_100
        assert sink.samples.dtype == np.float32
        close(sink.samples, await expected(engine, files, "Hello there, world.", seed=6))


async def test_requests_together_say_what_each_says_alone(files: Path) -> None:
    """Six requests over two slots, one of them read slowly, and a seventh that is cancelled in the middle."""
    texts = [f"Number {word} of six." for word in ("one", "two", "three", "four", "five", "six")]
    engine = build(files)
    async with running(engine):
        alone = [Heard() for _ in texts]
        for index, sink in enumerate(alone):
            await say(engine, texts[index], sink, seed=index)
        together = [Heard(stuck_after=0 if index == 1 else None) for index in range(len(texts))]

        async def one(index: int) -> None:
            await say(engine, texts[index], together[index], seed=index)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, 1)
            await together[1].got.wait()
            async with trio.open_nursery() as cancelled:
                cut = Heard()
                cancelled.start_soon(lambda: say(engine, "This one is not heard to its end.", cut, seed=9))
                await cut.got.wait()
                cancelled.cancel_scope.cancel()
            for index in (0, 2, 3, 4, 5):
                nursery.start_soon(one, index)
            await together[2].got.wait()
            together[1].released.set()
        for actual, wanted in zip(together, alone, strict=True):
            close(actual.samples, wanted.samples)


async def test_a_slow_listener_holds_up_nobody(files: Path) -> None:
    """While one never takes its second block, the others are served."""
    engine = build(files, slots=2, model="endless")
    async with running(engine):
        stuck = Heard(stuck_after=0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: say(engine, "Hello.", stuck, seed=1))
            await stuck.got.wait()
            for seed in range(2):
                sink = Heard()
                await say(engine, "Hi.", sink, seed=seed)
                assert sink.samples.size
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("blocks", [0, 1, 3])
async def test_cancelling_frees_the_slot_at_once(files: Path, blocks: int) -> None:
    """Before the first audio, after it and in the middle: the only slot serves the next request, which is untouched."""
    engine = build(files, slots=1, model="endless")
    async with running(engine):
        first = Heard()
        await say(engine, "Hi.", first, seed=4)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                sink = Heard(stuck_after=blocks)
                nursery.start_soon(lambda: say(engine, "Hello there.", sink, seed=1))
                if blocks:
                    while len(sink.blocks) < blocks:
                        await trio.lowlevel.checkpoint()
                else:
                    await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        again = Heard()
        await say(engine, "Hi.", again, seed=4)
        np.testing.assert_array_equal(first.samples, again.samples)


async def test_two_chunks_of_one_request_are_said_side_by_side(files: Path) -> None:
    """The second chunk begins while the first goes on, when a slot is free; both are what they are one after the other."""
    engine = build(files, slots=2)
    chunks = [SpeechChunk("Hello there, world.", 0, 0), SpeechChunk("And a second sentence.", 20, 1)]
    async with running(engine):
        choice = engine.resolve(VoiceRequest())
        one_by_one, together = [Heard(), Heard()], [Heard(stuck_after=0), Heard()]
        async with engine.session(choice, SpeechOptions(extra={"seed": 3})) as session:
            for chunk, sink in zip(chunks, one_by_one, strict=True):
                await session.say(chunk, sink)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(session.say, chunks[0], together[0])
                await together[0].got.wait()
                await session.say(chunks[1], together[1])
                together[0].released.set()
        for actual, wanted in zip(together, one_by_one, strict=True):
            np.testing.assert_array_equal(actual.samples, wanted.samples)


async def test_two_chunks_share_the_only_slot_in_turn(files: Path) -> None:
    """Without a free slot, the second chunk waits for the first."""
    engine = build(files, slots=1)
    async with running(engine):
        sinks = [Heard(), Heard()]
        async with engine.session(engine.resolve(VoiceRequest()), SpeechOptions()) as session, trio.open_nursery() as nursery:
            for index, sink in enumerate(sinks):
                nursery.start_soon(session.say, SpeechChunk("Hi there.", 0, index), sink)
        assert all(sink.samples.size for sink in sinks)


async def test_unloading_ends_what_is_being_said_with_an_error(files: Path) -> None:
    """Shutting down with a slot in use: the speaker is told, the engine is gone, no session opens."""
    engine = build(files, slots=1, model="endless")
    errors: list[Exception] = []

    async def listener() -> None:
        try:
            await say(engine, "Hello there.", Heard(), seed=1)
        except EngineUnavailable as error:
            errors.append(error)

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as outer, running(engine):
            choice = engine.resolve(VoiceRequest())
            outer.start_soon(listener)
            await trio.testing.wait_all_tasks_blocked()
    assert len(errors) == 1
    with pytest.raises(EngineUnavailable, match="not loaded"):
        async with engine.session(choice, SpeechOptions()):
            pass


async def test_a_voice_is_heard_once(files: Path, tmp_path: Path) -> None:
    """The second session, a second engine with the same cache, and ten sessions at once cost no pass through the net."""
    loads = 0

    class Counted(SmallEncoder):
        @classmethod
        def load(cls, model: str, device: torch.device, folder: Path | None) -> SmallEncoder:  # type: ignore[override]
            nonlocal loads
            loads += 1
            return SmallEncoder.load(model, device, folder)  # type: ignore[return-value]

    for turn in range(2):
        engine = ZonosEngine(
            model=str(files / "model"),
            speaker_model=str(files / "encoder"),
            dac=str(files / "dac"),
            speakers=files / "voices",
            slots=2,
            device="cpu",
            cache_dir=tmp_path,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(assembly, "SpeakerEncoder", Counted)
            async with running(engine), trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(lambda e=engine: say(e, "Hi.", Heard(), speaker=3))  # type: ignore[misc]
        assert loads == 1, turn


async def test_speakers_and_voices_are_those_of_the_folder(files: Path) -> None:
    """Ids 0 and 3; others are refused with the list."""
    engine = build(files)
    assert [voice.id for voice in engine.voices()] == ["0", "3"]
    assert engine.resolve(VoiceRequest(voice="3")).speaker == 3
    with pytest.raises(UnknownSpeaker, match="Speakers: 0, 3"):
        engine.resolve(VoiceRequest(speaker=1))
    with pytest.raises(UnknownSpeaker, match="Voices: 0, 3"):
        engine.resolve(VoiceRequest(voice="../3"))


async def test_languages_are_resolved_or_refused(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """British English and French work, a neighbour's accent is told, and what is not spoken is refused."""
    engine = build(files)
    assert engine.resolve(VoiceRequest(lang="en_gb")).lang == "en-GB"
    assert engine.resolve(VoiceRequest(lang="fr")).lang == "fr"
    assert "'fr-FR' is spoken instead" in engine.resolve(VoiceRequest(lang="fr-CA")).warnings[0]
    with pytest.raises(UnsupportedLanguage, match="Supported languages: "):
        engine.resolve(VoiceRequest(lang="uk-UA"))
    monkeypatch.setattr(engine_module, "japanese_available", lambda: False)
    with pytest.raises(UnsupportedLanguage, match=r"tts-provider\[ja\]"):
        engine.resolve(VoiceRequest(lang="ja-JP"))


async def test_another_language_is_another_voice_of_espeak(files: Path) -> None:
    """German is spoken with German phonemes."""
    engine = build(files)
    async with running(engine):
        sink = Heard()
        await say(engine, "Guten Tag.", sink, lang="de-AT", seed=5)
        close(sink.samples, await expected(engine, files, "Guten Tag.", seed=5, code="de"))


async def test_marks_alone_are_silence(files: Path) -> None:
    """A chunk with nothing to say ends at once, without audio."""
    engine = build(files)
    async with running(engine):
        for text in ("...", "?!", " ", "—"):
            sink = Heard()
            await say(engine, text, sink)
            assert not sink.blocks


async def test_a_chunk_beyond_the_models_reach_is_refused(files: Path) -> None:
    """More than 30 s of speech in one chunk, or more than the request allows."""
    engine = build(files)
    async with running(engine):
        with pytest.raises(SynthesisFailed, match="Send shorter sentences"):
            await say(engine, "Many words follow here. " * 40, Heard())
        with pytest.raises(SynthesisFailed, match="may say 1 s"):
            await say(engine, "This takes longer than one second to say.", Heard(), max_seconds=1)


async def test_a_speech_cut_by_the_requests_limit_is_an_error(files: Path) -> None:
    """Audio that ended early is no success."""
    engine = build(files, model="endless")
    async with running(engine):
        sink = Heard()
        with pytest.raises(SynthesisFailed, match="its limit of 1 s"):
            await say(engine, "Hello there you.", sink, max_seconds=1.0, seed=2)
        assert sink.samples.size == round(FRAME_RATE) * 512


async def test_bad_options_open_no_session(files: Path) -> None:
    """They are checked before a slot is taken."""
    engine = build(files)
    async with running(engine):
        with pytest.raises(InvalidRequest):
            await say(engine, "Hi.", Heard(), pitch=3)
        with pytest.raises(InvalidRequest):
            await say(engine, "Hi.", Heard(), fmax=-1)


async def test_a_full_line_is_refused(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More requests than slots and places in line."""
    engine = build(files, slots=1, model="endless")
    async with running(engine):
        choice = engine.resolve(VoiceRequest())
        positions: list[int] = []
        async with engine.session(choice, SpeechOptions()), trio.open_nursery() as nursery:

            async def wait() -> None:
                async with engine.session(choice, SpeechOptions(), positions.append):
                    pass

            for _ in range(32):
                nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(Overloaded):
                await wait()
            nursery.cancel_scope.cancel()
    assert positions[:32] == list(range(1, 33))


async def test_a_hybrid_checkpoint_is_refused(files: Path, tmp_path: Path) -> None:
    """The message names the one to use."""
    import json

    write_model(tmp_path / "hybrid")
    config = json.loads((tmp_path / "hybrid" / "config.json").read_text())
    config["backbone"]["ssm_cfg"] = {"layer": "Mamba2"}
    (tmp_path / "hybrid" / "config.json").write_text(json.dumps(config))
    engine = ZonosEngine(model=str(tmp_path / "hybrid"), dac=str(files / "dac"), device="cpu")
    with pytest.raises(EngineUnavailable, match=r"Zonos-v0\.1-transformer"):
        await engine.run(lambda share, doing: None)


@pytest.mark.parametrize("option", [{"device": "abacus"}, {"dtype": "int4"}, {"model": "/nowhere"}, {"dac": "nowhere"}])
async def test_a_wrong_setting_is_told_at_load(files: Path, option: dict[str, str]) -> None:
    """Device, dtype, and names that are neither folder nor hub id."""
    settings = {"model": str(files / "model"), "dac": str(files / "dac"), "device": "cpu", **option}
    with pytest.raises(EngineUnavailable):
        await ZonosEngine(**settings).run(lambda share, doing: None)  # type: ignore[arg-type]


def test_importing_the_engine_imports_nothing_heavy() -> None:
    """Neither torch nor transformers, nor what the original needs; the language list and availability work without."""
    program = (
        "import sys\n"
        "from tts_provider.engines.zonos import ZonosEngine, availability\n"
        "ZonosEngine(); availability()\n"
        "heavy = {'torch', 'transformers', 'torchaudio', 'zonos', 'phonemizer', 'sudachipy', 'espeakng_loader', 'soundfile'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_missing_libraries_are_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence holds the command that mends it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    advice = availability()
    assert advice is not None
    assert 'pip install "tts-provider[zonos]"' in advice
    assert "\n" not in advice
