"""What the engine makes of a text."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import trio

from tests.engines.espeak.listening import SAMPLE_RATE, SENTENCE, Listener, loaded, say, workers
from tts_provider.engines.base import Samples, SpeechChunk, SpeechOptions, VoiceRequest
from tts_provider.engines.espeak import EspeakEngine
from tts_provider.errors import EngineUnavailable, InvalidRequest, NoAudio, UnknownSpeaker, UnsupportedLanguage

VARIANTS = (
    "m1",
    "m2",
    "m3",
    "m4",
    "m5",
    "m6",
    "m7",
    "m8",
    "f1",
    "f2",
    "f3",
    "f4",
    "f5",
    "croak",
    "klatt",
    "whisper",
    "Mr serious",
)


def pitch(samples: Samples) -> float:
    """Median fundamental frequency in Hz, by autocorrelation of 54 ms windows."""
    shortest, longest = SAMPLE_RATE // 400, SAMPLE_RATE // 60
    found = []
    for window in samples[: len(samples) // 1200 * 1200].reshape(-1, 1200).astype(np.float64):
        correlation = np.fft.irfft(np.abs(np.fft.rfft(window, 4096)) ** 2)[: longest + 1]
        lag = shortest + int(correlation[shortest:].argmax())
        if correlation[0] > 0.1 and correlation[lag] > 0.4 * correlation[0]:
            found.append(SAMPLE_RATE / lag)
    return float(np.median(found))


async def test_a_sentence_becomes_speech_of_sane_length_and_level(engine: EspeakEngine) -> None:
    heard = await say(engine)
    level = float(np.sqrt(np.mean(heard.samples**2)))
    assert all(block.dtype == np.float32 and block.ndim == 1 for block in heard.blocks)
    assert 3.0 < heard.seconds < 4.5
    assert 0.05 < level < 0.2
    assert np.abs(heard.samples).max() <= 1.0
    assert abs(heard.samples.mean()) < 0.01
    assert np.abs(np.diff(heard.samples)).max() < 0.5  # no clicks, no wrong byte order


async def test_a_long_text_comes_in_blocks(engine: EspeakEngine) -> None:
    heard = await say(engine, SENTENCE * 4)
    assert max(len(block) for block in heard.blocks) / SAMPLE_RATE < 2 < 12 < heard.seconds


async def test_the_first_text_of_a_worker_always_sounds_the_same() -> None:
    """Later texts differ by some samples, which the library leaves to chance."""
    takes = []
    for _ in range(2):
        async with loaded(EspeakEngine()) as engine:
            takes.append((await say(engine)).samples)
    np.testing.assert_array_equal(takes[0], takes[1])


async def test_sessions_run_side_by_side_without_mixing(engine: EspeakEngine) -> None:
    listeners = [Listener() for _ in range(6)]
    texts = [SENTENCE, "Yes.", SENTENCE * 2, "One two three.", "No.", SENTENCE]
    alone = [(await say(engine, text)).seconds for text in texts]
    async with trio.open_nursery() as nursery:
        for text, listener in zip(texts, listeners, strict=True):
            nursery.start_soon(say, engine, text, None, None, listener)
    assert [listener.seconds for listener in listeners] == pytest.approx(alone, abs=0.05)


async def test_a_session_speaks_chunk_after_chunk(engine: EspeakEngine) -> None:
    heard = Listener()
    async with engine.session(engine.resolve(VoiceRequest()), SpeechOptions()) as session:
        await session.say(SpeechChunk("Yes."), heard)
        once = heard.seconds
        await session.say(SpeechChunk("Yes.", start=5, index=1), heard)
    assert heard.seconds == pytest.approx(2 * once, abs=0.05)


async def test_a_slow_listener_does_not_hold_the_worker(engine: EspeakEngine) -> None:
    slow = Listener(gate=trio.Event())
    assert slow.gate is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(say, engine, SENTENCE * 3, None, None, slow)
        await slow.reached.wait()
        heard = await say(engine)
        assert heard.seconds > 3
        assert slow.blocks == []
        slow.gate.set()
    assert slow.seconds > 9


async def test_a_cancelled_chunk_frees_the_worker_and_harms_nobody(engine: EspeakEngine) -> None:
    before = workers()
    leaver = Listener(gate=trio.Event())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(say, engine, SENTENCE * 3, None, None, leaver)
        await leaver.reached.wait()
        nursery.cancel_scope.cancel()
    assert leaver.blocks == []
    assert (await say(engine)).seconds > 3
    assert workers() == before


async def test_one_who_waits_for_the_worker_can_leave(engine: EspeakEngine) -> None:
    patient, leaver = Listener(), Listener()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(say, engine, SENTENCE * 3, None, None, patient)
        nursery.start_soon(say, engine, SENTENCE, None, None, patient)
        with trio.CancelScope() as scope:
            scope.cancel()
            await say(engine, listener=leaver)
    assert patient.seconds > 12
    assert leaver.seconds == 0


@pytest.mark.parametrize("workers_wanted", [1, 2])
async def test_there_are_as_many_workers_as_asked_for(workers_wanted: int) -> None:
    async with loaded(EspeakEngine(workers=workers_wanted)) as engine:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(say, engine)
        with trio.fail_after(30):
            while len(workers()) < workers_wanted:  # the second one starts behind the engine's back
                await trio.lowlevel.checkpoint()
        assert len(workers()) == workers_wanted


@pytest.mark.parametrize("count", [0, 3])
def test_a_foolish_number_of_workers_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 2"):
        EspeakEngine(workers=count)


@pytest.mark.parametrize(("speed", "expected"), [(2.0, 0.5), (4.0, 0.25), (0.5, 2.0)])
async def test_speed_changes_the_duration_in_proportion(engine: EspeakEngine, speed: float, expected: float) -> None:
    normal = await say(engine)
    changed = await say(engine, options=SpeechOptions(speed=speed))
    assert changed.seconds / normal.seconds == pytest.approx(expected, rel=0.1)


async def test_the_slowest_speech_is_about_half_speed(engine: EspeakEngine) -> None:
    normal = await say(engine)
    slowest = await say(engine, options=SpeechOptions(speed=0.25))
    assert slowest.seconds / normal.seconds == pytest.approx(1 / 0.48, rel=0.03)


async def test_options_of_one_session_do_not_reach_the_next(engine: EspeakEngine) -> None:
    normal = await say(engine)
    high = await say(engine, options=SpeechOptions(speed=2, extra={"pitch": 99}))
    after = await say(engine)
    assert pitch(high.samples) > 1.3 * pitch(normal.samples)
    assert pitch(after.samples) == pytest.approx(pitch(normal.samples), rel=0.03)
    assert after.seconds == pytest.approx(normal.seconds, abs=0.05)


async def test_volume_makes_it_quieter(engine: EspeakEngine) -> None:
    normal = await say(engine)
    quiet = await say(engine, options=SpeechOptions(extra={"volume": 25}))
    assert np.abs(quiet.samples).max() < 0.5 * np.abs(normal.samples).max()


@pytest.mark.parametrize(
    "extra",
    [{"pitch": 100}, {"pitch": -1}, {"pitch": "50"}, {"pitch": 50.0}, {"pitch": True}, {"volume": 200}],
)
async def test_a_wrong_option_is_refused_when_the_session_opens(engine: EspeakEngine, extra: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match=r"option|Option") as caught:
        async with engine.session(engine.resolve(VoiceRequest()), SpeechOptions(extra=extra)):
            raise AssertionError("opened")
    assert caught.value.field == "extra_params"


async def test_unified_speakers_are_men_and_women(engine: EspeakEngine) -> None:
    pitches = [pitch((await say(engine, request=VoiceRequest(speaker=speaker))).samples) for speaker in range(4)]
    assert pitches[0] < 140
    assert pitches[1] > 160
    assert pitches[2] < 140
    assert pitches[3] > 160
    assert len({(await say(engine, request=VoiceRequest(speaker=speaker))).samples.tobytes() for speaker in range(4)}) == 4


async def test_every_listed_voice_speaks(engine: EspeakEngine) -> None:
    assert len(engine.voices()) > 100
    for voice in engine.voices():
        heard = await say(engine, "a e i o u", VoiceRequest(voice=voice.id))
        assert heard.seconds > 0.3, voice


async def test_every_variant_speaks(engine: EspeakEngine) -> None:
    for variant in VARIANTS:
        heard = await say(engine, "One.", VoiceRequest(voice=f"gmw/en-US+{variant}"))
        assert np.abs(heard.samples).max() > 0.05, variant


@pytest.mark.parametrize("tag", ["fo", "kaa"])
async def test_a_voice_that_lacks_its_dictionary_is_not_offered(engine: EspeakEngine, tag: str) -> None:
    """The library lists it, accepts it, and is silent."""
    with pytest.raises(UnsupportedLanguage):
        engine.resolve(VoiceRequest(lang=tag))


async def test_silence_instead_of_speech_is_an_error(engine: EspeakEngine) -> None:
    """The English voice knows no Cherokee letter, not even as a letter."""
    with pytest.raises(NoAudio):
        await say(engine, "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ")


async def test_a_voice_changes_the_sound_and_changes_back(engine: EspeakEngine) -> None:
    american = await say(engine)
    german = await say(engine, request=VoiceRequest(lang="de"))
    again = await say(engine)
    assert abs(german.seconds - american.seconds) > 0.05
    assert again.seconds == pytest.approx(american.seconds, abs=0.05)


async def test_a_voice_that_was_not_resolved_never_reaches_the_library(engine: EspeakEngine) -> None:
    choice = engine.resolve(VoiceRequest())
    forged = type(choice)(type(choice.voice)("../../etc/passwd", "x", "en"), "en")
    with pytest.raises(UnknownSpeaker):
        async with engine.session(forged, SpeechOptions()):
            raise AssertionError("opened")


@pytest.mark.parametrize(
    ("markup", "plain"),
    [
        ("<break time='9s'/> yes", "yes"),
        ("<prosody rate='x-fast'>yes</prosody>", "yes"),
        ("<speak><voice name='de'>yes</voice></speak>", "yes"),
        ("[[j'Es]] no", "yes no"),
        ("yes &amp; no", "yes no"),
    ],
)
async def test_markup_is_read_out(engine: EspeakEngine, markup: str, plain: str) -> None:
    read_out = await say(engine, markup, options=SpeechOptions(words=True))
    assert read_out.seconds > (await say(engine, plain)).seconds + 0.2
    longest_pause = max(
        later.start_s - earlier.end_s for earlier, later in zip(read_out.marks, read_out.marks[1:], strict=False)
    )
    assert longest_pause < 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
async def test_a_file_that_a_text_names_is_not_opened(engine: EspeakEngine, tmp_path: Path) -> None:
    """The file is a pipe that nobody writes: whoever opens it to read does not come back."""
    pipe = tmp_path / "a.wav"
    os.mkfifo(pipe)
    heard = await say(engine, f'<speak><audio src="{pipe}"/></speak>', options=SpeechOptions(words=True))
    assert heard.seconds > 2
    with pytest.raises(OSError, match="No such device"):  # what a pipe without a reader answers
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))


@pytest.mark.parametrize("control", ["\x00", "\x01", "\x0150P", "\x1b", "\x7f", "\x85", "\ufffe"])
async def test_control_characters_are_spoken_as_spaces(engine: EspeakEngine, control: str) -> None:
    """NUL would end the text, 0x01 would begin a command to the library."""
    text, clean = f"one {control} two three", f"one {' ' + control[1:]} two three"
    heard = await say(engine, text, options=SpeechOptions(words=True))
    expected = await say(engine, clean, options=SpeechOptions(words=True))
    assert heard.seconds == pytest.approx(expected.seconds, abs=0.05)
    assert [(mark.start, mark.end) for mark in heard.marks] == [(mark.start, mark.end) for mark in expected.marks]
    assert pitch(heard.samples) == pytest.approx(pitch(expected.samples), rel=0.03)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "...",
        "\x00",
        "{0} %s ${HOME} ../../",
        "e" + "\u0301" * 1000,
        "\u202e\u202d\u200f abc",
        "👩‍👩‍👧‍👦" * 50,
        "x" * 5000,
        "9" * 240,
        "\ud800 lone surrogates become question marks",
        "\U0010ffff\ufdd0",
    ],
)
async def test_odd_texts_do_no_harm(engine: EspeakEngine, text: str) -> None:
    before = workers()
    heard = await say(engine, text, options=SpeechOptions(words=True))
    assert all(0 <= mark.start < mark.end <= len(text) for mark in heard.marks)
    assert workers() == before


async def test_an_engine_that_does_not_run_says_so(engine: EspeakEngine) -> None:
    choice = engine.resolve(VoiceRequest())
    idle = EspeakEngine()
    assert idle.name == "espeak"
    assert idle.capabilities.sample_rate == SAMPLE_RATE
    with pytest.raises(EngineUnavailable):
        idle.voices()
    with pytest.raises(EngineUnavailable):
        idle.resolve(VoiceRequest())
    with pytest.raises(EngineUnavailable):
        async with idle.session(choice, SpeechOptions()):
            raise AssertionError("opened")


async def test_unloading_fails_the_speech_in_progress_clearly() -> None:
    choice = None
    async with loaded(EspeakEngine()) as engine:
        choice = engine.resolve(VoiceRequest())
        session = await (manager := engine.session(choice, SpeechOptions())).__aenter__()
    with pytest.raises(EngineUnavailable, match="unloaded"):
        await session.say(SpeechChunk(SENTENCE), Listener())
    await manager.__aexit__(None, None, None)
