"""The HTTP routes that belong to no dialect, and the server's life as HTTP clients see it."""

from __future__ import annotations

import os
import signal
from importlib import resources

import httpx
import pytest
import trio
from trio.testing import MockClock

from tests.conftest import RunningServer, StartServer
from tests.fake_engine import FakeEngine, entry
from tts_provider.server.lifecycle import ServerAddress, serve
from tts_provider.settings import Settings


def client(server: RunningServer) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://{server.address.host}:{server.address.port}", timeout=60)


async def test_health_and_readiness(start_server: StartServer, autojump_clock: MockClock) -> None:
    """Alive at once, ready when what is to be preloaded is; neither may be cached."""
    autojump_clock.autojump_threshold = 0.01
    server = await start_server(FakeEngine(load_s=5), preload=("fake",))
    async with client(server) as http:
        health, ready = await http.get("/health"), await http.get("/ready")
        assert (health.status_code, ready.status_code) == (200, 503)
        assert health.headers["cache-control"] == ready.headers["cache-control"] == "no-store"
        await trio.sleep(6)
        assert (await http.get("/ready")).status_code == 200


async def test_info_is_what_the_websocket_says(start_server: StartServer) -> None:
    server = await start_server(FakeEngine(), entry(FakeEngine("absent"), unavailable=lambda: "pip install it"))
    async with client(server) as http, server.connect() as wire:
        info = (await http.get("/v1/info")).json()
        assert info == await wire.ask({"command": "info"})
    assert info["available_models"]["absent"]["detail"] == "pip install it"


async def test_errors_of_http_have_the_form_of_all_errors(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    async with client(server) as http:
        missing = await http.get("/v1/nope")
        assert missing.status_code == 404
        assert missing.json()["error"].keys() == {"message", "type", "param", "code"}
        wrong = await http.delete("/v1/audio/speech")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
        assert wrong.headers["x-request-id"] != missing.headers["x-request-id"]


async def test_the_page_asks_for_nothing_from_elsewhere(start_server: StartServer) -> None:
    """Every address in it is its own, and the policy sent with it would stop any other."""
    server = await start_server(FakeEngine())
    async with client(server) as http:
        page, worklet = await http.get("/"), await http.get("/worklet.js")
        assert (await http.head("/")).headers["content-length"] == str(len(page.content))
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert worklet.headers["content-type"] == "text/javascript; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for text in (page.text, worklet.text):
        assert "//" not in text.replace("// ", "").replace("http://, except", "")


def test_the_page_is_part_of_the_package() -> None:
    files = {file.name for file in resources.files("tts_provider.server").joinpath("page").iterdir()}
    assert files == {"index.html", "worklet.js"}


async def test_a_drain_lets_speech_end(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """The answer under way is heard to its end, then the server is gone."""
    autojump_clock.autojump_threshold = 0.01
    ended = trio.Event()

    async def run(*, task_status: trio.TaskStatus[ServerAddress]) -> None:
        engine = FakeEngine(block_delay_s=0.05)
        await serve(Settings(port=0, default_model="fake"), entries=[entry(engine)], task_status=task_status)
        ended.set()

    server = RunningServer(await nursery.start(run), Settings())
    body = {"input": "This sentence takes two seconds to speak.", "response_format": "pcm"}
    async with client(server) as http, client(server) as idle:
        await idle.get("/health")
        async with http.stream("POST", "/v1/audio/speech", json=body) as answer:
            pieces = answer.aiter_raw()
            received = len(await anext(pieces))
            os.kill(os.getpid(), signal.SIGTERM)
            received += sum([len(piece) async for piece in pieces])
        assert received / 48_000 > 1.5
        with trio.fail_after(5):
            await ended.wait()
        with pytest.raises(httpx.TransportError):
            await idle.get("/health")
