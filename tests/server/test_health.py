"""An engine that keeps failing is left alone, says so, is probed off every request's path, and comes back."""

from __future__ import annotations

import httpx
import trio
from trio.testing import MockClock

from tests.conftest import Json, RunningServer, StartServer, Wire, replies_of
from tests.fake_engine import VOICES, FakeEngine
from tts_provider.engines.base import VoiceChoice, VoiceRequest
from tts_provider.engines.breaker import FAILURES_IN_A_ROW, FIRST_COOL_DOWN_S
from tts_provider.errors import UnsupportedLanguage
from tts_provider.server.health import PROBE_S, PROBE_TEXT

SECRET = "Nobody but me and the engine reads this number"


async def fail(client: Wire, times: int = FAILURES_IN_A_ROW) -> Json:
    """The last answer to so many requests, each with a text of its own."""
    reply: Json = {}
    for number in range(times):
        reply = await client.ask({"text": f"{SECRET} {number}."})
        assert reply["status"] == "error"
    return reply


async def get(server: RunningServer, path: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=f"http://{server.address.host}:{server.address.port}", timeout=60) as http:
        return await http.get(path)


async def state(client: Wire) -> tuple[str, str | None]:
    info = await client.ask({"command": "info"})
    return info["available_models"]["fake"]["state"], info["available_models"]["fake"].get("detail")


async def test_a_failing_engine_is_left_alone_and_says_so(start_server: StartServer) -> None:
    """New requests are refused at once, in `info`, `/ready` and the metrics it is seen, and `/health` stays."""
    engine = FakeEngine(faults={"": "before"})
    server = await start_server(engine)
    async with server.connect() as client:
        assert (await fail(client))["code"] == "synthesis_failed"
        tried = len(engine.said)
        reply = await client.ask({"text": "One more."})
        assert (reply["code"], reply["retryable"], len(engine.said)) == ("engine_unavailable", True, tried)
        assert 0 < reply["retry_after_ms"] <= 1000 * FIRST_COOL_DOWN_S
        assert await state(client) == ("failing", "The fake engine failed before the audio.")
    assert ((await get(server, "/ready")).status_code, (await get(server, "/health")).status_code) == (503, 200)
    assert 'tts_engine_state{engine="fake",state="failing"} 1.0' in (await get(server, "/metrics")).text


async def test_one_probe_with_a_fixed_text_brings_it_back(start_server: StartServer, autojump_clock: MockClock) -> None:
    """Never with a user's; and probes that fail do not let requests through."""
    autojump_clock.autojump_threshold = 0.01
    engine = FakeEngine(faults={"": "before"})
    server = await start_server(engine)
    async with server.connect() as client:
        await fail(client)
        engine.said.clear()
        await trio.sleep(FIRST_COOL_DOWN_S + 1)
        assert engine.said == [PROBE_TEXT]
        assert (await client.ask({"text": "One more."}))["code"] == "engine_unavailable"
        engine.faults = {}
        await trio.sleep(2 * FIRST_COOL_DOWN_S)
        assert engine.said == [PROBE_TEXT] * 2
        assert await state(client) == ("ready", None)
        await client.legacy({"text": "Fine."})
    assert (await get(server, "/ready")).status_code == 200
    assert engine.sessions == 0


async def test_a_probe_that_hangs_is_given_up(start_server: StartServer, autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.01
    engine = FakeEngine(faults={SECRET: "before", PROBE_TEXT: "hang"})
    server = await start_server(engine)
    async with server.connect() as client:
        await fail(client)
        await trio.sleep(FIRST_COOL_DOWN_S + PROBE_S + 1)
        assert (engine.sessions, engine.cancelled) == (0, 1)
        assert (await state(client))[0] == "failing"
        engine.faults = {}
        await trio.sleep(2 * FIRST_COOL_DOWN_S)
        assert (await state(client))[0] == "ready"


async def test_an_engine_without_english_is_probed_in_a_language_that_it_has(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.01

    class Japanese(FakeEngine):
        def resolve(self, request: VoiceRequest) -> VoiceChoice:
            if request.lang != "ja-JP":
                raise UnsupportedLanguage("Japanese only.")
            return VoiceChoice(VOICES[2], "ja-JP")

    engine = Japanese(faults={"": "before"})
    server = await start_server(engine)
    async with server.connect() as client:
        for number in range(FAILURES_IN_A_ROW):
            await client.ask({"text": f"Text {number}.", "lang": "ja-JP"})
        engine.faults = {}
        await trio.sleep(FIRST_COOL_DOWN_S + 1)
        assert (await state(client))[0] == "ready"


async def test_a_bad_text_takes_the_engine_from_nobody(start_server: StartServer) -> None:
    """However often it is sent."""
    server = await start_server(FakeEngine(faults={"trouble": "before"}))
    async with server.connect() as client:
        for _ in range(3 * FAILURES_IN_A_ROW):
            assert (await client.ask({"text": "Here is trouble."}))["code"] == "synthesis_failed"
        await client.legacy({"text": "Fine."})


async def test_wrong_requests_take_the_engine_from_nobody(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        for number in range(3 * FAILURES_IN_A_ROW):
            assert (await client.ask({"text": f"Text {number}.", "speaker": 9}))["code"] == "unknown_speaker"
        await client.legacy({"text": "Fine."})


async def test_a_failing_engine_is_replaced_at_once_and_the_server_stays_ready(start_server: StartServer) -> None:
    """With a chain its clients need not notice, nor wait for its failures."""
    engine = FakeEngine(faults={"": "before"})
    server = await start_server(engine, FakeEngine(name="spare"), fallback=("spare",))
    async with server.connect() as client:
        for number in range(FAILURES_IN_A_ROW + 3):
            success, _ = await client.legacy({"text": f"Text {number}."})
            assert success["engine_used"] == "spare"
        # A voice's language is known all the same: the engine is loaded, and only left alone.
        success, _ = await client.legacy({"text": "Konnichiwa.", "voice": "tone-c"})
        assert (success["engine_used"], success["lang"]) == ("spare", "ja-JP")
    assert {text.split()[0] for text in engine.said} == {"Text"}
    assert len(engine.said) == FAILURES_IN_A_ROW
    assert (await get(server, "/ready")).status_code == 200


async def test_an_engine_that_keeps_crashing_is_left_alone(start_server: StartServer, autojump_clock: MockClock) -> None:
    """It is loaded again twice, then only by probes."""
    autojump_clock.autojump_threshold = 0.01
    engine = FakeEngine()
    server = await start_server(engine)
    async with server.connect() as client:
        await client.legacy({"text": "Fine."})
        for loads in (2, 3):
            engine.crash()
            await trio.sleep(1)
            assert engine.loads == loads
        engine.crash()
        await trio.sleep(1)
        assert (engine.loads, (await state(client))[0]) == (3, "failing")
        await client.send({"text": "Hi.", "stream": True})
        assert replies_of(await client.until("error", "success"), "error")[0]["code"] == "engine_unavailable"
        await trio.sleep(FIRST_COOL_DOWN_S)
        assert (engine.loads, (await state(client))[0]) == (4, "ready")


async def test_an_engine_that_does_not_come_back_is_probed_until_it_does(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.01
    engine = FakeEngine()
    server = await start_server(engine)
    async with server.connect() as client:
        await client.legacy({"text": "Fine."})
        engine.load_error = True
        engine.crash()
        await trio.sleep(1)
        assert await state(client) == ("failing", "The fake engine was told not to load.")
        engine.load_error = False
        await trio.sleep(FIRST_COOL_DOWN_S)
        assert (await state(client))[0] == "ready"
