"""One line in the log for each request that was begun, which tells how it went and nothing of its text."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import httpx
import pytest
import structlog
import trio
from structlog.testing import capture_logs

from tests.conftest import RunningServer, StartServer
from tests.fake_engine import FakeEngine
from tests.server.waiting import until
from tts_provider.server.request_log import HASH_BYTES

TEXT = "A secret that nobody shall read."

Logs = list[dict[str, Any]]


def ends(logs: Logs) -> Logs:
    return [line for line in logs if line["event"] == "request.end"]


def capture() -> Any:
    return capture_logs(processors=[structlog.contextvars.merge_contextvars])


async def post(server: RunningServer, path: str, body: Any) -> httpx.Response:
    async with httpx.AsyncClient(base_url=f"http://{server.address.host}:{server.address.port}", timeout=60) as client:
        return await client.post(path, json=body)


async def test_a_spoken_request_is_one_line(start_server: StartServer) -> None:
    with capture() as logs:
        server = await start_server(FakeEngine())
        async with server.connect() as client:
            success, _ = await client.legacy({"text": TEXT, "request_id": "r1", "voice": "tone-b"})
    (line,) = ends(logs)
    assert line.pop("text_hash")
    assert line.pop("connection") > 0
    assert 0 <= line.pop("first_audio_ms") <= line.pop("total_ms")
    seconds = (success["length_bytes"] - 44) / 2 / 24_000
    assert line.pop("audio_s") == pytest.approx(seconds, abs=0.002)
    assert line == {
        "event": "request.end",
        "log_level": "info",
        "outcome": "done",
        "engine": "fake",
        "voice": "tone-b",
        "chars": len(TEXT),
        "request": "r1",
    }
    assert "secret" not in json.dumps(logs)


async def test_all_dialects_pass_there(start_server: StartServer) -> None:
    """And the same text has the same hash in each, however it was cut; another has another."""
    with capture() as logs:
        server = await start_server(FakeEngine())
        async with server.connect() as client:
            await client.send({"command": "begin", "stream": True, "final_wav": False})
            for piece in (TEXT[:5], TEXT[5:]):
                await client.send({"command": "append", "text": piece})
            await client.send({"command": "end"})
            await client.until("success")
            await client.legacy({"text": TEXT + "!"})
        answer = await post(server, "/v1/audio/speech", {"input": TEXT})
        await post(server, "/v1/speak?model=fake", {"text": TEXT})
    lines = ends(logs)
    assert [line["outcome"] for line in lines] == ["done"] * 4
    hashes = [line["text_hash"] for line in lines]
    assert hashes[0] == hashes[2] == hashes[3]
    assert hashes[0] != hashes[1]
    assert hashes[0] != hashlib.blake2b(TEXT.encode(), digest_size=HASH_BYTES).hexdigest()  # anybody could try texts out
    assert lines[2]["request"] == answer.headers["x-request-id"]
    assert "secret" not in json.dumps(logs)


@pytest.mark.parametrize(("when", "heard"), [("before", False), ("after", True)])
async def test_a_failure_is_named_by_its_code(start_server: StartServer, when: str, heard: bool) -> None:
    with capture() as logs:
        server = await start_server(FakeEngine(faults={"secret": when}))
        async with server.connect() as client:
            await client.send({"text": TEXT, "stream": True})
            failure = (await client.until("error"))[-1]
    (line,) = ends(logs)
    assert isinstance(failure, dict)
    assert line["outcome"] == failure["code"]
    assert ("first_audio_ms" in line, line["audio_s"] > 0) == (heard, heard)
    assert "secret that" not in json.dumps(logs)


async def test_a_client_that_cancels_or_leaves_is_one_line_too(start_server: StartServer) -> None:
    engine = FakeEngine(block_delay_s=0.02)
    with capture() as logs:
        server = await start_server(engine)
        async with server.connect() as client:
            await client.send({"text": TEXT * 20, "stream": True})
            await until(lambda: engine.saying > 0)
            await client.send({"command": "cancel"})
            await client.until("cancelled")
            await client.send({"text": TEXT * 20, "stream": True})
            await until(lambda: engine.saying > 0)
            await client.drop()
        await until(lambda: len(ends(logs)) == 2)
    assert [line["outcome"] for line in ends(logs)] == ["cancelled", "cancelled"]


async def test_what_never_began_is_no_line(start_server: StartServer) -> None:
    """It is counted in the metrics, and a flood of it shall not flood the log."""
    with capture() as logs:
        server = await start_server(FakeEngine())
        async with server.connect() as client:
            for request in ({"text": ""}, {"text": "Hi.", "model": "gpt"}, {"text": 5}, "{"):
                assert (await client.ask(request))["status"] == "error"
    assert [line["event"] for line in logs] == ["server.listening"]


async def test_texts_are_logged_where_the_settings_say_so(start_server: StartServer) -> None:
    with capture() as logs:
        server = await start_server(FakeEngine(), log_text=True)
        async with server.connect() as client:
            await client.legacy({"text": TEXT})
    assert ends(logs)[0]["text"] == TEXT


async def test_many_requests_are_as_many_lines(start_server: StartServer) -> None:
    with capture() as logs:
        server = await start_server(FakeEngine())
        async with trio.open_nursery() as nursery:

            async def speak(number: int) -> None:
                async with server.connect() as client:
                    await client.legacy({"text": "x" * number, "request_id": f"r{number}"})

            for number in range(1, 11):
                nursery.start_soon(speak, number)
    assert sorted((line["chars"], line["request"]) for line in ends(logs)) == [(n, f"r{n}") for n in range(1, 11)]
