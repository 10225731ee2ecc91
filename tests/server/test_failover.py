"""Another engine speaks what its own cannot: opt-in, before the first audio, in the same language, and told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import numpy as np
import pytest
import trio
from trio.testing import MockClock

from tests.conftest import Json, StartServer, Wire, audio_of, replies_of
from tests.fake_engine import VOICES, FakeEngine, entry, tone_frequency
from tts_provider.client import Sentence, TTSClient
from tts_provider.engines.base import Capabilities, Voice, VoiceChoice, VoiceRequest
from tts_provider.engines.languages import unsupported
from tts_provider.errors import Overloaded, UnknownModel
from tts_provider.server.lifecycle import serve
from tts_provider.settings import Settings

FOUR = "The first sentence. The second sentence. The third sentence. The fourth sentence."


def broken(fault: str = "before", **options: Any) -> FakeEngine:
    """An engine that has `fault` whatever it is to say."""
    return FakeEngine(faults={"": fault}, **options)


def spare(name: str = "spare", **options: Any) -> FakeEngine:
    return FakeEngine(name=name, **options)


async def stream(client: Wire, request: Json) -> list[Json | bytes]:
    """All messages that answer a streamed request."""
    await client.send({"stream": True, "final_wav": False, "request_id": "r", **request})
    return await client.until("success", "error")


async def test_the_next_engine_speaks_the_whole_text_and_the_reply_tells(start_server: StartServer) -> None:
    first, second = broken(), spare()
    server = await start_server(first, second, FakeEngine(name="plain"), fallback=("spare",))
    async with server.connect() as client:
        messages = await stream(client, {"text": FOUR})
        [streaming], [success] = replies_of(messages, "streaming"), replies_of(messages, "success")
        alone = await stream(client, {"text": FOUR, "model": "plain"})
    assert (streaming["model"], streaming["engine_used"], success["engine_used"]) == ("fake", "spare", "spare")
    assert streaming["warnings"] == ["Engine 'fake' failed (synthesis_failed); 'spare' speaks instead."]
    assert audio_of(messages) == audio_of(alone)
    assert "engine_used" not in replies_of(alone, "streaming")[0]
    assert [reply["text"] for reply in replies_of(messages, "sentence")] == [f"{s}." for s in FOUR.rstrip(".").split(". ")]
    assert (first.sessions, second.sessions) == (0, 0)


async def test_a_client_of_the_replaced_server_is_told_too(start_server: StartServer) -> None:
    server = await start_server(broken(), spare(), fallback=("spare",))
    async with server.connect() as client:
        success, wav = await client.legacy({"text": "Hello there."})
    assert (success["model"], success["engine_used"], len(wav)) == ("fake", "spare", success["length_bytes"])


async def test_without_the_setting_nobody_steps_in(start_server: StartServer) -> None:
    second = spare()
    server = await start_server(broken(), second)
    async with server.connect() as client:
        assert (await client.ask({"text": "Hello there."}))["code"] == "synthesis_failed"
    assert second.said == []


@pytest.mark.parametrize("fault", ["before", "bug", "nothing", "silence", "dtype", "encoded", "hang"])
async def test_each_failure_before_the_first_audio_falls_back(
    start_server: StartServer, autojump_clock: MockClock, fault: str
) -> None:
    server = await start_server(broken(fault), spare(), fallback=("spare",))
    async with server.connect() as client:
        success, _ = await client.legacy({"text": "Hello there."})
    assert success["engine_used"] == "spare"


@pytest.mark.parametrize("options", [{"load_error": True}, {"load_bug": MemoryError()}])
async def test_an_engine_that_cannot_be_loaded_falls_back(start_server: StartServer, options: dict[str, Any]) -> None:
    server = await start_server(FakeEngine(**options), spare(), fallback=("spare",))
    async with server.connect() as client:
        success, _ = await client.legacy({"text": "Hello there."})
    assert success["engine_used"] == "spare"


async def test_an_engine_that_is_not_installed_falls_back(start_server: StartServer) -> None:
    missing = entry(FakeEngine(), unavailable=lambda: "Install it: pip install it")
    server = await start_server(missing, spare(), fallback=("spare",))
    async with server.connect() as client:
        success, _ = await client.legacy({"text": "Hello there."})
    assert success["engine_used"] == "spare"


async def test_overload_falls_back(start_server: StartServer) -> None:
    class Full(FakeEngine):
        def session(self, *_: Any) -> Any:
            raise Overloaded("All slots are taken.")

    server = await start_server(Full(), spare(), fallback=("spare",))
    async with server.connect() as client:
        success, _ = await client.legacy({"text": "Hello there."})
    assert success["engine_used"] == "spare"


async def test_nobody_steps_in_after_the_first_audio(start_server: StartServer) -> None:
    """Voices are never spliced, not even between sentences."""
    second = spare()
    server = await start_server(FakeEngine(faults={"second": "before"}), second, fallback=("spare",))
    async with server.connect() as client:
        messages = await stream(client, {"text": FOUR})
    assert replies_of(messages, "error")[0]["code"] == "synthesis_failed"
    assert "engine_used" not in replies_of(messages, "streaming")[0]
    assert audio_of(messages)
    assert second.said == []


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"text": "..."}, "empty_text"),
        ({"lang": "xx-YY"}, "unsupported_language"),
        ({"speaker": 9}, "unknown_speaker"),
        ({"voice": "nobody"}, "unknown_speaker"),
        ({"sample_rate": 1}, "invalid_sample_rate"),
    ],
)
async def test_a_wrong_request_does_not_fall_back(start_server: StartServer, fields: Json, code: str) -> None:
    second = spare()
    server = await start_server(broken(), second, fallback=("spare",))
    async with server.connect() as client:
        assert (await client.ask({"text": "Hello there.", **fields}))["code"] == code
    assert (second.loads, second.said) == (0, [])


async def test_when_nobody_can_the_error_is_that_of_the_engine_asked_for(start_server: StartServer) -> None:
    second, third = spare(faults={"": "nothing"}), spare("last", load_error=True)
    server = await start_server(broken(), second, third, fallback=("spare", "last"))
    async with server.connect() as client:
        messages = await stream(client, {"text": FOUR})
    assert replies_of(messages, "error")[0]["code"] == "synthesis_failed"
    assert replies_of(messages, "streaming") == []
    assert (bool(second.said), third.loads) == (True, 1)


async def test_an_engine_may_have_a_chain_of_its_own(start_server: StartServer) -> None:
    """Which wins over the general one; the engine itself is never tried again."""
    engines = [broken(name=name) for name in ("a", "b")]
    server = await start_server(*engines, spare("c"), spare("d"), default_model="a", fallback=("a>b>c", "a", "d"))
    async with server.connect() as client:
        own, _ = await client.legacy({"text": "Hello there."})
        general, _ = await client.legacy({"text": "Hello there.", "model": "b"})
    assert (own["engine_used"], general["engine_used"]) == ("c", "d")
    assert own["warnings"] == ["Engine 'a' failed (synthesis_failed); 'c' speaks instead."]


async def test_text_that_is_still_written_is_read_again_from_its_beginning(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    """The first engine had been given a sentence when it failed; the other says all of them, once."""
    autojump_clock.autojump_threshold = 0.01
    first, second = broken("hang"), spare()
    server = await start_server(first, second, fallback=("spare",))
    async with server.connect() as client:
        await client.send({"command": "begin", "stream": True, "final_wav": False})
        await client.send({"command": "append", "text": "The first sentence. The sec"})
        await client.send({"command": "append", "text": "ond sentence. "})
        await client.send({"command": "flush"})
        messages = await client.until("sentence")
        assert first.said == ["The first sentence. "]
        await client.send({"command": "append", "text": "The third sentence."})
        await client.send({"command": "end"})
        messages += await client.until("success", "error")
    assert "".join(second.said) == "The first sentence. The second sentence. The third sentence."
    assert [reply["text"] for reply in replies_of(messages, "sentence")] == [
        "The first sentence.",
        "The second sentence.",
        "The third sentence.",
    ]


async def test_a_text_that_waits_to_be_read_again_still_counts_against_the_limit(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    """Until the first audio; after it what was spoken makes room."""
    autojump_clock.autojump_threshold = 0.01
    server = await start_server(broken("hang"), spare(), fallback=("spare",), max_text_chars=40)
    async with server.connect() as client:
        await client.send({"command": "begin", "stream": True, "final_wav": False})
        await client.send({"command": "append", "text": "A sentence that has thirty-one. "})
        await client.send({"command": "append", "text": "And more."})
        assert (await client.reply())["code"] == "text_too_long"
        await client.send({"command": "append", "text": "And."})
        await client.until("sentence")
        await client.send({"command": "append", "text": " And a fourth one of them."})
        await client.send({"command": "end"})
        assert replies_of(await client.until("success", "error"), "success")


async def test_the_asked_rate_is_kept(start_server: StartServer) -> None:
    """The other engine's own is another; its tone has the same pitch."""
    other = spare(capabilities=Capabilities(sample_rate=16_000))
    server = await start_server(broken(), other, fallback=("spare",))
    async with server.connect() as client:
        success, wav = await client.legacy({"text": "Hello there, world.", "sample_rate": 44_100})
    assert (success["sample_rate"], success["engine_used"]) == (44_100, "spare")
    samples = np.frombuffer(wav, "<i2", offset=44)
    loudest = np.argmax(np.abs(np.fft.rfft(samples))) * 44_100 / len(samples)
    assert loudest == pytest.approx(tone_frequency(0), abs=5)


# --- Who speaks, and what ---


@dataclass
class Monoglot(FakeEngine):
    """Speaks one language only, whatever region is asked for, and knows its voices by other names."""

    name: str = "spare"
    language: str = "ja-JP"

    def resolve(self, request: VoiceRequest) -> VoiceChoice:
        assert request.voice is None
        if request.lang.split("-")[0] != self.language.split("-")[0]:
            raise unsupported(request.lang, self.name, [self.language])
        return VoiceChoice(Voice("only", "Only", self.language), self.language, request.speaker)


async def test_an_engine_without_the_language_is_passed_over(start_server: StartServer) -> None:
    server = await start_server(broken(), Monoglot(), spare("last"), fallback=("spare", "last"))
    async with server.connect() as client:
        english, _ = await client.legacy({"text": "Hello there."})
        japanese, _ = await client.legacy({"text": "Konnichiwa.", "lang": "ja-JP"})
    assert (english["engine_used"], japanese["engine_used"]) == ("last", "spare")


async def test_an_engine_that_would_speak_another_language_is_passed_over(start_server: StartServer) -> None:
    """Some engines take what comes close for what was meant."""

    class Generous(Monoglot):
        def resolve(self, request: VoiceRequest) -> VoiceChoice:
            return super().resolve(replace(request, lang=self.language))

    server = await start_server(broken(), Generous(), fallback=("spare",))
    async with server.connect() as client:
        assert (await client.ask({"text": "Hello there."}))["code"] == "synthesis_failed"


async def test_a_voice_is_replaced_by_one_of_its_language_with_a_warning(start_server: StartServer) -> None:
    """The request said only the voice; its language is the voice's, not the default one."""
    server = await start_server(broken(), Monoglot(), fallback=("spare",))
    async with server.connect() as client:
        success, _ = await client.legacy({"text": "Konnichiwa.", "voice": VOICES[2].id, "speaker": 1})
    assert (success["engine_used"], success["voice"], success["lang"]) == ("spare", "only", "ja-JP")
    assert "The voice asked for is one of 'fake'; speaker 1 speaks." in success["warnings"]


async def test_a_voice_whose_language_nobody_knows_is_not_replaced(start_server: StartServer) -> None:
    """The engine that knows could not be loaded; a guess might be another language."""
    second = spare()
    server = await start_server(FakeEngine(load_error=True), second, fallback=("spare",))
    async with server.connect() as client:
        assert (await client.ask({"text": "Konnichiwa.", "voice": "tone-c"}))["code"] == "engine_unavailable"
    assert second.said == []


async def test_options_of_one_engine_do_not_reach_another(start_server: StartServer) -> None:
    """They may mean something else there."""
    abilities = Capabilities(sample_rate=24_000, options=frozenset({"seed"}))
    second = spare(capabilities=abilities)
    server = await start_server(broken(capabilities=abilities), second, fallback=("spare",))
    async with server.connect() as client:
        success, _ = await client.legacy({"text": "Hello there.", "extra_params": {"seed": 7}})
    assert [dict(options.extra) for options in second.options] == [{}]
    assert "Options of 'fake' were left out." in success["warnings"]


# --- Other dialects, and the rest ---


async def test_the_client_of_this_project_reads_who_speaks(start_server: StartServer) -> None:
    """Also for a text that is still being written, where the server's first answer comes with the first sound."""

    async def tokens() -> AsyncIterator[str]:
        for token in ("Hello ", "there. ", "How are you?"):
            await trio.lowlevel.checkpoint()
            yield token

    second = spare()
    server = await start_server(broken(), second, fallback=("spare",))
    async with TTSClient(server.address.host, server.address.port) as client, client.speak_text_stream(tokens()) as speech:
        sentences = [item.text async for item in speech if isinstance(item, Sentence)]
    assert (speech.streaming.model, speech.streaming.engine_used) == ("fake", "spare")
    assert sentences == ["Hello there.", "How are you?"]


@pytest.mark.parametrize(("path", "body"), [("/v1/audio/speech", {"input": "Hello there."}), ("/v1/speak", {"text": "Hi."})])
async def test_http_tells_in_a_header(start_server: StartServer, path: str, body: Json) -> None:
    server = await start_server(broken(), spare(), fallback=("spare",))
    async with httpx.AsyncClient(base_url=f"http://{server.address.host}:{server.address.port}", timeout=60) as http:
        replaced = await http.post(path, json=body)
        asked = await http.post("/v1/audio/speech", json={"input": "Hello there.", "model": "spare"})
        metrics = (await http.get("/metrics")).text
    assert (replaced.status_code, replaced.headers["x-engine-used"]) == (200, "spare")
    assert "x-engine-used" not in asked.headers
    assert 'tts_fallbacks_total{engine="fake",to="spare"} 1.0' in metrics
    assert 'tts_requests_total{engine="fake",outcome="failed"} 1.0' in metrics


async def test_a_request_with_a_spare_engine_can_be_cancelled(start_server: StartServer, autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.01
    first, second = broken("hang"), spare(block_delay_s=0.05)
    server = await start_server(first, second, fallback=("spare",))
    async with server.connect() as client:
        await client.send({"text": FOUR, "stream": True, "request_id": "r"})
        await client.until("sentence")
        await client.send({"command": "cancel", "request_id": "r"})
        await client.until("cancelled")
    assert (first.sessions, second.sessions, second.saying) == (0, 0, 0)


async def test_the_first_audio_is_not_held_back_where_an_engine_stands_by(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    """Who speaks is told right before it, and no later."""
    server = await start_server(FakeEngine(block_delay_s=0.05), spare(), fallback=("spare",))
    async with server.connect() as client:
        messages = await stream(client, {"text": FOUR})
    kinds = [message["status"] if isinstance(message, dict) else "audio" for message in messages]
    assert kinds[:3] == ["streaming", "sentence", "audio"]
    # The third block has the first sound; the others are silence and are cut.
    assert replies_of(messages, "success")[0]["timings"]["first_audio_ms"] == pytest.approx(150, abs=60)


async def test_an_engine_that_does_not_exist_is_refused_at_the_start() -> None:
    with pytest.raises(UnknownModel, match="fake"):
        await serve(Settings(port=0, default_model="fake", fallback=("fake>gpt",)), entries=[entry(FakeEngine())])
    await trio.lowlevel.checkpoint()
