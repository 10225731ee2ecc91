"""The engine as the core sees it: sessions, voices, errors; on the tiny checkpoint."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing

torch = pytest.importorskip("torch", reason="needs the sesame extra")
pytest.importorskip("transformers", reason="needs the sesame extra")

from tests.engines.sesame import tiny  # noqa: E402
from tests.engines.sesame.conftest import ENDING_FRAMES, ENDING_TEXT  # noqa: E402
from tests.engines.sesame.driving import RAW, Driver, loaded  # noqa: E402
from tts_provider.engines import sesame as sesame_package  # noqa: E402
from tts_provider.engines.base import (  # noqa: E402
    Engine,
    Samples,
    SpeechChunk,
    SpeechOptions,
    VoiceChoice,
    VoiceRequest,
    WordMark,
)
from tts_provider.engines.codec_lm import FinishReason, SchedulerStatistics  # noqa: E402
from tts_provider.engines.sesame import SesameEngine, SesameSession  # noqa: E402
from tts_provider.engines.sesame.ending import frame_cap  # noqa: E402
from tts_provider.engines.sesame.voices import find_voices  # noqa: E402
from tts_provider.errors import (  # noqa: E402
    EngineUnavailable,
    InvalidRequest,
    NoAudio,
    SynthesisFailed,
    UnknownSpeaker,
    UnsupportedLanguage,
)


@dataclass
class Collected:
    """A sink that keeps what it gets; with `gate` it takes a block only when allowed."""

    blocks: list[Samples] = field(default_factory=list)
    gate: trio.Semaphore | None = None
    arrived: trio.Event = field(default_factory=trio.Event)
    _changed: trio.Event = field(default_factory=trio.Event)

    async def audio(self, samples: Samples) -> None:
        self.arrived.set()
        if self.gate is not None:
            await self.gate.acquire()
        self.blocks.append(samples)
        self._changed.set()

    async def until(self, blocks: int) -> None:
        """Wait until it has taken so many blocks."""
        while len(self.blocks) < blocks:
            self._changed = trio.Event()
            await self._changed.wait()

    async def encoded(self, data: bytes, seconds: float) -> None:
        raise AssertionError("CSM makes no encoded audio")

    async def words(self, marks: Sequence[WordMark]) -> None:
        raise AssertionError("CSM knows no word timings")

    def sound(self) -> Samples:
        return np.concatenate(self.blocks)


@asynccontextmanager
async def running(checkpoint: Path, **settings: Any) -> AsyncIterator[SesameEngine]:
    """A loaded engine, greedy and in fp32 unless told otherwise, unloaded afterwards."""
    engine = SesameEngine(**{"model": str(checkpoint), "temperature": 0, "device": "cpu", "rules": RAW, **settings})
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run, lambda share, doing: None)
            yield engine
            nursery.cancel_scope.cancel()


def choice(engine: SesameEngine, speaker: int = 0) -> VoiceChoice:
    return engine.resolve(VoiceRequest(speaker=speaker))


def stats(engine: SesameEngine) -> SchedulerStatistics:
    found = engine.statistics()
    assert found is not None
    return found


async def spoken(engine: SesameEngine, *texts: str, sink: Collected | None = None, **extra: object) -> Collected:
    """All sentences of one request, in one session."""
    sink = sink or Collected()
    async with engine.session(choice(engine), SpeechOptions(extra=extra)) as session:
        for index, text in enumerate(texts):
            await session.say(SpeechChunk(text, index=index), sink)
    return sink


def expected(checkpoint: Path, *texts: str) -> list[Samples]:
    """What each of `texts` sounds like as a request of its own."""
    driver = Driver(loaded(checkpoint, slots=5))
    for slot, text in enumerate(texts):
        driver.join(slot, text, frame_cap(len(text)))
    driver.run()
    return [driver.sound(slot) for slot in range(len(texts))]


def same(heard: Samples, wanted: Samples) -> bool:
    return heard.shape == wanted.shape and bool(np.abs(heard - wanted).max() <= 1e-5 * np.abs(wanted).max())


async def test_six_requests_over_four_slots_with_one_cancelled_and_one_slow_reader_all_sound_right(checkpoint: Path) -> None:
    texts = ["A.", "Be.", "See.", "Dee.", "Eee.", "F."]
    sinks = [Collected() for _ in texts]
    sinks[1].gate = trio.Semaphore(0)
    positions: list[int] = []

    async def request(engine: SesameEngine, number: int, scope: trio.CancelScope) -> None:
        with scope:
            options = SpeechOptions()
            async with engine.session(choice(engine), options, positions.append) as session:
                await session.say(SpeechChunk(texts[number]), sinks[number])

    async with running(checkpoint, slots=4) as engine:
        scopes = [trio.CancelScope() for _ in texts]
        async with trio.open_nursery() as requests:
            for number, scope in enumerate(scopes):
                requests.start_soon(request, engine, number, scope)
            await sinks[2].arrived.wait()
            scopes[2].cancel()
            for number in (0, 3, 4, 5):  # all but the slow reader are done before it reads anything
                await sinks[number].until(frame_cap(len(texts[number])))
            assert sinks[1].blocks == []
            for _ in range(frame_cap(len(texts[1]))):
                sinks[1].gate.release()
        assert stats(engine).held == 0
    assert sorted(set(positions)) == [1, 2]
    assert len(sinks[2].blocks) < frame_cap(len(texts[2]))
    heard = (0, 1, 3, 4, 5)
    for number, wanted in zip(heard, expected(checkpoint, *(texts[number] for number in heard)), strict=True):
        assert same(sinks[number].sound(), wanted)


async def test_the_first_audio_comes_after_one_frame(checkpoint: Path) -> None:
    sink = Collected(gate=trio.Semaphore(0))
    async with running(checkpoint) as engine, trio.open_nursery() as nursery:

        async def say() -> None:
            await spoken(engine, "First.", sink=sink)

        nursery.start_soon(say)
        await sink.arrived.wait()
        assert stats(engine).frames < 4
        nursery.cancel_scope.cancel()


async def test_cancelling_say_stops_the_work_and_the_session_speaks_again(checkpoint: Path) -> None:
    async with running(checkpoint, slots=1) as engine:
        async with engine.session(choice(engine), SpeechOptions()) as session:
            cut = Collected(gate=trio.Semaphore(2))
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    async def cancel() -> None:
                        await cut.until(2)
                        scope.cancel()

                    nursery.start_soon(cancel)
                    await session.say(SpeechChunk("This is cut off very early, long before its end."), cut)
            assert stats(engine).running == 0
            again = Collected()
            await session.say(SpeechChunk("Anew."), again)
        assert same(again.sound(), expected(checkpoint, "Anew.")[0])


@pytest.mark.parametrize("phase", ["waiting", "prefill", "streaming", "between"])
async def test_a_client_that_goes_away_at_any_phase_leaves_all_slots_free(checkpoint: Path, phase: str) -> None:
    async with running(checkpoint, slots=1) as engine:
        sink = Collected()

        async def request(*, task_status: trio.TaskStatus[None]) -> None:
            if phase == "waiting":
                task_status.started()
            async with engine.session(choice(engine), SpeechOptions()) as session:
                if phase == "prefill":
                    task_status.started()
                if phase == "streaming":
                    sink.gate = trio.Semaphore(1)
                    task_status.started()
                await session.say(SpeechChunk("A." if phase == "between" else "Going, going, gone."), sink)
                task_status.started()
                await trio.sleep_forever()

        holder = trio.CancelScope()

        async def hold(*, task_status: trio.TaskStatus[None]) -> None:
            with holder:
                async with engine.session(choice(engine), SpeechOptions()):
                    task_status.started()
                    await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            if phase == "waiting":
                await nursery.start(hold)
            async with trio.open_nursery() as requests:
                await requests.start(request)
                if phase == "streaming":
                    await sink.arrived.wait()
                elif phase != "prefill":
                    await trio.testing.wait_all_tasks_blocked()
                requests.cancel_scope.cancel()
            holder.cancel()
        assert stats(engine).held == 0
        assert (await spoken(engine, "A.")).blocks


async def test_sentences_of_one_request_share_one_context(ending: Path) -> None:
    async with running(ending) as engine:
        together = await spoken(engine, ENDING_TEXT, "And more.")
        apart = await spoken(engine, "And more.")
    both, second = together.sound(), apart.sound()
    assert len(both) == (ENDING_FRAMES + frame_cap(9)) * 1920
    assert len(second) == frame_cap(9) * 1920
    assert np.abs(both[-len(second) :] - second).max() > 0.01, "the second sentence hears the first"


async def test_the_session_tells_why_a_chunk_ended(ending: Path, caplog: pytest.LogCaptureFixture) -> None:
    reasons = []
    async with running(ending) as engine, engine.session(choice(engine), SpeechOptions()) as session:
        assert isinstance(session, SesameSession)
        for text in (ENDING_TEXT, "No end."):
            assert "ran on" not in caplog.text
            await session.say(SpeechChunk(text), Collected())
            reasons.append(session.finish_reason)
    assert reasons == [FinishReason.STOP, FinishReason.LENGTH]
    assert "ran on" in caplog.text


async def test_text_with_nothing_to_say_makes_no_audio(checkpoint: Path) -> None:
    async with running(checkpoint) as engine:
        assert (await spoken(engine, " ... ", "?!")).blocks == []


async def test_a_model_that_ends_before_it_begins_is_an_error(ending: Path, tmp_path: Path) -> None:
    mute = tiny.end_at_once(ending, tmp_path / "mute")
    async with running(mute) as engine:
        with pytest.raises(NoAudio):
            await spoken(engine, "Anything.")


async def test_a_sentence_longer_than_the_context_is_refused(tmp_path: Path) -> None:
    narrow = tiny.build(tmp_path / "narrow", positions=64)
    async with running(narrow) as engine:
        with pytest.raises(SynthesisFailed, match="too long"):
            await spoken(engine, "word " * 12)


async def test_without_a_recording_a_fixed_seed_keeps_the_voice_and_a_warning_says_so(checkpoint: Path) -> None:
    async with running(checkpoint, temperature=0.9) as engine:
        male = choice(engine, 0)
        assert "no recording" in male.warnings[0]
        first, second = [(await spoken(engine, "Hi.")).sound() for _ in range(2)]
        other = (await spoken(engine, "Hi.", seed=99)).sound()
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


async def test_a_recording_makes_the_voice(checkpoint: Path, voices_folder: tuple[Path, np.ndarray[Any, Any]]) -> None:
    async with running(checkpoint) as bare:
        without = (await spoken(bare, "Hi.")).sound()
    async with running(checkpoint, voices=voices_folder[0]) as engine:
        assert choice(engine, 0).warnings == ()
        assert choice(engine, 1).warnings != ()
        assert not np.array_equal((await spoken(engine, "Hi.")).sound(), without)


async def test_speakers_are_the_male_and_the_female_voice_in_turn(checkpoint: Path) -> None:
    async with running(checkpoint) as engine:
        assert [choice(engine, speaker).voice.id for speaker in range(4)] == ["male", "female", "male", "female"]
        assert [(voice.id, voice.language, voice.gender) for voice in engine.voices()] == [
            ("male", "en-US", "male"),
            ("female", "en-US", "female"),
        ]
        assert engine.resolve(VoiceRequest(voice="female", speaker=0)).voice.id == "female"
        with pytest.raises(UnknownSpeaker, match="Speakers: 0 to 3"):
            engine.resolve(VoiceRequest(speaker=4))
        with pytest.raises(UnknownSpeaker, match="male, female"):
            engine.resolve(VoiceRequest(voice="nobody"))


async def test_american_english_is_spoken(checkpoint: Path) -> None:
    async with running(checkpoint) as engine:
        for tag in ("en-US", "en", "english", "EN_us"):
            assert engine.resolve(VoiceRequest(lang=tag)).lang == "en-US"


@pytest.mark.parametrize("tag", ["en-GB", "de-DE", "ja"])
async def test_any_other_language_is_refused(checkpoint: Path, tag: str) -> None:
    with pytest.raises(UnsupportedLanguage, match="Supported languages: en-US"):
        SesameEngine(model=str(checkpoint)).resolve(VoiceRequest(lang=tag))


@pytest.mark.parametrize(
    "extra",
    [{"temperature": -1}, {"temperature": True}, {"top_k": 0}, {"top_k": 1.5}, {"seed": -1}, {"seed": "x"}],
)
async def test_a_bad_option_is_refused_when_the_session_opens(checkpoint: Path, extra: dict[str, object]) -> None:
    voice = find_voices(None)["male"].voice
    with pytest.raises(InvalidRequest) as refused:
        async with SesameEngine(model=str(checkpoint)).session(VoiceChoice(voice, "en-US"), SpeechOptions(extra=extra)):
            pass
    assert refused.value.field == next(iter(extra))


@pytest.mark.parametrize("setting", [{"temperature": 3.0}, {"top_k": 0}])
def test_a_bad_setting_is_refused_at_once(setting: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        SesameEngine(**setting)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "int3"}, "no dtype 'int3'"),
        ({"device": "cuda:77"}, "device"),
        ({"voices": Path("/nowhere")}, "TTS_SESAME_VOICES"),
    ],
)
async def test_a_setting_that_cannot_be_is_told_when_loading(checkpoint: Path, settings: dict[str, Any], message: str) -> None:
    engine = SesameEngine(model=str(checkpoint), **{"device": "cpu", **settings})
    with pytest.raises(EngineUnavailable, match=message):
        await engine.run(lambda share, doing: None)


async def test_unloading_while_somebody_speaks_is_an_error_for_them_and_loading_again_works(checkpoint: Path) -> None:
    engine = SesameEngine(model=str(checkpoint), temperature=0, device="cpu", rules=RAW)

    async def say(sink: Collected) -> None:
        with pytest.raises(EngineUnavailable):
            await spoken(engine, "Cut by the unloading, as it takes long.", sink=sink)

    for _ in range(2):
        gate = trio.Semaphore(1)
        sink = Collected(gate=gate)
        async with trio.open_nursery() as requests:
            async with trio.open_nursery() as nursery:
                await nursery.start(engine.run, lambda share, doing: None)
                requests.start_soon(say, sink)
                await sink.arrived.wait()
                nursery.cancel_scope.cancel()
            for _ in range(frame_cap(50)):
                gate.release()
    with pytest.raises(EngineUnavailable, match="not loaded"):
        async with engine.session(choice(engine), SpeechOptions()):
            pass


async def test_loading_tells_what_it_does(checkpoint: Path) -> None:
    doing: list[str] = []
    engine = SesameEngine(model=str(checkpoint), device="cpu")
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run, lambda share, what: doing.append(what))
        nursery.cancel_scope.cancel()
    assert "loading the model" in doing


def test_capabilities_are_known_before_loading() -> None:
    engine: Engine = SesameEngine(slots=3)
    assert (engine.name, engine.capabilities.sample_rate, engine.capabilities.slots) == ("sesame", 24000, 3)


def test_importing_the_engine_imports_nothing_heavy() -> None:
    code = (
        "import sys, tts_provider.engines.sesame as s; assert s.availability() is None;"
        "bad = {'torch', 'transformers', 'huggingface_hub', 'tokenizers', 'soundfile'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_library_is_told_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert 'pip install "tts-provider[sesame]"' in str(sesame_package.availability())
