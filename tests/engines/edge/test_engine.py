"""Speaking."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
import trio

from tests.edge_service import EdgeService, Settings, sentences_of, speak, tone_of
from tests.engines.edge.harness import (
    SAMPLE_RATE,
    RecordingSink,
    engine_on,
    happened,
    level_between,
    running,
    say,
    tone_between,
)
from tts_provider.engines.base import Engine, SpeechChunk, SpeechOptions, VoiceChoice, VoiceRequest
from tts_provider.engines.edge import EdgeEngine
from tts_provider.engines.edge.mp3 import Mp3Decoder
from tts_provider.errors import EngineUnavailable, InvalidRequest

TEXT = "The first sentence is here. Then comes a second one! Is there a third & last?"
MP3 = SpeechOptions(encoding="mp3")


def words_of(text: str, sink: RecordingSink) -> list[str]:
    return [text[mark.start : mark.end] for mark in sink.marks]


def test_importing_the_engine_imports_nothing_heavy() -> None:
    code = (
        "import sys, tts_provider.engines.edge as edge; engine = edge.EdgeEngine(); engine.voices();"
        "heavy = {'edge_tts', 'aiohttp', 'av', 'asyncio', 'torch'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_without_edge_tts_it_says_what_to_install() -> None:
    code = (
        "import sys, trio; sys.modules['edge_tts'] = None\n"
        "from tts_provider.engines.edge import EdgeEngine\n"
        "from tts_provider.errors import EngineUnavailable\n"
        "async def main():\n"
        "    async with trio.open_nursery() as nursery:\n"
        "        try: await nursery.start(EdgeEngine().run, lambda share, doing: None)\n"
        "        except EngineUnavailable as error: assert 'pip install -U edge-tts av' in error.message\n"
        "        else: raise AssertionError\n"
        "trio.run(main)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_it_is_an_engine() -> None:
    engine: Engine = EdgeEngine()
    assert engine.name == "edge"
    capabilities = engine.capabilities
    assert capabilities.sample_rate == SAMPLE_RATE
    assert capabilities.word_timings == "exact"
    assert capabilities.encodings == {"mp3"}
    assert capabilities.speed
    assert (capabilities.parallel_chunks, capabilities.slots) == (2, None)
    assert capabilities.max_group_weight <= capabilities.max_chunk_weight


@pytest.mark.parametrize(
    "arguments",
    [
        {"endpoint": "http//nowhere"},
        {"endpoint": "ws://host/path"},
        {"max_turns": 0},
        {"preconnect": -1},
        {"proxy": "socks5://host"},
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        EdgeEngine(**arguments)  # type: ignore[arg-type]


async def test_it_reports_while_it_loads(service: EdgeService, tmp_path: Path) -> None:
    reports: list[tuple[float | None, str]] = []
    engine = EdgeEngine(endpoint=service.endpoint, cache_dir=tmp_path)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run, lambda share, doing: reports.append((share, doing)))
        nursery.cancel_scope.cancel()
    assert reports[0] == (None, "importing edge-tts")
    assert reports[-1] == (1.0, "ready")


async def test_it_cannot_be_used_when_it_does_not_run(service: EdgeService, tmp_path: Path) -> None:
    engine = EdgeEngine(endpoint=service.endpoint, cache_dir=tmp_path)
    async with running(engine):
        pass
    with pytest.raises(EngineUnavailable, match="not running"):
        await say(engine, "Hello.")


# ------------------------------------------------------------------------------------------------------------- audio


@pytest.mark.parametrize("message_bytes", [720, 100, 1, 7777])
async def test_all_of_the_audio_comes_in_order_whatever_the_messages_are(
    service: EdgeService, tmp_path: Path, message_bytes: int
) -> None:
    service.settings.message_bytes = message_bytes
    text = TEXT if message_bytes > 1 else "Short."
    async with engine_on(service, tmp_path) as engine:
        sink = await say(engine, text)
    expected = Mp3Decoder().decode(speak(text).mp3, last=True)
    assert np.array_equal(sink.audio_samples, expected)
    assert sink.audio_samples.dtype == np.float32


async def test_each_sentence_is_heard_where_its_words_are_marked(service: EdgeService, tmp_path: Path) -> None:
    async with engine_on(service, tmp_path) as engine:
        sink = await say(engine, TEXT)
    assert words_of(TEXT, sink) == TEXT.replace(".", "").replace("!", "").replace("?", "").split()
    starts = dict(zip(words_of(TEXT, sink), sink.marks, strict=True))
    for first_word, sentence in zip(("The", "Then", "Is"), sentences_of(TEXT), strict=True):
        mark = starts[first_word]
        assert tone_between(sink.audio_samples, mark.start_s, mark.end_s) == tone_of(sentence)
    for mark in sink.marks:
        assert level_between(sink.audio_samples, mark.start_s + 0.02, mark.end_s - 0.02) > 0.2


async def test_no_word_is_marked_after_the_audio_that_follows_it(tmp_path: Path) -> None:
    with EdgeService(Settings(pace=20.0)) as service:
        async with engine_on(service, tmp_path) as engine:
            sink = await say(engine, TEXT)
    pushed_s = 0.0
    for kind, second in sink.log:
        if kind == "audio":
            pushed_s = second
        else:
            assert second >= pushed_s, "audio beyond the word's end was pushed before"
    assert len(sink.blocks) > 3


async def test_the_first_audio_does_not_wait_for_the_rest(tmp_path: Path) -> None:
    with EdgeService(Settings(pace=1.0)) as service:
        async with engine_on(service, tmp_path) as engine:
            sink = RecordingSink()
            with trio.move_on_after(10):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(say, engine, TEXT, sink)
                    await sink.first_block.wait()
                    nursery.cancel_scope.cancel()
            assert len(sink.blocks[0]) == 10 * 576, "two messages of 720 bytes: in the first there is only silence"
        assert service.journal.events("end") == []


async def test_blocks_grow_with_the_lead_but_never_beyond_a_second(tmp_path: Path) -> None:
    text = "This is a sentence that is somewhat longer than the others are, for the sake of this test. " * 2
    with EdgeService(Settings(pace=50.0)) as service:
        async with engine_on(service, tmp_path) as engine:
            sink = await say(engine, text)
    sizes = [len(block) / SAMPLE_RATE for block in sink.blocks]
    assert sizes[0] <= 0.25
    assert max(sizes) <= 1.1
    assert len(sizes) < 0.3 * sink.seconds / 0.12, "far fewer blocks than messages"


async def test_reception_does_not_wait_for_the_listener(service: EdgeService, tmp_path: Path) -> None:
    sink = RecordingSink(gate=trio.Event())
    async with engine_on(service, tmp_path, max_turns=1) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(say, engine, TEXT, sink)
        await sink.first_block.wait()
        await happened(service, "left")
        other = await say(engine, "Somebody else gets the only place meanwhile.")
        assert other.seconds > 1
        assert len(sink.blocks) == 1
        assert sink.gate is not None
        sink.gate.set()
    assert np.array_equal(sink.audio_samples, Mp3Decoder().decode(speak(TEXT).mp3, last=True))


async def test_several_chunks_of_a_session_at_once(service: EdgeService, tmp_path: Path) -> None:
    sinks = [RecordingSink() for _ in range(4)]
    texts = ["Number one.", "Number two is longer.", "Number three.", "Four."]
    async with (
        engine_on(service, tmp_path) as engine,
        engine.session(engine.resolve(VoiceRequest()), SpeechOptions()) as session,
        trio.open_nursery() as nursery,
    ):
        for index, (text, sink) in enumerate(zip(texts, sinks, strict=True)):
            nursery.start_soon(session.say, SpeechChunk(text, index=index), sink)
    for text, sink in zip(texts, sinks, strict=True):
        assert np.array_equal(sink.audio_samples, Mp3Decoder().decode(speak(text).mp3, last=True))


async def test_twice_as_fast(service: EdgeService, tmp_path: Path) -> None:
    async with engine_on(service, tmp_path) as engine:
        usual = await say(engine, TEXT)
        fast = await say(engine, TEXT, options=SpeechOptions(speed=2.0))
    assert fast.seconds == pytest.approx(speak(TEXT, 2.0).seconds)
    assert fast.seconds < 0.65 * usual.seconds
    assert fast.marks[-1].end_s < 0.65 * usual.marks[-1].end_s


async def test_mp3_is_passed_on_untouched(service: EdgeService, tmp_path: Path) -> None:
    async with engine_on(service, tmp_path) as engine:
        sink = await say(engine, TEXT, options=MP3)
    speech = speak(TEXT)
    assert sink.mp3 == speech.mp3
    assert sink.blocks == []
    assert sum(seconds for _, seconds in sink.encoded_blocks) == pytest.approx(speech.seconds)
    assert len(sink.marks) == len(speech.words)


async def test_another_encoding_is_refused(service: EdgeService, tmp_path: Path) -> None:
    async with engine_on(service, tmp_path) as engine:
        with pytest.raises(InvalidRequest, match="opus"):
            await say(engine, "Hello.", options=SpeechOptions(encoding="opus"))


# -------------------------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize(
    "text",
    [
        '</prosody></voice><break time="10m"/>&amp; done',
        "<speak>Hello</speak>",
        "a\r\nPath: turn.end\r\n\r\nb",
        "%s {0} ${HOME} ../../etc",
        "]]> <!-- hello --> <?xml version='1.0'?>",
        "'quoted' \"twice\"",
        "tab\tand\nline",
    ],
)
async def test_markup_is_spoken_as_it_stands(service: EdgeService, tmp_path: Path, text: str) -> None:
    async with engine_on(service, tmp_path) as engine:
        sink = await say(engine, text)
    assert [event.detail for event in service.journal.events("turn")] == [text]
    assert words_of(text, sink) == [word.text for word in speak(text).words]


async def test_what_cannot_be_sent_becomes_a_space_and_offsets_hold(service: EdgeService, tmp_path: Path) -> None:
    text = "one\x00two\x0bthree\ufffefour\ud800five\x7fsix"
    async with engine_on(service, tmp_path) as engine:
        sink = await say(engine, text)
    assert [event.detail for event in service.journal.events("turn")] == ["one two three four five six"]
    assert words_of(text, sink) == ["one", "two", "three", "four", "five", "six"]


async def test_words_in_other_scripts_are_found(service: EdgeService, tmp_path: Path) -> None:
    text = "你好世界。今天是星期三！Привет, мир; שלום 🎉 café"
    async with engine_on(service, tmp_path) as engine:
        sink = await say(engine, text, request=VoiceRequest("zh-CN", 1))
    assert "".join(words_of(text, sink)) == "你好世界今天是星期三ПриветмирשלוםCafé".replace("C", "c")


@pytest.mark.parametrize("text", ["...", "?!", "🎉🎉", " \n ", "—"])
async def test_a_chunk_with_nothing_to_say_makes_no_sound(service: EdgeService, tmp_path: Path, text: str) -> None:
    async with engine_on(service, tmp_path) as engine:
        sink = await say(engine, text)
    assert (sink.blocks, sink.marks) == ([], [])
    assert service.journal.events("turn") == []


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("word " * 1200, id="ASCII"),
        pytest.param("слово " * 500, id="two bytes"),
        pytest.param("你好世界" * 400 + "。", id="three bytes, no spaces"),
        pytest.param("a & b < c " * 300, id="escapes"),
        pytest.param("x" * 5000, id="one word"),
    ],
)
async def test_a_long_chunk_is_said_in_several_turns_with_offsets_and_times_that_go_on(
    service: EdgeService, tmp_path: Path, text: str
) -> None:
    service.settings.character_s = 0.004
    async with engine_on(service, tmp_path) as engine:
        sink = await say(engine, text)
    turns = [event.detail for event in service.journal.events("turn")]
    assert len(turns) >= 2
    assert "".join(turns) == text
    assert max(len(escape(turn).encode()) for turn in turns) <= 4096
    assert "".join(words_of(text, sink)) == text.replace(" ", "").replace("。", "")
    times = [mark.start_s for mark in sink.marks]
    assert times == sorted(times)
    assert sink.seconds - 1.0 < sink.marks[-1].end_s < sink.seconds
    second = next(mark for mark in sink.marks if mark.start >= len(turns[0]))
    whole_first_turn = speak(turns[0], character_s=0.004).seconds
    assert whole_first_turn < second.start_s < whole_first_turn + 0.3


async def test_slow_speech_is_cut_shorter_for_no_turn_may_last_ten_minutes(service: EdgeService, tmp_path: Path) -> None:
    service.settings.character_s = 0.004
    async with engine_on(service, tmp_path) as engine:
        await say(engine, "word " * 700, options=SpeechOptions(speed=0.5))
    assert max(len(event.detail) for event in service.journal.events("turn")) <= 2048


# ------------------------------------------------------------------------------------------------------------- voices


@pytest.mark.parametrize("voice", ["iu-Cans-CA-SiqiniqNeural", "iu-Latn-CA-TaqqiqNeural", "zh-CN-shaanxi-XiaoniNeural"])
async def test_voices_that_edge_tts_refuses_by_their_short_names(service: EdgeService, tmp_path: Path, voice: str) -> None:
    async with engine_on(service, tmp_path) as engine:
        assert (await say(engine, "Hello.", request=VoiceRequest(voice=voice))).seconds > 0


async def test_the_chosen_voice_is_the_one_that_is_asked_for(service: EdgeService, tmp_path: Path) -> None:
    service.settings.withdrawn = frozenset({"en-US-DavisNeural", "ja-JP-KeitaNeural"})
    async with engine_on(service, tmp_path) as engine:
        heard: list[VoiceChoice] = []
        for request in (VoiceRequest(speaker=2), VoiceRequest("de", 1), VoiceRequest(voice="fr-FR-HenriNeural")):
            choice = engine.resolve(request)
            heard.append(choice)
            async with engine.session(choice, SpeechOptions()) as session:
                await session.say(SpeechChunk("Hello."), RecordingSink())
    assert [choice.voice.id for choice in heard] == ["en-US-ChristopherNeural", "de-DE-KatjaNeural", "fr-FR-HenriNeural"]
