"""The Wyoming dialect, as the package's own client and Home Assistant speak it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import msgspec
import pytest
import trio
from trio.testing import MockClock
from wyoming.audio import AudioChunk, AudioStart
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.info import Describe, Info, TtsProgram
from wyoming.ping import Ping, Pong
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeVoice

from tests.conftest import RunningServer, StartServer, audio_of
from tests.fake_engine import FakeEngine, entry
from tests.server.waiting import until
from tts_provider.engines.base import VoiceChoice, VoiceRequest
from tts_provider.server.lifecycle import serve
from tts_provider.settings import Settings, SettingsError

T = TypeVar("T")

TEXT = "Hello there, world. How are you today? I am well."
LONG = "This sentence takes two seconds to speak. " * 10
RESPONSE_S = 60.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def settings() -> Settings:
    """Wyoming on a free port beside the usual one."""
    return Settings(port=0, default_model="fake", wyoming_port=free_port())


async def talk(server: RunningServer, use: Callable[[AsyncTcpClient], Awaitable[T]]) -> T:
    """What `use` returns of a connected client of the package; it wants asyncio, so it runs in a thread."""

    async def connected() -> T:
        assert server.address.wyoming_port is not None
        async with asyncio.timeout(RESPONSE_S), AsyncTcpClient("127.0.0.1", server.address.wyoming_port) as client:
            return await use(client)

    return await trio.to_thread.run_sync(lambda: asyncio.run(connected()))


@dataclass
class Answer:
    """What came, until the last event that a client waits for, or the end of the connection."""

    types: list[str] = field(default_factory=list)
    """Of all events, but one for chunks in a row."""
    formats: set[tuple[int, int, int]] = field(default_factory=set)
    audio: bytes = b""
    code: str | None = None
    """The error's."""

    def add(self, event: Event) -> None:
        if event.type != "audio-chunk" or self.types[-1:] != ["audio-chunk"]:
            self.types.append(event.type)
        if event.type == "audio-start":
            start = AudioStart.from_event(event)
            self.formats.add((start.rate, start.width, start.channels))
        elif event.type == "audio-chunk":
            chunk = AudioChunk.from_event(event)
            self.formats.add((chunk.rate, chunk.width, chunk.channels))
            self.audio += chunk.audio
        elif event.type == "error":
            self.code = event.data["code"]


async def read_until(client: AsyncTcpClient, last: str) -> Answer:
    answer = Answer()
    while (event := await client.read_event()) is not None:
        answer.add(event)
        if event.type == last:
            break
    else:
        answer.types.append("closed")
    return answer


async def exchange(client: AsyncTcpClient, events: Iterable[Event], last: str) -> Answer:
    for event in events:
        await client.write_event(event)
    return await read_until(client, last)


async def whole(server: RunningServer, text: str, voice: SynthesizeVoice | None = None) -> Answer:
    """Home Assistant without streaming: it reads until the first ``audio-stop``."""
    request = Synthesize(text=text, voice=voice).event()
    return await talk(server, lambda client: exchange(client, [request], "audio-stop"))


def streamed_events(text: str, size: int = 7) -> list[Event]:
    """What Home Assistant sends for a text that a model writes: pieces, and for compatibility all of it again."""
    pieces = [SynthesizeChunk(text[start : start + size]).event() for start in range(0, len(text), size)]
    return [SynthesizeStart().event(), *pieces, Synthesize(text=text).event(), SynthesizeStop().event()]


async def streamed(server: RunningServer, text: str) -> Answer:
    """Home Assistant's streaming: it writes and reads at once, until ``synthesize-stopped``."""

    async def use(client: AsyncTcpClient) -> Answer:
        async def write() -> None:
            for event in streamed_events(text):
                await client.write_event(event)

        writing = asyncio.ensure_future(write())
        answer = await read_until(client, "synthesize-stopped")
        await writing
        return answer

    return await talk(server, use)


async def native(server: RunningServer, text: str) -> bytes:
    async with server.connect() as client:
        await client.send({"text": text, "stream": True, "final_wav": False})
        return audio_of(await client.until("success"))


async def program_of(server: RunningServer) -> TtsProgram:
    async def use(client: AsyncTcpClient) -> TtsProgram:
        await client.write_event(Describe().event())
        event = await client.read_event()
        assert event is not None
        (program,) = Info.from_event(event).tts
        return program

    return await talk(server, use)


async def open_raw(server: RunningServer) -> trio.SocketStream:
    assert server.address.wyoming_port is not None
    return await trio.open_tcp_stream("127.0.0.1", server.address.wyoming_port)


def line(type: str, data: dict[str, Any] | None = None, **header: Any) -> bytes:
    """An event with its data in the header, which the protocol allows too."""
    return msgspec.json.encode({"type": type, "data": data or {}, **header}) + b"\n"


async def read_to_end(stream: trio.SocketStream) -> bytes:
    with trio.fail_after(RESPONSE_S):
        return b"".join([bytes(data) async for data in stream])


# --- Describe ---


async def test_the_info_is_one_program_with_the_voices_of_all_engines(start_server: StartServer) -> None:
    """Home Assistant uses the first program only; a name is unique across engines."""
    server = await start_server(FakeEngine(), FakeEngine(name="other"))
    program = await program_of(server)
    assert (program.installed, program.supports_synthesize_streaming) == (True, True)
    names = [voice.name for voice in program.voices]
    assert names == [f"{engine}:tone-{letter}" for engine in ("fake", "other") for letter in "abc"]
    assert all(voice.installed and len(voice.languages) == 1 for voice in program.voices)
    assert (program.voices[5].description, program.voices[5].languages) == ("Tone C (other)", ["ja-JP"])


async def test_the_info_comes_at_once_while_an_engine_loads(start_server: StartServer) -> None:
    """A model that is not loaded is there with its speakers; one that cannot work here is not."""
    slow = replace(entry(FakeEngine(name="slow", load_s=60)), light=False)
    broken = entry(FakeEngine(name="broken"), unavailable=lambda: "pip install it")
    server = await start_server(FakeEngine(), slow, broken, preload=("slow",))

    async def use(client: AsyncTcpClient) -> tuple[float, list[str]]:
        waits = []
        for _ in range(3):
            begun = time.perf_counter()
            await client.write_event(Describe().event())
            event = await client.read_event()
            waits.append(time.perf_counter() - begun)
        assert event is not None
        return min(waits), [voice.name for voice in Info.from_event(event).tts[0].voices]

    wait_s, names = await talk(server, use)
    assert wait_s < 0.1
    assert names == ["fake:tone-a", "fake:tone-b", "fake:tone-c", "slow:0"]


async def test_an_unloaded_engine_keeps_its_voices(start_server: StartServer) -> None:
    server = await start_server(FakeEngine(), idle_unload_s=0.05)
    before = await program_of(server)
    await trio.sleep(0.2)
    assert await program_of(server) == before


async def test_a_light_engine_that_does_not_load_holds_nobody_up(start_server: StartServer, autojump_clock: MockClock) -> None:
    """The first client waits a few seconds for the voices, no longer."""
    autojump_clock.autojump_threshold = 0.01
    server = await start_server(FakeEngine(load_s=60))
    begun = trio.current_time()
    async with await open_raw(server) as stream:
        await stream.send_all(line("describe"))
        heard = b""
        while b"fake:0" not in heard:
            heard += await stream.receive_some()
    assert trio.current_time() - begun == pytest.approx(3, abs=0.2)


async def test_a_ping_is_answered(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())

    async def use(client: AsyncTcpClient) -> Event | None:
        await client.write_event(Ping("abc").event())
        return await client.read_event()

    assert await talk(server, use) == Pong("abc").event()


# --- Speech ---


async def test_a_whole_text_is_spoken_between_one_start_and_one_stop(start_server: StartServer) -> None:
    """With the samples that the native dialect gives for it."""
    server = await start_server(FakeEngine())
    answer = await whole(server, TEXT)
    assert answer.types == ["audio-start", "audio-chunk", "audio-stop"]
    assert answer.formats == {(24_000, 2, 1)}
    assert answer.audio == await native(server, TEXT)


async def test_a_streamed_text_is_spoken_once(start_server: StartServer) -> None:
    """In one format, and not again for the copy; the same samples as ever."""
    engine = FakeEngine()
    server = await start_server(engine)
    answer = await streamed(server, TEXT)
    assert answer.types == ["audio-start", "audio-chunk", "audio-stop", "synthesize-stopped"]
    assert answer.formats == {(24_000, 2, 1)}
    assert "".join(engine.said).split() == TEXT.split()
    assert answer.audio == await native(server, TEXT)


async def test_a_streamed_text_is_heard_before_it_is_complete(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())

    async def use(client: AsyncTcpClient) -> Answer:
        start, *chunks, copy, stop = streamed_events("The first sentence. The second one. ", size=36)
        first = await exchange(client, [start, *chunks], "audio-chunk")
        rest = await exchange(client, [copy, stop], "synthesize-stopped")
        assert first.types == ["audio-start", "audio-chunk"]
        return rest

    assert (await talk(server, use)).types == ["audio-chunk", "audio-stop", "synthesize-stopped"]


async def test_requests_on_one_connection_are_answered_in_order(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())

    async def use(client: AsyncTcpClient) -> list[Answer]:
        for event in (Synthesize("One.").event(), *streamed_events("Two, two."), Synthesize("Three.").event()):
            await client.write_event(event)
        return [await read_until(client, last) for last in ("audio-stop", "synthesize-stopped", "audio-stop")]

    answers = await talk(server, use)
    assert [answer.audio for answer in answers] == [await native(server, text) for text in ("One.", "Two, two.", "Three.")]


class Asked(FakeEngine):
    """Keeps what it was asked for."""

    def resolve(self, request: VoiceRequest) -> VoiceChoice:
        self.asked = request
        return super().resolve(request)


@pytest.mark.parametrize(
    ("voice", "request_"),
    [
        (None, VoiceRequest()),
        (SynthesizeVoice(name="fake:tone-c"), VoiceRequest("ja-JP", 0, "tone-c")),
        (SynthesizeVoice(name="tone-b"), VoiceRequest("en-GB", 0, "tone-b")),
        (SynthesizeVoice(name="fake:0", speaker="1"), VoiceRequest("en-US", 1, None)),
        (SynthesizeVoice(language="ja"), VoiceRequest("ja", 0, None)),
    ],
)
async def test_a_voice_is_chosen(start_server: StartServer, voice: SynthesizeVoice | None, request_: VoiceRequest) -> None:
    """By its name here, by the default engine's own name, by language, by speaker."""
    engine = Asked()
    server = await start_server(engine)
    assert (await whole(server, "Hi.", voice)).types[-1] == "audio-stop"
    assert engine.asked == request_


async def test_a_voice_of_another_engine_comes_at_its_rate(start_server: StartServer) -> None:
    other = FakeEngine(name="other")
    other.capabilities = replace(other.capabilities, sample_rate=22_050)
    server = await start_server(FakeEngine(), other)
    answer = await whole(server, "Hi.", SynthesizeVoice(name="other:tone-a"))
    assert (answer.formats, other.said) == ({(22_050, 2, 1)}, ["Hi."])


async def test_silence_comes_while_a_slow_engine_works(start_server: StartServer) -> None:
    """Of the same format, after the one start; what is spoken is the same, behind it."""
    slow = entry(FakeEngine(name="slow", load_s=0.8))
    server = await start_server(FakeEngine(), replace(slow, light=False), wyoming_silence_after_s=0.2)
    voice = SynthesizeVoice(name="slow:0")
    late, prompt = await whole(server, "Hi.", voice), await whole(server, "Hi.", voice)
    assert late.types == prompt.types == ["audio-start", "audio-chunk", "audio-stop"]
    assert late.formats == {(24_000, 2, 1)}
    assert prompt.audio == await native(server, "Hi.")
    silence = late.audio.removesuffix(prompt.audio)
    assert not any(silence)
    assert 0.1 <= len(silence) / 48_000 < 5


# --- Errors ---


@pytest.mark.parametrize(
    ("text", "voice", "code"),
    [
        ("broken", None, "synthesis_failed"),
        ("half", None, "synthesis_failed"),
        ("bug", None, "synthesis_failed"),
        ("...", None, "empty_text"),
        ("x" * 101, None, "text_too_long"),
        ("Hi.", SynthesizeVoice(name="fake:nobody"), "unknown_speaker"),
        ("Hi.", SynthesizeVoice(name="nothing:tone-a"), "unknown_model"),
        ("Hi.", SynthesizeVoice(name="fake:tone-a", speaker="me"), "invalid_speaker"),
        ("Hi.", SynthesizeVoice(language="tlh"), "unsupported_language"),
    ],
)
async def test_an_error_ends_the_exchange(
    start_server: StartServer, text: str, voice: SynthesizeVoice | None, code: str
) -> None:
    """With the connection, so that half a text is not taken for the whole; streamed, with its own last event."""
    faults = {"broken": "before", "half": "after", "bug": "bug"}
    server = await start_server(FakeEngine(faults=faults), max_text_chars=100)
    answer = await whole(server, text, voice)
    assert (answer.code, answer.types[-2:]) == (code, ["error", "closed"])

    async def use(client: AsyncTcpClient) -> list[Answer]:
        start = SynthesizeStart(voice).event()
        events = [start, SynthesizeChunk(text).event(), Synthesize("Hi.").event(), SynthesizeStop().event()]
        return [
            await exchange(client, events, "synthesize-stopped"),
            await exchange(client, [Synthesize("Hi.").event()], "audio-stop"),
        ]

    failed, after = await talk(server, use)
    begun = text == "half"
    assert failed.code == code
    assert failed.types == [*["audio-start", "audio-chunk"] * begun, "error", *["audio-stop"] * begun, "synthesize-stopped"]
    assert after.types == ["audio-start", "audio-chunk", "audio-stop"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", b"invalid_json"),
        (b"GET / HTTP/1.1\r\n\r\n", b"invalid_json"),
        (b"[]\n", b"invalid_json"),
        (b'{"type": 5}\n', b"invalid_json"),
        (b"[" * 60_000 + b"\n", b"invalid_json"),
        (b'{"type": "' + b"a" * 70_000, b"invalid_request"),
        (line("synthesize", data_length=5) + b"[1,2]", b"invalid_json"),
        (line("synthesize", data_length=-5), b"invalid_request"),
        (line("synthesize", data_length=2_000_000), b"invalid_request"),
        (line("audio-chunk", payload_length=10) + b"0123456789", b"invalid_request"),
        (line("synthesize"), b"invalid_request"),
        (line("synthesize", {"text": 5}), b"invalid_request"),
        (line("synthesize", {"text": "Hi.", "voice": "tone-a"}), b"invalid_request"),
        (line("synthesize", {"text": "Hi.", "voice": {"name": 5}}), b"invalid_request"),
        (line("synthesize", {"text": "Hi.", "voice": {"name": "a" * 101}}), b"invalid_request"),
        (line("synthesize", {"text": "<speak/>", "text_format": "ssml"}), b"invalid_request"),
        (line("synthesize-start") + line("synthesize-start"), b"invalid_request"),
    ],
)
async def test_what_is_no_good_event_ends_its_connection_only(start_server: StartServer, data: bytes, code: bytes) -> None:
    server = await start_server(FakeEngine())
    async with await open_raw(server) as stream:
        await stream.send_all(data)
        answer = await read_to_end(stream)
    assert b'"code":"%s"' % code in answer
    assert (await whole(server, "Hi.")).types[-1] == "audio-stop"


async def test_other_events_are_passed_over(start_server: StartServer) -> None:
    """A newer client may say more than this server knows."""
    server = await start_server(FakeEngine())
    events = [Event("select-program", {"name": "x"}), SynthesizeChunk("No.").event(), SynthesizeStop().event()]
    answer = await talk(server, lambda client: exchange(client, [*events, Synthesize("Hi.").event()], "audio-stop"))
    assert answer.types == ["audio-start", "audio-chunk", "audio-stop"]


async def test_a_flood_of_requests_is_refused(start_server: StartServer) -> None:
    engine = FakeEngine(block_delay_s=0.05)
    server = await start_server(engine, max_queued_requests=2)
    async with await open_raw(server) as stream:
        await stream.send_all(line("synthesize", {"text": LONG}) * 4)
        assert b'"code":"busy"' in await read_to_end(stream)
    assert engine.saying == 0


# --- A connection's life ---


@pytest.mark.parametrize("type", ["synthesize", "synthesize-start"])
async def test_a_client_that_leaves_stops_the_engine(start_server: StartServer, autojump_clock: MockClock, type: str) -> None:
    """Within 50 ms."""
    engine = FakeEngine(block_delay_s=0.02)
    server = await start_server(engine)
    stream = await open_raw(server)
    await stream.send_all(line(type, {"text": LONG}) + line("synthesize-chunk", {"text": LONG}))
    while engine.blocks < 5:
        await stream.receive_some()
    autojump_clock.autojump_threshold = 0.1  # that the client has gone is seen before time moves on
    left_at = trio.current_time()
    await trio.aclose_forcefully(stream)
    await until(lambda: not engine.sessions)
    assert engine.stopped_at - left_at < 0.05
    assert (engine.saying, engine.cancelled) == (0, 1)


async def test_a_client_that_reads_nothing_is_dropped(start_server: StartServer, autojump_clock: MockClock) -> None:
    """And so is its request."""
    autojump_clock.autojump_threshold = 0.01
    engine = FakeEngine(faults={"for ever": "endless"})
    server = await start_server(engine)
    async with await open_raw(server) as stream:
        await stream.send_all(line("synthesize", {"text": "It goes on for ever."}))
        await trio.sleep(60)
    assert (len(engine.said), engine.saying, engine.cancelled) == (1, 0, 1)


async def test_an_idle_connection_is_closed(start_server: StartServer, autojump_clock: MockClock) -> None:
    """Likewise one that does not go on with its text."""
    autojump_clock.autojump_threshold = 0.01
    server = await start_server(FakeEngine(), idle_s=20)
    begun = trio.current_time()
    for beginning in (b"", line("ping") + b'{"type":', line("synthesize-start") + line("synthesize-chunk", {"text": "Well"})):
        async with await open_raw(server) as stream:
            await stream.send_all(beginning)
            await read_to_end(stream)
    assert trio.current_time() - begun == pytest.approx(60, abs=1)


async def test_connections_over_the_limit_are_turned_away(start_server: StartServer) -> None:
    """The limit is one for both ports."""
    server = await start_server(FakeEngine(), max_connections=1)
    async with server.connect() as client:
        async with await open_raw(server) as stream:
            assert await read_to_end(stream) == b""
        await client.legacy({"text": "Hi."})


async def test_a_signal_lets_running_requests_end(nursery: trio.Nursery, autojump_clock: MockClock, settings: Settings) -> None:
    """Idle connections close at once, and the server ends."""
    autojump_clock.autojump_threshold = 0.01
    ended = trio.Event()

    async def run(*, task_status: Any) -> None:
        await serve(settings, entries=[entry(FakeEngine(block_delay_s=0.05))], own_process=True, task_status=task_status)
        ended.set()

    server = RunningServer(await nursery.start(run), settings)
    async with await open_raw(server) as idle, await open_raw(server) as busy:
        await busy.send_all(line("synthesize", {"text": "This sentence takes two seconds to speak."}))
        heard = await busy.receive_some()
        os.kill(os.getpid(), signal.SIGTERM)
        begun = trio.current_time()
        assert await read_to_end(idle) == b""
        heard += await read_to_end(busy)
        assert b'"type":"audio-stop"' in heard
        assert trio.current_time() - begun < 4  # of the 8 that it might take
    with trio.fail_after(1):
        await ended.wait()


# --- Off ---


async def test_it_is_off_unless_a_port_is_given(start_server: StartServer) -> None:
    server = await start_server(FakeEngine(), wyoming_port=0)
    assert server.address.wyoming_port is None


async def test_a_missing_package_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tts_provider.server.dialects.wyoming", None)
    with pytest.raises(SettingsError, match="pip install -U wyoming"):
        await serve(settings, entries=[entry(FakeEngine())], own_process=False)
