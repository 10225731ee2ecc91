"""Rows 79 to 88: what an engine can do wrong, as its client sees it. How the server deals with it stands elsewhere."""

from __future__ import annotations

import errno

import pytest
import trio
from trio.testing import MockClock

from tests.bad_input.rows import assert_clean, assert_usable, row
from tests.conftest import StartServer, audio_of, replies_of
from tests.fake_engine import FakeEngine
from tts_provider.engines.base import Capabilities, ProgressReport

ONE_SLOT = Capabilities(sample_rate=24_000, slots=1)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        row(79, "before-audio", "before", "synthesis_failed"),
        row(79, "bug", "bug", "synthesis_failed"),
        row(81, "nothing", "nothing", "no_audio"),
        row(81, "silence", "silence", "no_audio"),
        row(82, "not-a-number", "nan", "synthesis_failed"),
        row(82, "wrong-dtype", "dtype", "synthesis_failed"),
        row(83, "hang", "hang", "timeout"),
        row(86, "endless", "endless", "synthesis_failed"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_fault_of_the_engine_is_one_error(
    start_server: StartServer, autojump_clock: MockClock, fault: str, code: str, stream: bool
) -> None:
    """Instead of a file, and after no more audio than the text can last; the slot is free for the next request."""
    engine = FakeEngine(capabilities=ONE_SLOT, faults={"trouble": fault})
    server = await start_server(engine)
    async with server.connect() as client:
        await client.send({"text": "Here is trouble.", "stream": stream})
        messages = await client.until("error", "success")
        error = replies_of(messages, "error")[0]
        assert error["code"] == code
        assert_clean(error)
        heard_s = len(audio_of(messages)) / 48_000
        assert heard_s < 60 if stream else heard_s == 0
        assert (engine.sessions, engine.saying) == (0, 0)
        await assert_usable(client)


@pytest.mark.row(80)
@pytest.mark.parametrize("stream", [False, True])
async def test_row_80_an_engine_that_fails_after_audio_is_an_error_and_no_file(start_server: StartServer, stream: bool) -> None:
    """What was streamed stays; no file follows it, whole or cut."""
    engine = FakeEngine(capabilities=ONE_SLOT, faults={"trouble": "after"})
    server = await start_server(engine)
    async with server.connect() as client:
        await client.send({"text": "All is well here. Now comes trouble.", "stream": stream})
        messages = await client.until("error", "success")
        error = replies_of(messages, "error")[0]
        assert error["code"] == "synthesis_failed"
        assert_clean(error)
        assert (len(audio_of(messages)) > 0) == stream
        assert b"RIFF" not in audio_of(messages)
        await assert_usable(client)


@pytest.mark.parametrize(
    "number",
    [row(88, "disk-full", errno.ENOSPC), row(88, "no-network", errno.ENETUNREACH), row(88, "no-memory", errno.ENOMEM)],
)
async def test_an_engine_that_cannot_be_loaded_is_unavailable(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """For everybody who waits for it, with no word about the machine, and it is tried again at the next request."""

    async def fail(self: FakeEngine, report: ProgressReport, *, task_status: trio.TaskStatus[None]) -> None:
        report(0.5, "downloading")
        await trio.sleep(0.1)
        raise OSError(number, "No space left on device: '/home/canary/model.safetensors'")

    server = await start_server(FakeEngine())
    async with server.connect() as client, server.connect() as other:
        with monkeypatch.context() as patch:
            patch.setattr(FakeEngine, "run", fail)
            for one in (client, other):
                await one.send({"text": "Hi.", "stream": True})
            for one in (client, other):
                error = replies_of(await one.until("error"), "error")[0]
                assert error["code"] == "engine_unavailable"
                assert_clean(error)
        await assert_usable(client)
