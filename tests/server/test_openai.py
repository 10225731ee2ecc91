"""OpenAI's HTTP API: each field, each answer, each error, as its clients see them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import av
import httpx
import numpy as np
import pytest
import trio
from trio.testing import MockClock

from tests.conftest import RunningServer, StartServer
from tests.fake_engine import FakeEngine, entry
from tests.server.waiting import until
from tts_provider.engines.base import Capabilities
from tts_provider.engines.catalog import Entry
from tts_provider.errors import EngineUnavailable, Overloaded
from tts_provider.settings import Settings, SettingsError

TEXT = "Hello there, world."
SECONDS = 0.05 * len(TEXT)
"""What the fake engine takes to say it, give or take the trimmed silence."""

OPENAI_VOICES = [
    "alloy",
    "ash",
    "ballad",
    "coral",
    "echo",
    "fable",
    "onyx",
    "nova",
    "sage",
    "shimmer",
    "verse",
    "marin",
    "cedar",
]


@asynccontextmanager
async def http(server: RunningServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{server.address.host}:{server.address.port}", timeout=60) as client:
        yield client


async def speak(server: RunningServer, body: Any = None, **fields: Any) -> httpx.Response:
    """Ask for speech: `TEXT` as PCM, and whatever `fields` add to that; or send `body` as it is."""
    request = {"input": TEXT, "model": "tts-1", "voice": "alloy", "response_format": "pcm"} | fields
    content = body if isinstance(body, bytes) else json.dumps(request if body is None else body).encode()
    async with http(server) as client:
        return await client.post("/v1/audio/speech", content=content, headers={"content-type": "application/json"})


def decoded_s(data: bytes) -> float:
    """Seconds of audio in a file of any format."""
    with av.open(io.BytesIO(data)) as container:
        assert isinstance(container, av.container.InputContainer)
        return sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))


def four_speakers(engine: FakeEngine) -> Entry:
    return Entry(engine.name, 24_000, lambda: engine, light=True, speakers={str(number): "" for number in range(4)})


# --- What is spoken ---


async def test_the_default_format_is_mp3(start_server: StartServer) -> None:
    """Clients that name no format take what comes for MP3."""
    server = await start_server(FakeEngine())
    answer = await speak(server, {"input": TEXT, "model": "tts-1", "voice": "alloy"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/mpeg")
    assert answer.content[:2] in (b"\xff\xfb", b"\xff\xf3")
    assert decoded_s(answer.content) == pytest.approx(SECONDS, abs=0.2)


@pytest.mark.parametrize(
    ("format", "media_type"),
    [
        ("mp3", "audio/mpeg"),
        ("opus", "audio/ogg"),
        ("aac", "audio/aac"),
        ("flac", "audio/flac"),
        ("wav", "audio/wav"),
    ],
)
async def test_each_format_decodes(start_server: StartServer, format: str, media_type: str) -> None:
    server = await start_server(FakeEngine())
    answer = await speak(server, response_format=format)
    assert answer.headers["content-type"] == media_type
    assert decoded_s(answer.content) == pytest.approx(SECONDS, abs=0.2)


async def test_pcm_is_24_khz_whatever_the_engine_makes(start_server: StartServer) -> None:
    """livekit and pipecat play it at that rate without asking, and know it by the name audio/pcm."""
    server = await start_server(FakeEngine())
    answer = await speak(server)
    assert answer.headers["content-type"] == "audio/pcm"
    samples = np.frombuffer(answer.content, "<i2")
    assert samples.size / 24_000 == pytest.approx(SECONDS, abs=0.15)
    spectrum = np.abs(np.fft.rfft(samples[4800:16800]))
    assert np.argmax(spectrum) * 24_000 / 12_000 == pytest.approx(200, abs=4)


async def test_a_streamed_wav_names_the_longest_length(start_server: StartServer) -> None:
    """Its true length is not known when its head is sent, and nothing may stand behind the samples."""
    server = await start_server(FakeEngine())
    wav, pcm = (await speak(server, response_format="wav")).content, (await speak(server)).content
    assert (wav[:4], wav[4:8], wav[40:44]) == (b"RIFF", b"\xff\xff\xff\xff", b"\xff\xff\xff\xff")
    assert wav[44:] == pcm


async def test_audio_comes_while_it_is_made(start_server: StartServer, autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.01
    engine = FakeEngine(block_delay_s=1)
    server = await start_server(engine)
    arrivals = []
    body = {"input": TEXT, "voice": "alloy", "response_format": "pcm"}
    async with http(server) as client, client.stream("POST", "/v1/audio/speech", json=body) as answer:
        assert answer.headers["transfer-encoding"] == "chunked"
        async for _ in answer.aiter_raw():
            arrivals.append((trio.current_time(), engine.blocks))
    assert arrivals[0][1] < 6
    assert arrivals[-1][0] - arrivals[0][0] > 10


@pytest.mark.parametrize("format", ["mp3", "opus", "aac", "flac"])
async def test_compressed_audio_comes_soon_after_the_engines(
    start_server: StartServer, autojump_clock: MockClock, format: str
) -> None:
    """Within the first few blocks of 50 ms: an encoder may not wait for a second of audio."""
    autojump_clock.autojump_threshold = 0.01
    engine = FakeEngine(block_delay_s=1)
    server = await start_server(engine)
    body = {"input": TEXT, "voice": "alloy", "response_format": format}
    async with http(server) as client, client.stream("POST", "/v1/audio/speech", json=body) as answer:
        blocks_made = [engine.blocks async for _ in answer.aiter_raw()]
    assert blocks_made[0] <= 6


async def test_speed_is_the_engines(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    normal, fast = await speak(server), await speak(server, speed=2)
    assert len(fast.content) / len(normal.content) == pytest.approx(0.5, abs=0.1)


async def test_instructions_reach_the_engine(start_server: StartServer) -> None:
    engine = FakeEngine(capabilities=Capabilities(sample_rate=24_000, options=frozenset({"instructions"})))
    server = await start_server(engine)
    await speak(server, instructions="Whisper.")
    assert engine.options[0].extra == {"instructions": "Whisper."}


async def test_texts_longer_than_openais_limit_are_spoken(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    answer = await speak(server, input="A sentence of some length. " * 200)
    assert answer.status_code == 200
    assert len(answer.content) / 48_000 > 200


async def test_unknown_fields_and_nulls_are_ignored(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    fields = ("voice", "model", "speed", "instructions", "stream_format", "lang")
    answer = await speak(server, **dict.fromkeys(fields), anything={"at": ["all"]}, sample_rate="what")
    assert answer.status_code == 200


# --- Models and voices ---


@pytest.mark.parametrize("model", ["tts-1", "tts-1-hd", "TTS-1", "gpt-4o-mini-tts", "gpt-4o-mini-tts-2025-12-15", None])
async def test_openais_models_mean_the_default_engine(start_server: StartServer, model: str | None) -> None:
    other, engine = FakeEngine("other"), FakeEngine()
    server = await start_server(other, engine)
    assert (await speak(server, model=model)).status_code == 200
    assert (other.said, engine.said) == ([], [TEXT])


async def test_our_models_are_chosen_by_name_or_alias(start_server: StartServer) -> None:
    other = FakeEngine("other")
    server = await start_server(FakeEngine(), entry(other, "another"))
    assert (await speak(server, model="Another")).status_code == 200
    assert other.said == [TEXT]


@pytest.mark.parametrize("voice", [*OPENAI_VOICES, "Alloy", "tone-b", "1", {"id": "alloy"}, {"id": "tone-b"}, None])
async def test_a_voice_is_one_of_ours_or_one_of_openais(start_server: StartServer, voice: Any) -> None:
    server = await start_server(FakeEngine())
    assert (await speak(server, voice=voice)).status_code == 200


async def resolved(start_server: StartServer, monkeypatch: pytest.MonkeyPatch, voice: str, *voices: str) -> Any:
    """Which voice and speaker the engine is asked for when a client asks for `voice`."""
    engine, requests = FakeEngine(), []
    resolve = FakeEngine.resolve

    def remember(self: FakeEngine, request: Any) -> Any:
        requests.append(request.voice if request.voice is not None else request.speaker)
        return resolve(self, request)

    with monkeypatch.context() as patch:
        patch.setattr(FakeEngine, "resolve", remember)
        server = await start_server(four_speakers(engine), openai_voices=voices)
        await speak(server, voice=voice)
    return requests[0]


@pytest.mark.parametrize(
    ("voice", "speaker"), [("alloy", 0), ("nova", 1), ("onyx", 2), ("fable", 3), ("tone-c", "tone-c"), ("2", 2)]
)
async def test_openais_names_stand_for_the_unified_speakers(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, voice: str, speaker: int | str
) -> None:
    assert await resolved(start_server, monkeypatch, voice) == speaker


async def test_the_names_mean_what_the_settings_say(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all engines or for one, by the voice's name or by the speaker's number; others keep their meaning."""
    voices = ("nova=tone-b", "fake/Onyx=tone-c", "other/onyx=3", "mine=1")
    for voice, expected in (("Nova", "tone-b"), ("onyx", "tone-c"), ("mine", 1), ("sage", 1)):
        assert await resolved(start_server, monkeypatch, voice, *voices) == expected


async def test_a_speaker_that_the_engine_lacks_is_its_first(start_server: StartServer) -> None:
    """The fake engine lists speaker 0 only; each of OpenAI's names must speak all the same."""
    server = await start_server(FakeEngine())
    assert (await speak(server, voice="fable")).status_code == 200


@pytest.mark.parametrize("line", ["nova", "=1", "nova="])
async def test_a_mapping_that_makes_no_sense_is_a_wrong_setting(settings: Settings, line: str) -> None:
    from tts_provider.engines.catalog import Catalog
    from tts_provider.server.dialects.openai import OpenAIDialect
    from tts_provider.server.service import SpeechService

    catalog = Catalog([entry(FakeEngine())], default="fake")
    with pytest.raises(SettingsError, match="openai_voices"):
        OpenAIDialect(SpeechService(catalog, Settings(default_model="fake", openai_voices=(line,))))


async def test_a_language_may_be_asked_for(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    assert (await speak(server, lang="ja")).status_code == 200
    answer = await speak(server, lang="xx-YY")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_language")


async def test_the_lists_of_models(start_server: StartServer) -> None:
    """OpenAI's form and Open WebUI's; an engine that cannot work here is in neither."""
    server = await start_server(FakeEngine(), entry(FakeEngine("absent"), unavailable=lambda: "pip install it"))
    async with http(server) as client:
        models = (await client.get("/v1/models")).json()
        assert models["object"] == "list"
        assert [model["id"] for model in models["data"]] == ["fake", "tts-1", "tts-1-hd", "gpt-4o-mini-tts"]
        assert all(model.keys() == {"id", "object", "created", "owned_by"} for model in models["data"])
        assert (await client.get("/v1/models/fake")).json() == models["data"][0]
        assert (await client.get("/v1/models/nope")).json()["error"]["code"] == "unknown_model"
        audio = (await client.get("/v1/audio/models")).json()
        assert [model["id"] for model in audio["models"]] == [model["id"] for model in models["data"]]


async def test_the_list_of_voices(start_server: StartServer) -> None:
    """Objects, never strings; OpenAI's names first, and those of one model when one is named."""
    server = await start_server(FakeEngine(), FakeEngine("other"))
    async with http(server) as client:
        voices = (await client.get("/v1/audio/voices")).json()["voices"]
        assert all(isinstance(voice["id"], str) and isinstance(voice["name"], str) for voice in voices)
        assert [voice["id"] for voice in voices] == [*sorted(OPENAI_VOICES), "tone-a", "tone-b", "tone-c"]
        one = (await client.get("/v1/audio/voices?model=other")).json()["voices"]
        assert one[0] == {"id": "tone-a", "name": "Tone A", "lang": "en-US", "gender": "male"}
        assert (await client.get("/v1/audio/voices?model=nope")).status_code == 404


async def test_listing_voices_loads_no_large_model(start_server: StartServer) -> None:
    engine = FakeEngine()
    server = await start_server(Entry("fake", 24_000, lambda: engine))
    async with http(server) as client:
        assert len((await client.get("/v1/audio/voices")).json()["voices"]) == len(OPENAI_VOICES)
    assert engine.loads == 0


async def test_voices_of_an_engine_that_fails_are_left_out(start_server: StartServer) -> None:
    server = await start_server(FakeEngine(load_error=True))
    async with http(server) as client:
        assert len((await client.get("/v1/audio/voices")).json()["voices"]) == len(OPENAI_VOICES)
        assert (await client.get("/v1/audio/voices?model=fake")).json()["error"]["code"] == "engine_unavailable"


# --- Server-sent events ---


def events_of(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = answer.text.split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def test_events_carry_the_same_audio(start_server: StartServer) -> None:
    """Deltas in base64, then one `done` with a usage that adds up."""
    server = await start_server(FakeEngine())
    answer = await speak(server, stream_format="sse")
    assert answer.headers["content-type"] == "text/event-stream"
    *deltas, done = events_of(answer)
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    assert b"".join(base64.b64decode(event["audio"]) for event in deltas) == (await speak(server)).content
    usage = done["usage"]
    assert (done["type"], usage["total_tokens"]) == ("speech.audio.done", usage["input_tokens"] + usage["output_tokens"])
    assert (usage["input_tokens"], usage["output_tokens"]) == (5, pytest.approx(20 * SECONDS, abs=4))


async def test_an_error_after_audio_is_an_event(start_server: StartServer) -> None:
    server = await start_server(FakeEngine(faults={"world": "after"}))
    *_, last = events_of(await speak(server, stream_format="sse"))
    assert (last["type"], last["error"]["code"]) == ("error", "synthesis_failed")


# --- Errors ---


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"input": ""}, 400, "empty_text", "input"),
        ({"input": " ...!"}, 400, "empty_text", "input"),
        ({"input": 5}, 400, "invalid_request", "input"),
        ({"input": None}, 400, "invalid_request", "input"),
        ({"input": "x" * 100_001}, 413, "text_too_long", "input"),
        ({"model": "gpx"}, 404, "unknown_model", "model"),
        ({"model": ""}, 400, "invalid_request", "model"),
        ({"voice": "nobody"}, 404, "unknown_speaker", "voice"),
        ({"voice": "9"}, 404, "unknown_speaker", "voice"),
        ({"voice": {"name": "alloy"}}, 400, "invalid_request", "voice"),
        ({"voice": ["alloy"]}, 400, "invalid_request", "voice"),
        ({"voice": "v" * 101}, 400, "invalid_request", "voice"),
        ({"speed": 0.2}, 400, "invalid_request", "speed"),
        ({"speed": 4.1}, 400, "invalid_request", "speed"),
        ({"speed": "1"}, 400, "invalid_request", "speed"),
        ({"speed": True}, 400, "invalid_request", "speed"),
        ({"response_format": "ogg"}, 400, "invalid_request", "response_format"),
        ({"stream_format": "ndjson"}, 400, "invalid_request", "stream_format"),
    ],
)
async def test_a_wrong_field_is_named(
    start_server: StartServer, fields: dict[str, Any], status: int, code: str, param: str
) -> None:
    """In OpenAI's form, with the field under OpenAI's name, and not worth another try."""
    server = await start_server(FakeEngine())
    answer = await speak(server, **fields)
    error = answer.json()["error"]
    assert answer.status_code == status
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, param)
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"null", b"[]", b'"text"', b'{"input": "\\ud800"}', b'{"speed": NaN}', b"\xff", b"[" * 100_000, b"{}"]
)
async def test_a_body_that_is_no_request_is_refused(start_server: StartServer, body: bytes) -> None:
    server = await start_server(FakeEngine())
    answer = await speak(server, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert (await speak(server)).status_code == 200


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [("before", 502, "synthesis_failed"), ("nothing", 502, "no_audio"), ("bug", 502, "synthesis_failed")],
)
async def test_an_engine_that_fails_before_its_audio_is_an_error(
    start_server: StartServer, fault: str, status: int, code: str
) -> None:
    server = await start_server(FakeEngine(faults={"world": fault}))
    for stream_format in ("audio", "sse"):
        answer = await speak(server, stream_format=stream_format)
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["code"]) == (status, "server_error", code)
        assert "secret" not in answer.text


async def test_an_engine_that_fails_after_audio_breaks_the_answer_off(start_server: StartServer) -> None:
    """The body has no end, so nobody takes it for the whole speech."""
    server = await start_server(FakeEngine(faults={"world": "after"}))
    with pytest.raises(httpx.RemoteProtocolError):
        await speak(server)


async def test_a_server_that_is_too_busy_says_when_to_come_back(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise Overloaded("Everybody is speaking.", retry_after_ms=1500)

    monkeypatch.setattr(FakeEngine, "resolve", refuse)
    server = await start_server(FakeEngine())
    answer = await speak(server)
    assert (answer.status_code, answer.headers["retry-after"], answer.headers["x-should-retry"]) == (503, "2", "true")


async def test_an_engine_that_is_not_installed_is_not_worth_a_try(start_server: StartServer) -> None:
    server = await start_server(FakeEngine(), entry(FakeEngine("absent"), unavailable=lambda: "pip install it"))
    answer = await speak(server, model="absent")
    assert answer.status_code == EngineUnavailable.http_status == 503
    assert (answer.json()["error"]["message"], answer.headers["x-should-retry"]) == ("pip install it", "false")


async def test_a_fault_of_ours_is_a_500_with_an_id(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeEngine, "resolve", lambda *_: 1 / 0)
    server = await start_server(FakeEngine())
    answer = await speak(server)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert answer.headers["x-request-id"].startswith("req_")
    assert "zero" not in answer.text


# --- Clients that go ---


@pytest.mark.parametrize("format", ["pcm", "mp3"])
async def test_a_client_that_goes_stops_the_engine(start_server: StartServer, autojump_clock: MockClock, format: str) -> None:
    """Within 50 ms, in the middle of an answer or before its beginning."""
    autojump_clock.autojump_threshold = 0.01
    engine = FakeEngine(block_delay_s=0.04)
    server = await start_server(engine)
    for blocks in (1, 20):
        body = json.dumps({"input": TEXT * 20, "voice": "alloy", "response_format": format}).encode()
        stream = await trio.open_tcp_stream(server.address.host, server.address.port)
        async with stream:
            head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            await stream.send_all(head.encode() + body)
            wanted = engine.blocks + blocks
            await until(lambda: engine.blocks >= wanted)  # noqa: B023  # waited for at once
        gone = trio.current_time()
        await until(lambda: engine.saying == 0)
        assert engine.stopped_at - gone < 0.05
        assert engine.sessions == 0
