"""Clients of OpenAI's API as people have them: the SDK, curl, and other programs' very requests."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import openai
import pytest
import trio

from tests.conftest import RunningServer, StartServer
from tests.fake_engine import FakeEngine

T = TypeVar("T")

TEXT = "Hello there, world."


def base_url(server: RunningServer) -> str:
    return f"http://{server.address.host}:{server.address.port}/v1"


# --- The openai SDK. Its own asynchronous client wants asyncio, so the synchronous one runs in a thread. ---


async def with_sdk(server: RunningServer, use: Callable[[openai.OpenAI], T]) -> T:
    def run() -> T:
        with openai.OpenAI(base_url=base_url(server), api_key="none", max_retries=0) as client:
            return use(client)

    return await trio.to_thread.run_sync(run)


async def test_the_sdk_lists_models(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    assert [model.id for model in await with_sdk(server, lambda sdk: sdk.models.list().data)][:2] == ["fake", "tts-1"]
    assert (await with_sdk(server, lambda sdk: sdk.models.retrieve("fake"))).owned_by == "tts-provider"


async def test_the_sdk_gets_a_whole_file(start_server: StartServer, tmp_path: Path) -> None:
    server = await start_server(FakeEngine())
    file = tmp_path / "speech.mp3"
    await with_sdk(server, lambda sdk: sdk.audio.speech.create(model="tts-1", voice="alloy", input=TEXT).write_to_file(file))
    assert file.read_bytes()[:1] == b"\xff"


async def test_the_sdk_streams_pcm(start_server: StartServer) -> None:
    server = await start_server(FakeEngine(block_delay_s=0.002))

    def stream(sdk: openai.OpenAI) -> list[bytes]:
        with sdk.audio.speech.with_streaming_response.create(
            model="gpt-4o-mini-tts", voice="nova", input=TEXT, response_format="pcm", instructions="Speak up.", speed=1.5
        ) as response:
            return list(response.iter_bytes())

    pieces = await with_sdk(server, stream)
    assert len(pieces) > 3
    assert sum(map(len, pieces)) / 48_000 == pytest.approx(0.05 * len(TEXT) / 1.5, abs=0.15)


async def test_the_sdk_reads_events(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())

    def stream(sdk: openai.OpenAI) -> list[dict[str, Any]]:
        with sdk.audio.speech.with_streaming_response.create(
            model="gpt-4o-mini-tts", voice="nova", input=TEXT, response_format="pcm", stream_format="sse"
        ) as response:
            return [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line]

    *deltas, done = await with_sdk(server, stream)
    assert sum(len(base64.b64decode(event["audio"])) for event in deltas) > 24_000
    assert (done["type"], done["usage"]["total_tokens"] > 0) == ("speech.audio.done", True)


@pytest.mark.parametrize(
    ("fields", "error_type", "code", "param"),
    [
        ({"input": ""}, openai.BadRequestError, "empty_text", "input"),
        ({"model": "nope"}, openai.NotFoundError, "unknown_model", "model"),
        ({"voice": "nobody"}, openai.NotFoundError, "unknown_speaker", "voice"),
        ({"speed": 9}, openai.BadRequestError, "invalid_request", "speed"),
        ({"input": "broken"}, openai.InternalServerError, "synthesis_failed", None),
    ],
)
async def test_the_sdk_raises_typed_errors(
    start_server: StartServer, fields: dict[str, Any], error_type: type[openai.APIStatusError], code: str, param: str | None
) -> None:
    """With the code, the field, the type and the request's id in their places."""
    server = await start_server(FakeEngine(faults={"broken": "before"}))
    request: dict[str, Any] = {"model": "tts-1", "voice": "alloy", "input": TEXT} | fields
    with pytest.raises(error_type) as raised:
        await with_sdk(server, lambda sdk: sdk.audio.speech.create(**request))
    error = raised.value
    assert (error.code, error.param) == (code, param)
    assert error.type == ("server_error" if error.status_code >= 500 else "invalid_request_error")
    assert (error.request_id or "").startswith("req_")


# --- Requests as programs send them ---


async def test_open_webuis_three_requests(start_server: StartServer) -> None:
    """Models, voices (sent without a key) and speech, which it stores as MP3."""
    server = await start_server(FakeEngine())
    async with httpx.AsyncClient() as client:
        models = (await client.get(f"{base_url(server)}/audio/models")).json()["models"]
        assert all(isinstance(model["id"], str) for model in models)
        voices = (await client.get(f"{base_url(server)}/audio/voices")).json()["voices"]
        assert {voice["id"]: voice["name"] for voice in voices}["alloy"] == "Alloy"
        answer = await client.post(
            f"{base_url(server)}/audio/speech",
            json={"model": models[0]["id"], "input": TEXT, "voice": voices[0]["id"]},
            headers={"Content-Type": "application/json", "Authorization": "Bearer sk-any", "X-OpenWebUI-User-Name": "me"},
        )
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/mpeg")


async def test_sillytaverns_request(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    body = {"input": TEXT, "response_format": "mp3", "voice": "alloy", "speed": 1, "model": "tts-1"}
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{base_url(server)}/audio/speech", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/mpeg")


async def test_livekits_requests(start_server: StartServer) -> None:
    """It warms the connection up with GET /, then wants events for every model but OpenAI's first two."""
    server = await start_server(FakeEngine())
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"http://{server.address.host}:{server.address.port}/")).status_code == 200
        body = {
            "input": TEXT,
            "model": "gpt-4o-mini-tts",
            "voice": "ash",
            "response_format": "mp3",
            "speed": 1.0,
            "instructions": "",
            "stream_format": "sse",
        }
        answer = await client.post(f"{base_url(server)}/audio/speech", json=body)
        assert answer.headers["content-type"] == "text/event-stream"
        assert "speech.audio.delta" in answer.text
        assert "speech.audio.done" in answer.text
        answer = await client.post(
            f"{base_url(server)}/audio/speech",
            json=body | {"model": "tts-1", "response_format": "pcm", "stream_format": "audio"},
        )
        assert answer.headers["content-type"] == "audio/pcm"


async def test_pipecats_request(start_server: StartServer) -> None:
    """PCM at 24 kHz, one of OpenAI's voices, read in pieces."""
    server = await start_server(FakeEngine())

    def stream(sdk: openai.OpenAI) -> int:
        with sdk.audio.speech.with_streaming_response.create(
            input=TEXT, model="gpt-4o-mini-tts", voice="ballad", response_format="pcm", extra_body={"speed": 1.0}
        ) as response:
            assert response.status_code == 200
            return sum(len(piece) for piece in response.iter_bytes(4800))

    assert await with_sdk(server, stream) / 48_000 == pytest.approx(0.05 * len(TEXT), abs=0.15)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
async def test_curl(start_server: StartServer, tmp_path: Path) -> None:
    """A file in one line; and with a text so long that curl asks for leave to send it."""
    server = await start_server(FakeEngine())
    file = tmp_path / "speech.flac"
    for text in (TEXT, "A long text. " * 200):
        body = json.dumps({"model": "tts-1", "input": text, "voice": "alloy", "response_format": "flac"})
        command = ["curl", "-sS", "--fail", f"{base_url(server)}/audio/speech", "--json", body, "-o", str(file)]
        if text != TEXT:
            command += ["-H", "Expect: 100-continue", "--http2"]
        await trio.run_process(command)
        assert file.read_bytes()[:4] == b"fLaC"
