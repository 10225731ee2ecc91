"""The fake is a good fake: the unmodified edge-tts speaks with it and meets the traps that it meets in the field."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import aclosing
from typing import Any
from urllib.request import Request, urlopen

import av
import edge_tts
import numpy as np
import pytest
from aiohttp import TCPConnector, WSServerHandshakeError
from edge_tts.exceptions import NoAudioReceived, UnexpectedResponse, UnknownResponse

from tests.edge_service import SOCKET_PATH, VOICES_PATH, EdgeService, Fault, Rule, Settings, sentences_of, speak, tone_of
from tests.engines.edge.harness import SAMPLE_RATE, level_between, tone_between
from tts_provider.engines.base import Samples

TEXT = "The first sentence is here. Then comes a second one! Is there a third & last?"
VOICE = "en-US-GuyNeural"


@pytest.fixture
def pointed(service: EdgeService, monkeypatch: pytest.MonkeyPatch) -> EdgeService:
    """The fake, with edge-tts pointed at it."""
    token = edge_tts.constants.TRUSTED_CLIENT_TOKEN
    monkeypatch.setattr(edge_tts.communicate, "WSS_URL", f"{service.endpoint}{SOCKET_PATH}?TrustedClientToken={token}")
    monkeypatch.setattr(edge_tts.voices, "VOICE_LIST", f"{service.http_endpoint}{VOICES_PATH}?trustedclienttoken={token}")
    return service


async def collect(communicate: edge_tts.Communicate) -> tuple[bytes, list[dict[str, Any]]]:
    audio, boundaries = b"", []
    async for chunk in communicate.stream():
        if chunk["type"] == "audio":
            audio += chunk["data"]
        else:
            boundaries.append(dict(chunk))
    return audio, boundaries


def spoken(text: str = TEXT, **options: Any) -> tuple[bytes, list[dict[str, Any]]]:
    return asyncio.run(collect(edge_tts.Communicate(text, VOICE, **options)))


def decoded(mp3: bytes) -> Samples:
    decoder = av.CodecContext.create("mp3float", "r")
    assert isinstance(decoder, av.AudioCodecContext)
    frames = [frame for packet in decoder.parse(mp3) for frame in decoder.decode(packet)]
    frames += decoder.decode(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


@pytest.mark.usefixtures("pointed")
def test_each_sentence_has_its_tone_where_its_words_are_said() -> None:
    mp3, words = spoken(boundary="WordBoundary")
    samples = decoded(mp3)
    assert len(samples) == len(mp3) // 144 * 576
    assert [word["text"] for word in words] == TEXT.replace(".", "").replace("!", "").replace("?", "").split()
    tones = [tone_of(sentence) for sentence in sentences_of(TEXT)]
    assert len(set(tones)) == 3
    sentence = 0
    for word in words:
        start_s, end_s = word["offset"] / 1e7, (word["offset"] + word["duration"]) / 1e7
        if word["text"] in ("Then", "Is"):
            sentence += 1
        assert tone_between(samples, start_s, end_s) == tones[sentence], word
    assert level_between(samples, 0, 0.17) < 0.02, "silence before"
    assert level_between(samples, len(samples) / SAMPLE_RATE - 0.75, 1e9) < 0.02, "and after"


@pytest.mark.usefixtures("pointed")
def test_sentences_are_marked_when_those_are_asked_for() -> None:
    _, sentences = spoken(boundary="SentenceBoundary")
    assert [sentence["text"] for sentence in sentences] == sentences_of(TEXT)


@pytest.mark.usefixtures("pointed")
def test_twice_the_rate_is_about_half_the_audio() -> None:
    usual, _ = spoken()
    fast, _ = spoken(rate="+100%")
    assert 0.5 < len(fast) / len(usual) < 0.65


@pytest.mark.usefixtures("pointed")
def test_the_first_frame_is_the_one_that_the_service_sends() -> None:
    mp3, _ = spoken()
    assert mp3[:4].hex() == "fff364c4"
    assert b"LAME3.100" in mp3[:144]


@pytest.mark.usefixtures("pointed")
def test_all_voices_are_listed() -> None:
    voices = asyncio.run(edge_tts.list_voices())
    assert len(voices) == 322
    guy = next(voice for voice in voices if voice["ShortName"] == VOICE)
    assert guy["Name"] == "Microsoft Server Speech Text to Speech Voice (en-US, GuyNeural)"


def test_long_text_comes_as_several_turns_on_several_connections(pointed: EdgeService) -> None:
    pointed.settings.character_s = 0.01
    spoken("word " * 1000)
    assert pointed.journal.stats().turns == 2
    assert pointed.journal.stats().connections == 2


def test_a_clock_that_is_wrong_is_corrected_from_the_refusal(pointed: EdgeService) -> None:
    pointed.settings.clock_offset_s = 3600.0
    mp3, _ = spoken()
    assert mp3
    assert [event.detail for event in pointed.journal.events("rejected")] == ["wrong or old Sec-MS-GEC"]


def test_a_lasting_refusal_surfaces(pointed: EdgeService) -> None:
    pointed.plan.add(Rule("forbidden"))
    with pytest.raises(WSServerHandshakeError, match="403"):
        spoken()


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("no_audio", NoAudioReceived),
        ("bad_frame", UnexpectedResponse),
        ("short_frame", UnexpectedResponse),
        ("content_type", UnexpectedResponse),
        ("no_content_type", UnexpectedResponse),
        ("empty_audio", UnexpectedResponse),
        ("audio_path", UnexpectedResponse),
        ("unknown_path", UnknownResponse),
        ("unknown_metadata", UnknownResponse),
    ],
)
def test_edge_tts_notices_some_faults(pointed: EdgeService, fault: Fault, error: type[Exception]) -> None:
    pointed.plan.add(Rule(fault))
    with pytest.raises(error):
        spoken()


@pytest.mark.parametrize("fault", ["drop", "close", "truncate", "truncate_words"])
def test_edge_tts_takes_cut_off_audio_for_success(pointed: EdgeService, fault: Fault) -> None:
    whole, _ = spoken()
    pointed.plan.add(Rule(fault))
    cut, _ = spoken()
    assert 0 < len(cut) < 0.7 * len(whole)


@pytest.mark.parametrize("fault", ["hang_start", "hang_mid"])
def test_edge_tts_waits_for_ever_for_a_service_that_stalls(pointed: EdgeService, fault: Fault) -> None:
    pointed.plan.add(Rule(fault))
    receive_timeout = 1

    async def impatient() -> None:
        await asyncio.wait_for(collect(edge_tts.Communicate(TEXT, VOICE, receive_timeout=receive_timeout)), 1.5)

    with pytest.raises(TimeoutError):
        asyncio.run(impatient())


def test_a_connector_of_edge_tts_serves_only_its_first_turn(pointed: EdgeService) -> None:
    pointed.settings.character_s = 0.01

    async def with_connector() -> None:
        await collect(edge_tts.Communicate("word " * 1000, VOICE, connector=TCPConnector()))

    with pytest.raises(RuntimeError, match="Session is closed"):
        asyncio.run(with_connector())


def test_a_voice_that_is_not_listed_is_refused(pointed: EdgeService) -> None:
    injection = "Microsoft Server Speech Text to Speech Voice (a, b)'><x y='(c,d)"
    with pytest.raises(NoAudioReceived):
        asyncio.run(collect(edge_tts.Communicate(TEXT, injection)))
    assert len(pointed.journal.events("invalid")) == 1
    pointed.journal.clear()


def test_a_second_turn_on_a_connection_may_be_refused(service: EdgeService) -> None:
    answers = asyncio.run(_two_turns(service))
    assert answers == ["turn.end", "closed"]
    service.settings.second_turn = "serve"
    assert asyncio.run(_two_turns(service)) == ["turn.end", "turn.end"]


async def _two_turns(service: EdgeService) -> list[str]:
    import aiohttp

    from tts_provider.engines.edge import service as messages

    answers = []
    headers = {name.decode(): value.decode() for name, value in messages.socket_headers()}
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(service.http_endpoint + messages.socket_target(), headers=headers) as socket,
    ):
        await socket.send_str(messages.config_message())
        for _ in range(2):
            name = "Microsoft Server Speech Text to Speech Voice (en-US, GuyNeural)"
            await socket.send_str(messages.speech_message(name, 1.0, "Hello."))
            while True:
                message = await socket.receive()
                if message.type is not aiohttp.WSMsgType.TEXT and message.type is not aiohttp.WSMsgType.BINARY:
                    answers.append("closed")
                    break
                if message.type is aiohttp.WSMsgType.TEXT and "Path:turn.end" in message.data:
                    answers.append("turn.end")
                    break
    return answers


def test_a_turn_is_cut_at_the_longest_that_the_service_gives(pointed: EdgeService) -> None:
    assert Settings().max_audio_s == 600.0
    pointed.settings.max_audio_s = 1.2
    mp3, _ = spoken()
    assert len(mp3) == 7200


def test_pace_and_first_byte_are_kept(pointed: EdgeService) -> None:
    pointed.settings.first_byte_s = 0.2
    pointed.settings.pace = 10.0

    async def timed() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        started = loop.time()
        first = 0.0
        async for chunk in edge_tts.Communicate(TEXT, VOICE).stream():
            if chunk["type"] == "audio" and not first:
                first = loop.time() - started
        return first, loop.time() - started

    spoken()
    first, total = asyncio.run(timed())
    assert 0.2 <= first < 0.35
    assert total - first >= speak(TEXT).seconds / 10 - 0.1


def test_it_runs_by_itself() -> None:
    command = [sys.executable, "-m", "tests.edge_service", "--first-byte", "0.01", "--pace", "50"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        endpoint = process.stdout.readline().strip()
        assert endpoint.startswith("ws://127.0.0.1:")
        base = endpoint.replace("ws:", "http:")
        warm = Request(f"{base}/fake/warm", json.dumps({"texts": ["Hello.", "You there."]}).encode())
        with urlopen(warm, timeout=10) as answer:
            assert json.load(answer) == {"speeches": 2}
        with urlopen(f"{base}/fake/stats", timeout=10) as answer:
            assert json.load(answer)["turns"] == 0
        with urlopen(Request(f"{base}/fake/reset", b""), timeout=10) as answer:
            assert json.load(answer) == {}
        process.terminate()
        assert process.wait(10) == 0


def test_a_client_that_leaves_is_seen_at_once(pointed: EdgeService) -> None:
    pointed.settings.pace = 1.0

    async def leave_early() -> None:
        async with aclosing(edge_tts.Communicate(TEXT, VOICE).stream()) as chunks:
            async for chunk in chunks:
                if chunk["type"] == "audio":
                    break
        # edge-tts leaves its inner generator, and with it the connection, to the loop, which closes it in a task of its own.
        await asyncio.sleep(0)
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})

    asyncio.run(leave_early())
    pointed.journal.wait("left")
    assert pointed.journal.events("end") == []


FACTORIES: list[Callable[[], EdgeService]] = [EdgeService, lambda: EdgeService(tls=True)]


@pytest.mark.parametrize("factory", FACTORIES)
def test_it_starts_and_stops_quickly(factory: Callable[[], EdgeService]) -> None:
    with factory() as service:
        assert service.port
