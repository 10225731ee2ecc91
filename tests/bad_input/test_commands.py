"""Rows 53 to 58: commands that there are not, and `info` in all circumstances."""

from __future__ import annotations

import time

import pytest
import trio
from trio.testing import MockClock

from tests.bad_input.rows import assert_clean, assert_usable, refused, row
from tests.conftest import Json, StartServer
from tests.fake_engine import FakeEngine, entry

INFO_CPU_S = 0.025
"""For one answer, client included: five times what is promised."""


@pytest.mark.parametrize(
    ("request_", "code", "hint"),
    [
        row(53, "capitals", {"command": "INFO"}, "unknown_command", "info"),
        row(53, "space", {"command": " info"}, "unknown_command", "info"),
        row(54, "shutdown", {"command": "shutdown"}, "unknown_command", "info"),
        row(55, "array", {"command": ["info"]}, "invalid_request", "string"),
    ],
)
async def test_a_command_that_is_none_is_refused(start_server: StartServer, request_: Json, code: str, hint: str) -> None:
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        await refused(client, request_, code, "command", hint)


@pytest.mark.row(56)
async def test_row_56_info_wins_over_a_text(start_server: StartServer) -> None:
    engine = FakeEngine()
    server = await start_server(engine)
    async with server.connect() as client:
        info = await client.ask({"command": "info", "text": "Hi."})
        assert (info["status"], "available_models" in info) == ("success", True)
        assert engine.said == []
        await assert_usable(client)


@pytest.mark.row(57)
async def test_row_57_info_costs_little_and_tells_no_secret(start_server: StartServer) -> None:
    """Also of an engine that failed in words of its own, and of settings that hold a password and a path."""
    secrets = {"edge_proxy": "http://user:canary@proxy:3128", "zonos_speakers": "/home/canary"}
    broken = entry(FakeEngine(name="broken", load_error=True))
    server = await start_server(FakeEngine(), broken, **secrets)
    async with server.connect() as client:
        assert (await client.ask({"text": "Hi.", "model": "broken"}))["status"] == "error"
        begun = time.process_time()
        for _ in range(200):
            assert_clean(await client.ask({"command": "info"}))
        assert (time.process_time() - begun) / 200 < INFO_CPU_S
        await assert_usable(client)


@pytest.mark.row(58)
async def test_row_58_info_is_answered_while_a_model_loads(start_server: StartServer, autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.01  # s; what is sent arrives before the clock jumps
    server = await start_server(FakeEngine(load_s=30))
    async with server.connect() as client:
        await client.send({"text": "Hi.", "stream": True, "final_wav": False})
        await client.until("queued")
        begun = trio.current_time()
        await client.send({"command": "info"})
        info = (await client.until("success"))[-1]
        assert trio.current_time() - begun < 0.1
        assert isinstance(info, dict)
        assert info["available_models"]["fake"]["state"] == "loading"
        await client.until("success")
        await assert_usable(client)
