"""Deepgram's `/v1/speak`: the very messages of its clients, over a WebSocket and as a POST."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import trio
from trio.testing import MockClock
from trio_websocket import ConnectionClosed, wrap_client_stream

from tests.conftest import Json, RunningServer, StartServer, Wire, audio_of
from tests.fake_engine import FakeEngine
from tests.server.waiting import until
from tts_provider import __version__
from tts_provider.streaming.g711 import to_alaw, to_mulaw

TEXT = "Hello there, world."
LIVEKIT = "encoding=linear16&model=aura-2-andromeda-en&sample_rate=24000&mip_opt_out=false"
PIPECAT = "model=aura-2-helena-en&encoding=linear16&sample_rate=24000"
OURS = "model=fake&encoding=linear16&sample_rate=24000"
LONG = "This sentence goes on. " * 200
STOPPED_S = 0.05
BLOCK_S = 0.02
"""Between two blocks of a slow engine: a clock that jumps once on its way, on a machine that is busy, is still in time."""
NO_JUMP_S = 0.1
"""Real seconds without any work before the clock jumps: what is on its way arrives sooner."""

Messages = list[Json | bytes]


@asynccontextmanager
async def connect(server: RunningServer, query: str = OURS, path: str = "/v1/speak") -> AsyncIterator[Wire]:
    """A connection as Deepgram's clients make it, key and all."""
    stream = await trio.open_tcp_stream(server.address.host, server.address.port)
    async with stream, trio.open_nursery() as nursery:
        websocket = await wrap_client_stream(
            nursery,
            stream,
            server.address.host,
            f"{path}?{query}",
            extra_headers=[(b"Authorization", b"Token some-key")],
            message_queue_size=64,
        )
        yield Wire(websocket, stream)
        with trio.move_on_after(5):
            await websocket.aclose()
        nursery.cancel_scope.cancel()


async def say(client: Wire, *words: str) -> None:
    for word in words:
        await client.send({"type": "Speak", "text": word})


async def until_type(client: Wire, type: str) -> Messages:
    """All messages up to and with the first of that type."""
    messages: Messages = []
    while True:
        messages.append(message := await client.receive())
        if isinstance(message, dict) and message["type"] == type:
            return messages


async def close_code(client: Wire) -> tuple[Json | None, int]:
    """The last message of the server, and the code it closes with."""
    last: Json | None = None
    with trio.fail_after(60):
        while True:
            try:
                message = await client.receive()
            except ConnectionClosed as closed:
                return last, closed.reason.code if closed.reason else 0
            if isinstance(message, dict):
                last = message


async def native_samples(server: RunningServer, text: str) -> bytes:
    async with server.connect() as client:
        await client.send({"text": text, "model": "fake", "stream": True, "final_wav": False, "sample_rate": 24_000})
        return audio_of(await client.until("success"))


# --- The exchanges of clients ---


async def test_livekits_exchange(start_server: StartServer) -> None:
    """One Speak for each word, Flush; the segment ends at Flushed, and the connection is used again."""
    server = await start_server(FakeEngine())
    async with connect(server, LIVEKIT) as client:
        metadata = await client.reply()
        assert metadata.keys() == {"type", "request_id", "model_name", "model_version", "model_uuid"}
        assert (metadata["type"], metadata["model_version"]) == ("Metadata", __version__)
        warning = await client.reply()
        assert warning["type"] == "Warning"
        assert (
            warning["warn_msg"]
            == warning["description"]
            == ("There is no voice 'aura-2-andromeda-en' here; the default voice of 'fake' speaks.")
        )
        samples = await native_samples(server, TEXT + " ")
        for number in range(2):
            await say(client, *(f"{word} " for word in TEXT.split()))
            await client.send({"type": "Flush"})
            *audio, flushed = await until_type(client, "Flushed")
            assert flushed == {"type": "Flushed", "sequence_id": number}
            assert audio_of(audio) == samples
            assert all(isinstance(message, bytes) for message in audio)


async def test_livekit_closes_its_pools_connections_with_flush_and_close(start_server: StartServer) -> None:
    """It waits a second for any message, so the empty Flush must be answered, and then the connection closes."""
    server = await start_server(FakeEngine())
    async with connect(server, LIVEKIT) as client:
        await client.send({"type": "Flush"})
        await client.send({"type": "Close"})
        assert (await until_type(client, "Flushed"))[-1] == {"type": "Flushed", "sequence_id": 0}
        assert await close_code(client) == (None, 1000)


async def test_what_was_flushed_before_a_close_is_spoken(start_server: StartServer) -> None:
    """An older livekit sends Close right behind Flush and then listens."""
    server = await start_server(FakeEngine(block_delay_s=0.01))
    async with connect(server, LIVEKIT) as client:
        await say(client, TEXT)
        await client.send({"type": "Flush"})
        await client.send({"type": "Close"})
        assert audio_of(await until_type(client, "Flushed")) == await native_samples(server, TEXT)
        assert (await close_code(client))[1] == 1000


async def test_pipecats_exchange(start_server: StartServer, autojump_clock: MockClock) -> None:
    """A sentence with a blank at its end, an interruption by Clear, the next turn, Flush, Close."""
    engine = FakeEngine(block_delay_s=0.05)
    server = await start_server(engine)
    async with connect(server, PIPECAT) as client:
        await until_type(client, "Warning")
        await say(client, "The first answer is quite long. ", "It goes on and on. ")
        assert isinstance(await client.receive(), bytes)
        await client.send({"type": "Clear"})
        assert (await until_type(client, "Cleared"))[-1] == {"type": "Cleared", "sequence_id": 0}
        await say(client, "Second. ")
        await client.send({"type": "Flush"})
        messages = await until_type(client, "Flushed")
        assert messages[-1] == {"type": "Flushed", "sequence_id": 1}
        assert audio_of(messages) == await native_samples(server, "Second. ")
        await client.send({"type": "Close"})
        assert (await close_code(client))[1] == 1000


# --- Text ---


async def test_a_sentence_is_spoken_before_any_flush(start_server: StartServer, autojump_clock: MockClock) -> None:
    server = await start_server(FakeEngine())
    async with connect(server) as client:
        await client.reply()
        await say(client, "One is done. ", "Two is beg")
        assert isinstance(await client.receive(), bytes)


async def test_flushes_are_answered_in_order(start_server: StartServer) -> None:
    """Also those of nothing, of blanks and of what has no sound."""
    engine = FakeEngine(block_delay_s=0.002)
    server = await start_server(engine)
    async with connect(server) as client:
        await client.reply()
        for text in ("One.", " ", "...", "Two."):
            await say(client, text)
            await client.send({"type": "Flush"})
        await client.send({"type": "Flush"})
        audible = []
        for number in range(5):
            messages = await until_type(client, "Flushed")
            assert messages[-1] == {"type": "Flushed", "sequence_id": number}
            audible.append(bool(audio_of(messages)))
    assert audible == [True, False, False, True, False]
    assert engine.said == ["One.", "Two."]


async def test_blanks_do_not_hold_a_place_of_the_engine(start_server: StartServer) -> None:
    engine = FakeEngine()
    server = await start_server(engine)
    async with connect(server) as client:
        await client.reply()
        await say(client, " ")
        await client.send({"type": "Flush"})
        await until_type(client, "Flushed")
    assert engine.options == []


async def test_keep_alive_keeps_an_idle_connection(start_server: StartServer, autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.01  # what is on its way arrives before time moves on
    server = await start_server(FakeEngine(), idle_s=10.0)
    async with connect(server) as client:
        for _ in range(5):
            await trio.sleep(6)
            await client.send({"type": "KeepAlive"})
        await client.send({"type": "Flush"})
        assert (await until_type(client, "Flushed"))[-1]["sequence_id"] == 0  # type: ignore[call-overload]


# --- Clear, and leaving ---


async def test_clear_stops_the_engine_and_nothing_follows(start_server: StartServer, autojump_clock: MockClock) -> None:
    """Within 50 ms, with segments waiting; after Cleared comes nothing of them, not even their Flushed."""
    engine = FakeEngine(block_delay_s=BLOCK_S)
    server = await start_server(engine)
    async with connect(server) as client:
        await client.reply()
        await say(client, LONG)
        await client.send({"type": "Flush"})
        await say(client, "Another. ")
        await client.send({"type": "Flush"})
        assert isinstance(await client.receive(), bytes)
        autojump_clock.autojump_threshold = NO_JUMP_S
        sent_at = trio.current_time()
        await client.send({"type": "Clear"})
        await until_type(client, "Cleared")
        assert (engine.saying, engine.sessions) == (0, 0)
        assert engine.stopped_at - sent_at < STOPPED_S
        blocks = engine.blocks
        with trio.move_on_after(5) as quiet:
            await client.receive()
        assert quiet.cancelled_caught
        assert engine.blocks == blocks
        await client.send({"type": "Flush"})
        assert await client.reply() == {"type": "Flushed", "sequence_id": 1}


async def test_each_clear_is_answered(start_server: StartServer) -> None:
    """Also one of nothing, and two in a row."""
    server = await start_server(FakeEngine())
    async with connect(server) as client:
        await client.reply()
        for number in range(2):
            await client.send({"type": "Clear"})
            assert await client.reply() == {"type": "Cleared", "sequence_id": number}
        await say(client, "Gone.")
        await client.send({"type": "Clear"})
        await client.send({"type": "Clear"})
        await say(client, "There.")
        await client.send({"type": "Flush"})
        messages = await until_type(client, "Flushed")
        assert [message["sequence_id"] for message in messages if isinstance(message, dict)] == [2, 3, 4]
        assert audio_of(messages).endswith(await native_samples(server, "There."))


async def test_a_client_that_leaves_stops_the_engine(start_server: StartServer, autojump_clock: MockClock) -> None:
    engine = FakeEngine(block_delay_s=BLOCK_S)
    server = await start_server(engine)
    async with connect(server) as client:
        await client.reply()
        await say(client, LONG)
        await client.send({"type": "Flush"})
        assert isinstance(await client.receive(), bytes)
        autojump_clock.autojump_threshold = NO_JUMP_S
        left_at = trio.current_time()
        await client.drop()
        await until(lambda: engine.saying == 0)
        assert engine.stopped_at - left_at < STOPPED_S


async def test_a_waiting_client_hears_something_within_ten_seconds(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    """livekit gives a silent connection up after ten."""
    autojump_clock.autojump_threshold = 0.01
    server = await start_server(FakeEngine(load_s=25.0))
    async with connect(server) as client:
        await client.reply()
        await say(client, TEXT)
        await client.send({"type": "Flush"})
        heard_at, kinds = trio.current_time(), []
        while not isinstance(message := await client.receive(), bytes):
            assert trio.current_time() - heard_at < 10
            heard_at = trio.current_time()
            kinds.append((message["type"], message["code"]))
        assert kinds == [("Warning", "SLOW")] * 3


async def test_a_client_waits_from_its_flush_on(start_server: StartServer, autojump_clock: MockClock) -> None:
    """Before it nothing is owed."""
    autojump_clock.autojump_threshold = 0.01
    server = await start_server(FakeEngine(load_s=60.0))
    async with connect(server) as client:
        await client.reply()
        await say(client, TEXT)
        await trio.sleep(30)
        await client.send({"type": "Flush"})
        flushed_at = trio.current_time()
        assert (await client.reply())["code"] == "SLOW"
        assert 8 <= trio.current_time() - flushed_at < 10


async def test_a_client_that_hears_something_is_not_reassured(start_server: StartServer, autojump_clock: MockClock) -> None:
    """However long it takes in all."""
    autojump_clock.autojump_threshold = 0.01
    server = await start_server(FakeEngine(block_delay_s=1.0))
    async with connect(server) as client:
        await client.reply()
        await say(client, TEXT)
        await client.send({"type": "Flush"})
        begun = trio.current_time()
        messages = await until_type(client, "Flushed")
    assert trio.current_time() - begun > 15
    assert all(isinstance(message, bytes) for message in messages[:-1])


# --- Voices and forms ---


@pytest.mark.parametrize(("model", "warned"), [("fake", False), ("fake:tone-b", False), ("tone-b", False), ("nobody", True)])
async def test_models_are_engines_and_voices(start_server: StartServer, model: str, warned: bool) -> None:
    server = await start_server(FakeEngine())
    async with connect(server, f"model={model}") as client:
        assert (await client.reply())["model_name"] == model
        await say(client, TEXT)
        await client.send({"type": "Flush"})
        messages = await until_type(client, "Flushed")
        assert audio_of(messages) == await native_samples(server, TEXT)
        warnings = [message["code"] for message in messages if isinstance(message, dict) and message["type"] == "Warning"]
        assert warnings == (["MODEL_SUBSTITUTED"] if warned else [])


async def test_encodings(start_server: StartServer) -> None:
    """mulaw and alaw are the same samples, a byte each; their rate is that of the telephone unless another is asked for."""
    server = await start_server(FakeEngine())
    audio = {}
    for query in ("encoding=linear16&sample_rate=8000", "encoding=mulaw", "encoding=alaw&sample_rate=8000&container=none"):
        async with connect(server, query) as client:
            await client.reply()
            await say(client, TEXT)
            await client.send({"type": "Flush"})
            messages = await until_type(client, "Flushed")
            audio[query.split("&")[0]] = audio_of(messages)
            frames = [message for message in messages if isinstance(message, bytes)]
            assert len(frames[1]) == (1600 if "linear16" in query else 800)  # 100 ms
    samples = audio["encoding=linear16"]
    assert audio["encoding=mulaw"] == to_mulaw(samples)
    assert audio["encoding=alaw"] == to_alaw(samples)


# --- What goes wrong ---


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("encoding=mp3", "UNSUPPORTED_FORMAT"),
        ("container=wav", "UNSUPPORTED_FORMAT"),
        ("sample_rate=22050", "INVALID_SAMPLE_RATE"),
        ("sample_rate=fast", "INVALID_SAMPLE_RATE"),
        ("speed=nan", "INVALID_REQUEST"),
        ("callback=http://example.org", "INVALID_REQUEST"),
        ("model=gpt:nobody", "UNKNOWN_MODEL"),
        ("model=" + "x" * 200, "UNKNOWN_MODEL"),
        ("&".join(f"a{number}=1" for number in range(40)), "INVALID_REQUEST"),
    ],
)
async def test_a_bad_query_is_told_and_ends_the_connection(start_server: StartServer, query: str, code: str) -> None:
    server = await start_server(FakeEngine())
    async with connect(server, query) as client:
        error, closed = await close_code(client)
    assert error is not None
    assert (error["type"], error["code"], closed) == ("Error", code, 1008)
    assert error["description"] == error["err_msg"]


@pytest.mark.parametrize(
    ("message", "closed"),
    [("hello", 1008), ("[]", 1008), ('{"type": "Speak"}', 1008), ('{"type": "Speak", "text": 1}', 1008), (b"sound", 1003)],
)
async def test_a_message_that_makes_no_sense_ends_the_connection(
    start_server: StartServer, message: str | bytes, closed: int
) -> None:
    server = await start_server(FakeEngine())
    async with connect(server) as client:
        await client.send(message)
        error, code = await close_code(client)
    assert error is not None
    assert (error["type"], code) == ("Error", closed)


async def test_an_unknown_message_is_ignored_with_a_warning(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    async with connect(server) as client:
        await client.reply()
        await client.send({"type": "Configure"})
        assert (await client.reply())["code"] == "UNKNOWN_MESSAGE"
        await client.send({"type": "Flush"})
        assert (await client.reply())["type"] == "Flushed"


async def test_a_failing_engine_is_told_and_ends_the_connection(start_server: StartServer) -> None:
    """So that a client that knows no Error sees that nothing more will come."""
    server = await start_server(FakeEngine(faults={"bad": "after"}))
    async with connect(server) as client:
        await client.reply()
        await say(client, "This is bad.")
        await client.send({"type": "Flush"})
        messages = await until_type(client, "Error")
        assert audio_of(messages)
        assert messages[-1]["code"] == "SYNTHESIS_FAILED"  # type: ignore[call-overload]
        assert await close_code(client) == (None, 1011)


async def test_too_many_flushes_end_the_connection(start_server: StartServer) -> None:
    server = await start_server(FakeEngine(faults={"stuck": "hang"}), max_queued_requests=3)
    async with connect(server) as client:
        await say(client, "stuck")
        for _ in range(5):
            await client.send({"type": "Flush"})
        error, code = await close_code(client)
    assert error is not None
    assert (error["code"], code) == ("BUSY", 1008)


async def test_the_handshake_names_the_request(start_server: StartServer) -> None:
    """In the header by which Deepgram's support is asked, as in its Metadata."""
    server = await start_server(FakeEngine())
    async with connect(server) as client:
        headers = dict(client.websocket.handshake_headers)
        assert headers[b"dg-request-id"].decode() == (await client.reply())["request_id"]


async def test_a_closing_client_may_still_clear(start_server: StartServer) -> None:
    """Whatever else it says is passed over."""
    engine = FakeEngine(faults={"stuck": "hang"})
    server = await start_server(engine)
    async with connect(server) as client:
        await client.reply()
        await say(client, "stuck")
        await client.send({"type": "Close"})
        await until(lambda: engine.saying == 1)
        await say(client, "Late.")
        await client.send({"type": "Flush"})
        await client.send({"type": "Clear"})
        assert await close_code(client) == ({"type": "Cleared", "sequence_id": 0}, 1000)
    assert engine.said == ["stuck"]


async def test_other_paths_speak_the_native_dialect(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    async with connect(server, path="/") as client:
        assert (await client.ask({"command": "info"}))["status"] == "success"
    async with connect(server, path="/v1/speak/") as client:
        assert (await client.reply())["type"] == "Metadata"


# --- POST ---


async def post(server: RunningServer, query: str = OURS, body: object = None) -> httpx.Response:
    headers = {"authorization": "Token some-key"}
    url = f"http://{server.address.host}:{server.address.port}/v1/speak?{query}"
    async with httpx.AsyncClient(timeout=60) as client:
        if isinstance(body, bytes):
            return await client.post(url, content=body, headers=headers)
        return await client.post(url, json={"text": TEXT} if body is None else body, headers=headers)


async def test_a_post_gives_livekit_raw_samples(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    answer = await post(server, LIVEKIT)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/pcm")
    assert answer.content == await native_samples(server, TEXT)
    assert len(answer.headers["dg-request-id"]) == 36


@pytest.mark.parametrize(
    ("query", "media_type", "begins"),
    [
        ("", "audio/mpeg", b"\xff"),
        ("encoding=linear16&container=wav", "audio/wav", b"RIFF"),
        ("encoding=opus&container=ogg&sample_rate=48000", "audio/ogg", b"OggS"),
        ("encoding=flac", "audio/flac", b"fLaC"),
        ("encoding=mulaw", "audio/mulaw", b""),
        ("encoding=mp3&sample_rate=22050", "audio/mpeg", b"\xff"),
    ],
)
async def test_a_post_can_have_files(start_server: StartServer, query: str, media_type: str, begins: bytes) -> None:
    server = await start_server(FakeEngine())
    answer = await post(server, query)
    assert (answer.status_code, answer.headers["content-type"]) == (200, media_type)
    assert answer.content.startswith(begins)
    assert len(answer.content) > 1000


@pytest.mark.parametrize(
    ("query", "body", "status", "code"),
    [
        ("", b"{", 400, "INVALID_JSON"),
        ("", b'{"text": 1}', 400, "INVALID_REQUEST"),
        ("", {}, 400, "INVALID_REQUEST"),
        ("", {"url": "http://example.org"}, 400, "INVALID_REQUEST"),
        ("", {"text": " "}, 400, "EMPTY_TEXT"),
        ("encoding=linear32", None, 400, "UNSUPPORTED_FORMAT"),
        ("encoding=opus&sample_rate=22050", None, 400, "INVALID_SAMPLE_RATE"),
        ("model=fake:nobody", None, 404, "UNKNOWN_SPEAKER"),
        ("", {"text": "This is bad."}, 502, "SYNTHESIS_FAILED"),
    ],
)
async def test_a_posts_errors_are_in_deepgrams_form(
    start_server: StartServer, query: str, body: object, status: int, code: str
) -> None:
    server = await start_server(FakeEngine(faults={"bad": "before"}))
    answer = await post(server, query, body)
    told = answer.json()
    assert (answer.status_code, told["err_code"]) == (status, code)
    assert told.keys() == {"err_code", "err_msg", "request_id"}
    assert answer.headers["dg-request-id"] == told["request_id"]


async def test_a_post_that_fails_midway_has_no_end(start_server: StartServer) -> None:
    server = await start_server(FakeEngine(faults={"bad": "after"}))
    with pytest.raises(httpx.RemoteProtocolError):
        await post(server, OURS, {"text": "This is bad."})
