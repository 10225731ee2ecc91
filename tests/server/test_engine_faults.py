"""Each fault of an engine, through the server: one clear code, never noise, and the next request works.

The numbers are those of the table of bad inputs, 79 to 88.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import trio
from trio.testing import MockClock

from tests.conftest import Json, RunningServer, StartServer, Wire, audio_of, replies_of
from tests.fake_engine import AMPLITUDE, FakeEngine, entry
from tests.server.waiting import until
from tests.slot_engine import SlotEngine
from tts_provider.engines.base import Capabilities
from tts_provider.engines.breaker import FIRST_COOL_DOWN_S
from tts_provider.engines.catalog import Entry
from tts_provider.engines.codec_lm.scheduler import STUCK_S
from tts_provider.streaming.utterance import FIRST_AUDIO_S

JUMP_S = 0.05
"""Real seconds without any work before the clock jumps: longer than a step in a thread takes."""


async def failure(client: Wire, request: Json) -> Json:
    """The error that answers `request`, which nothing but JSON may come before."""
    await client.send({"request_id": "r", **request})
    messages = await client.until("error", "success")
    assert audio_of(messages) == b""
    reply = messages[-1]
    assert isinstance(reply, dict)
    assert reply["status"] == "error", reply
    assert "secret" not in reply["message"]
    return reply


async def status(server: RunningServer, path: str = "/ready") -> int:
    async with httpx.AsyncClient(base_url=f"http://{server.address.host}:{server.address.port}", timeout=60) as http:
        return (await http.get(path)).status_code


@pytest.mark.row(79)
async def test_79_an_engine_that_fails_before_its_audio(start_server: StartServer) -> None:
    """An error that may be retried; nothing was heard. With another engine in reserve it is no error: test_failover."""
    engine = FakeEngine(faults={"trouble": "before"})
    server = await start_server(engine)
    async with server.connect() as client:
        reply = await failure(client, {"text": "Here is trouble.", "stream": True})
        assert (reply["code"], reply["retryable"], reply["request_id"]) == ("synthesis_failed", True, "r")
        await client.legacy({"text": "Fine."})
    assert engine.sessions == 0


@pytest.mark.row(80)
@pytest.mark.parametrize("stream", [True, False])
async def test_80_an_engine_that_fails_after_some_audio(start_server: StartServer, stream: bool) -> None:
    """What came is good, an error ends it, and no file follows: the next bytes are the next request's."""
    server = await start_server(FakeEngine(faults={"trouble": "after"}))
    async with server.connect() as client:
        await client.send({"text": "All is well here. Now comes trouble.", "stream": stream})
        messages = await client.until("error", "success")
        assert replies_of(messages, "error")[0]["code"] == "synthesis_failed"
        assert bool(audio_of(messages)) is stream
        assert (await client.ask({"command": "info"}))["status"] == "success"
        await client.legacy({"text": "Fine."})


@pytest.mark.row(81)
@pytest.mark.parametrize("fault", ["nothing", "silence"])
async def test_81_an_engine_that_makes_nothing(start_server: StartServer, fault: str) -> None:
    server = await start_server(FakeEngine(faults={"trouble": fault}))
    async with server.connect() as client:
        assert (await failure(client, {"text": "Here is trouble."}))["code"] == "no_audio"


@pytest.mark.row(81)
@pytest.mark.parametrize("fault", ["nothing", "silence"])
async def test_81_a_sentence_without_sound_is_not_left_out_in_silence(start_server: StartServer, fault: str) -> None:
    """The listener would take the text without it for the whole; the error says which part it was."""
    server = await start_server(FakeEngine(faults={"trouble": fault}))
    async with server.connect() as client:
        await client.send({"text": "All is well here. Now comes trouble. It is gone.", "stream": True})
        reply = replies_of(await client.until("error", "success"), "error")[0]
    assert reply["code"] == "no_audio"
    assert "characters 18 to 37" in reply["message"]


@pytest.mark.row(82)
@pytest.mark.parametrize("fault", ["nan", "inf", "odd", "dtype", "encoded", "scaled"])
@pytest.mark.parametrize("format", ["pcm", "mp3"])
async def test_82_what_is_no_audio_is_an_error_and_never_noise(start_server: StartServer, fault: str, format: str) -> None:
    """Values that are no numbers, half samples, samples of another type or scale, an encoding that nobody asked for."""
    server = await start_server(FakeEngine(faults={"trouble": fault}))
    async with server.connect() as client:
        await client.send({"text": "Here is trouble.", "stream": True, "format": format, "final_wav": False})
        messages = await client.until("error", "success")
        assert replies_of(messages, "error")[0]["code"] == "synthesis_failed"
        await client.legacy({"text": "Fine."})


@pytest.mark.row(82)
async def test_82_samples_where_encoded_audio_was_asked_for(start_server: StartServer) -> None:
    """An engine that can pass its MP3 on, and then sends samples instead, would send noise."""
    server = await start_server(FakeEngine(capabilities=Capabilities(sample_rate=24_000, encodings=frozenset({"mp3"}))))
    async with server.connect() as client:
        reply = await failure(client, {"text": "Hello there.", "stream": True, "format": "mp3", "final_wav": False})
    assert reply["code"] == "synthesis_failed"


@pytest.mark.row(82)
async def test_82_audio_that_is_too_loud_is_clipped_and_does_not_wrap(start_server: StartServer) -> None:
    server = await start_server(FakeEngine(faults={"loud": "loud"}))
    async with server.connect() as client:
        _, soft = await client.legacy({"text": "It is soft."})
        _, loud = await client.legacy({"text": "It is loud."})
    usual, clipped = (np.frombuffer(wav, "<i2", offset=44).astype(int) for wav in (soft, loud))
    assert usual.max() < 32767 * AMPLITUDE * 1.01
    assert clipped.shape == usual.shape
    assert (clipped.max(), clipped.min()) == (32767, -32767)
    beyond = np.abs(usual) > 32767 * 0.34  # three times that is more than full scale
    assert np.array_equal(clipped[beyond], 32767 * np.sign(usual[beyond]))


@pytest.mark.row(82)
async def test_82_an_engine_of_another_rate_than_it_said_is_not_used(start_server: StartServer) -> None:
    """Its speech would be too high or too low by the quotient of the two."""
    engine = FakeEngine(capabilities=Capabilities(sample_rate=22_050))
    line = Entry(name="fake", sample_rate=24_000, create=lambda: engine)
    server = await start_server(line)
    async with server.connect() as client:
        reply = await failure(client, {"text": "Hi."})
    assert reply["code"] == "engine_unavailable"
    assert "22050 Hz, not at 24000" in reply["message"]


@pytest.mark.row(82)
async def test_82_audio_far_too_short_for_its_text_is_no_success(start_server: StartServer) -> None:
    """A truncated sentence."""
    server = await start_server(FakeEngine(faults={"trouble": "short"}))
    async with server.connect() as client:
        await client.send({"text": "There is quite some trouble in this one.", "stream": True})
        reply = replies_of(await client.until("error", "success"), "error")[0]
        assert reply["code"] == "synthesis_failed"
        assert "only 0.13 s" in reply["message"]


@pytest.mark.row(83)
async def test_83_an_engine_that_hangs(start_server: StartServer, autojump_clock: MockClock) -> None:
    """The request is given up in time and its place is free for the next."""
    engine = FakeEngine(faults={"trouble": "hang"}, capabilities=Capabilities(sample_rate=24_000, slots=1))
    server = await start_server(engine)
    async with server.connect() as client:
        begun = trio.current_time()
        reply = await failure(client, {"text": "Here is trouble."})
        assert (reply["code"], reply["retryable"]) == ("timeout", True)
        assert trio.current_time() - begun < FIRST_AUDIO_S + 1
        assert (engine.sessions, engine.saying, engine.cancelled) == (0, 0, 1)
        await client.legacy({"text": "Fine."})


@pytest.mark.row(83)
async def test_83_a_step_that_is_stuck(start_server: StartServer, autojump_clock: MockClock) -> None:
    """Those who speak are told, newcomers at once, `/ready` dips; when the step comes back all is well again by itself."""
    autojump_clock.autojump_threshold = JUMP_S
    engine = SlotEngine()
    server = await start_server(engine, default_model="slots")
    try:
        async with server.connect() as client:
            begun = trio.current_time()
            reply = await failure(client, {"text": "It is stuck."})
            assert reply["code"] == "timeout"
            assert trio.current_time() - begun < STUCK_S + 5
            begun = trio.current_time()
            reply = await failure(client, {"text": "Another one."})
            assert (reply["code"], reply["retryable"]) == ("engine_unavailable", True)
            assert reply["retry_after_ms"] > 0
            assert trio.current_time() - begun < 1
            info = await client.ask({"command": "info"})
            assert info["available_models"]["slots"]["state"] == "failing"
            assert await status(server) == 503
            assert await status(server, "/health") == 200
            engine.model.free.set()
            await trio.sleep(FIRST_COOL_DOWN_S + 2)  # the first probe
            assert await status(server) == 200
            await client.legacy({"text": "Fine."})
        assert engine.model.loads == 1
    finally:
        engine.model.free.set()


@pytest.mark.row(84)
async def test_84_a_request_for_which_there_is_no_memory_fails_alone(start_server: StartServer) -> None:
    """The one beside it goes on, and the next request works."""
    engine = SlotEngine()
    server = await start_server(engine, default_model="slots")
    async with server.connect() as beside, server.connect() as client:
        await beside.send({"text": "A sentence that takes a little while. " * 20, "stream": True, "final_wav": False})
        await beside.until("sentence")
        reply = await failure(client, {"text": "It is oom."})
        assert (reply["code"], reply["retryable"]) == ("overloaded", True)
        assert reply["retry_after_ms"] > 0
        await client.legacy({"text": "It is oom."})
        assert (await beside.until("error", "success"))[-1]["status"] == "success"  # type: ignore[call-overload]
    assert engine.model.loads == 1


@pytest.mark.row(84)
async def test_84_memory_that_runs_out_in_a_step_fails_that_step(start_server: StartServer) -> None:
    """Nobody knows whose it was; the model stays and serves the next."""
    engine = SlotEngine()
    server = await start_server(engine, default_model="slots")
    async with server.connect() as client:
        reply = await failure(client, {"text": "It is full."})
        assert (reply["code"], reply["retryable"]) == ("overloaded", True)
        await client.legacy({"text": "It is full."})
    assert engine.model.loads == 1


@pytest.mark.row(85)
async def test_85_a_device_that_breaks_is_loaded_again(start_server: StartServer) -> None:
    """Those who speak are told, `/ready` dips until the engine is back, and that happens without any request."""
    engine = SlotEngine()
    server = await start_server(engine, default_model="slots")
    async with server.connect() as client:
        reply = await failure(client, {"text": "It is cuda."})
        assert (reply["code"], reply["retryable"]) == ("synthesis_failed", True)
        await until(lambda: engine.model.loads == 2)
        await client.legacy({"text": "Fine."})
        assert await status(server) == 200


@pytest.mark.row(85)
async def test_85_the_server_is_not_ready_while_a_crashed_engine_loads(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.01
    engine = FakeEngine(load_s=10)
    server = await start_server(engine, preload=("fake",))
    await trio.sleep(12)
    assert await status(server) == 200
    engine.crash()
    await trio.sleep(5)
    assert await status(server) == 503
    await trio.sleep(10)
    assert await status(server) == 200
    assert engine.loads == 2


@pytest.mark.row(86)
async def test_86_speech_without_end_is_cut_off(start_server: StartServer, autojump_clock: MockClock) -> None:
    engine = FakeEngine(faults={"trouble": "endless"})
    server = await start_server(engine)
    async with server.connect() as client:
        assert (await failure(client, {"text": "Here is trouble."}))["code"] == "synthesis_failed"
        await client.legacy({"text": "Fine."})
    assert engine.sessions == 0


@pytest.fixture
def edge_entry(tmp_path: Path) -> Iterator[tuple[object, Entry]]:
    """A stand-in for Microsoft's service, and an engine on it."""
    pytest.importorskip("edge_tts")
    from tests.edge_service import EdgeService
    from tts_provider.engines.edge import EdgeEngine

    with EdgeService() as service:
        yield (
            service,
            Entry("edge", 24_000, lambda: EdgeEngine(endpoint=service.endpoint, cache_dir=tmp_path), light=True),
        )


@pytest.mark.row(87)
@pytest.mark.parametrize(
    ("fault", "code", "hint"),
    [
        ("vanish", "engine_unavailable", "hung up"),
        ("forbidden", "engine_unavailable", "upgrade the package edge-tts"),
        ("too_many", "overloaded", "429"),
        ("unavailable", "engine_unavailable", "503"),
        ("truncate", "synthesis_failed", "before the end"),
        ("no_audio", "no_audio", "no audio"),
    ],
)
async def test_87_what_edge_does_wrong_is_told_apart(
    start_server: StartServer, edge_entry: tuple[object, Entry], fault: str, code: str, hint: str
) -> None:
    """Hung up, refused, asked to slow down, out of order, cut off: and the next request works but after a lasting refusal."""
    from tests.edge_service import EdgeService, Rule

    service, line = edge_entry
    assert isinstance(service, EdgeService)
    service.plan.add(Rule(fault))  # type: ignore[arg-type]
    server = await start_server(line, default_model="edge")
    async with server.connect() as client:
        await client.send({"text": "Good morning, dear listeners.", "request_id": "r"})
        reply = (await client.until("error", "success"))[-1]
        assert isinstance(reply, dict)
        assert (reply["status"], reply.get("code"), reply["retryable"]) == ("error", code, True)
        assert hint in reply["message"]
        service.plan.clear()
        if fault != "forbidden":
            await client.legacy({"text": "Good morning."})


@pytest.mark.row(87)
async def test_87_an_edge_that_nobody_can_reach(start_server: StartServer, tmp_path: Path) -> None:
    pytest.importorskip("edge_tts")
    from tts_provider.engines.edge import EdgeEngine

    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    engine = Entry("edge", 24_000, lambda: EdgeEngine(endpoint=f"ws://127.0.0.1:{port}", cache_dir=tmp_path), light=True)
    server = await start_server(engine, default_model="edge")
    async with server.connect() as client:
        reply = await failure(client, {"text": "Good morning."})
    assert (reply["code"], reply["retryable"]) == ("engine_unavailable", True)
    assert str(port) not in reply["message"]


@pytest.mark.row(88)
@pytest.mark.parametrize(
    "bug",
    [
        OSError(errno.ENOSPC, "No space left on device", "/secret/cache"),
        ConnectionError("secret.example did not answer"),
        MemoryError(),
    ],
)
async def test_88_a_model_that_cannot_be_loaded(start_server: StartServer, autojump_clock: MockClock, bug: Exception) -> None:
    """A download that breaks off, a full disk: told after the wait, not hung, and everybody else is answered meanwhile."""
    autojump_clock.autojump_threshold = 0.01
    broken = FakeEngine(name="broken", load_s=8, load_bug=bug)
    server = await start_server(FakeEngine(), entry(broken))
    async with server.connect() as client, server.connect() as other:
        await client.send({"text": "Hi.", "model": "broken", "stream": True, "request_id": "r"})
        await client.until("queued")
        await other.legacy({"text": "Fine."})
        reply = (await client.until("error"))[-1]
        assert isinstance(reply, dict)
        assert (reply["code"], reply["retryable"]) == ("engine_unavailable", True)
        assert "secret" not in reply["message"]
        broken.load_bug = None
        await client.legacy({"text": "Hi.", "model": "fake"})
        await client.send({"text": "Hi.", "model": "broken", "stream": True})
        assert replies_of(await client.until("error", "success"), "success")
