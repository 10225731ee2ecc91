"""The client against servers that play a script, under asyncio and under Trio."""

from __future__ import annotations

import io
import struct
import wave
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio

from tests.background import Peer, Scripted, scripted
from tts_provider.client import (
    ConnectFailed,
    ConnectionLost,
    Flush,
    NotConnected,
    Queued,
    Sentence,
    ServerTimeout,
    Success,
    SyncTTSClient,
    TTSClient,
    TTSClientError,
    TTSServerError,
    UnexpectedReply,
    Words,
    speak,
)
from tts_provider.client.files import wav_header, written_whole

SHORT_S = 0.1
"""A timeout that a test waits for."""
BLOCK = struct.pack("<1200h", *range(1200))
"""50 ms of audio at 24 kHz."""

Run = Callable[[Callable[[], Awaitable[Any]]], Any]


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine function under one of the event loops."""
    return lambda main: anyio.run(main, backend=request.param)


def client_of(server: Scripted, timeout: float | None = 10) -> TTSClient:
    return TTSClient("127.0.0.1", server.port, timeout)


async def stream_two_blocks(peer: Peer) -> None:
    """Answers any number of streaming requests, each with two blocks of audio."""
    while True:
        await peer.stream_audio(BLOCK, BLOCK)


# --- What the replaced client had ---


def test_generate_speech_writes_a_wav_with_the_streamed_samples(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "speech.wav"

    async def main() -> None:
        client = client_of(server)
        assert await client.connect() is True
        assert client.is_connected()
        assert await client.generate_speech("Hello.", str(path)) is True
        await client.disconnect()
        assert not client.is_connected()

    with scripted(stream_two_blocks) as server:
        run(main)
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 24_000)
        assert file.readframes(10_000) == BLOCK + BLOCK
    assert [entry.name for entry in path.parent.iterdir()] == ["speech.wav"]


def test_generate_speech_asks_for_what_it_was_given(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            await client.generate_speech(
                "Hallo.", tmp_path / "a.wav", 2, 16_000, "file", "espeak", "de-DE", rate="+10%", voice="gmw/de"
            )
            await client.generate_speech("Hallo.", tmp_path / "b.wav", model_type="csm", extra_params={"seed": 1})

    with scripted(stream_two_blocks) as server:
        run(main)
    first, second = server.log
    first.pop("request_id")
    second.pop("request_id")
    assert first == {
        "text": "Hallo.",
        "speaker": 2,
        "sample_rate": 16_000,
        "model": "espeak",
        "lang": "de-DE",
        "voice": "gmw/de",
        "format": "pcm",
        "stream": True,
        "final_wav": False,
        "extra_params": {"rate": "+10%"},
    }
    assert second == {
        "text": "Hallo.",
        "model": "csm",
        "format": "pcm",
        "stream": True,
        "final_wav": False,
        "extra_params": {"seed": 1},
    }


@pytest.mark.parametrize("messages", [1, 5], ids=["one message", "many messages"])
def test_a_server_that_cannot_stream_sends_its_wav_in_any_number_of_messages(run: Run, tmp_path: Path, messages: int) -> None:
    wav = wav_header(24_000, 3_000_000) + bytes(3_000_000)
    path = tmp_path / "speech.wav"

    async def main() -> bool:
        async with client_of(server) as client:
            return await client.generate_speech("Hello.", path)

    async def answer(peer: Peer) -> None:
        await peer.request()
        await peer.say("queued", message="Model is loading", queue_position=1)
        await peer.say("success", length_bytes=len(wav), sample_rate=24_000, format="wav")
        size = -(-len(wav) // messages)
        for start in range(0, len(wav), size):
            await peer.send(wav[start : start + size])

    with scripted(answer) as server:
        assert run(main) is True
    assert path.read_bytes() == wav


@pytest.mark.parametrize("reply", [{"code": "unknown_model", "retryable": False}, {}], ids=["with a code", "without"])
def test_generate_speech_is_false_when_the_server_fails_and_leaves_no_file(
    run: Run, tmp_path: Path, reply: dict[str, Any]
) -> None:
    path = tmp_path / "speech.wav"
    path.write_bytes(b"what was there before")

    async def main() -> list[bool]:
        async with client_of(server) as client:
            return [await client.generate_speech("Hello.", path), await client.generate_speech("Hello.", tmp_path / "b.wav")]

    async def answer(peer: Peer) -> None:
        await peer.request()
        await peer.say("error", message="Failed to generate speech: no such model", **reply)
        await peer.stream_audio(BLOCK)

    with scripted(answer) as server:
        assert run(main) == [False, True]
        assert server.connections == 1
    assert path.read_bytes() == b"what was there before"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["b.wav", "speech.wav"]


def test_get_server_info_is_the_reply_as_a_dictionary(run: Run) -> None:
    async def main() -> dict[str, Any]:
        async with client_of(server) as client:
            return await client.get_server_info()

    async def answer(peer: Peer) -> None:
        assert await peer.request() == {"command": "info"}
        await peer.say("success", available_models={"edge": {}}, anything=[1])

    with scripted(answer) as server:
        assert run(main) == {"status": "success", "available_models": {"edge": {}}, "anything": [1]}


def test_requests_without_a_connection_raise(run: Run) -> None:
    async def main() -> None:
        client = TTSClient()
        await client.disconnect()
        with pytest.raises(ConnectionError):
            await client.generate_speech("Hello.", "never.wav")
        with pytest.raises(NotConnected):
            await client.get_server_info()

    run(main)
    assert not Path("never.wav").exists()


# --- Connecting ---


def test_connect_is_false_where_nobody_listens(run: Run, unused_port: int) -> None:
    async def main() -> None:
        client = TTSClient("127.0.0.1", unused_port)
        assert await client.connect() is False
        with pytest.raises(ConnectFailed, match="refused"):
            async with client:
                pass

    run(main)


@pytest.fixture
def unused_port() -> int:
    """A port where nobody listens."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy", b"\x15\x03\x01\x00\x02\x02", b"", b"HTTP/1.1 \xff"],
    ids=["refusal", "another protocol", "nothing", "broken head"],
)
def test_connect_is_false_where_something_else_answers(run: Run, answer: bytes) -> None:
    async def main() -> None:
        client = client_of(server)
        assert await client.connect() is False
        assert not client.is_connected()
        with pytest.raises(ConnectFailed):
            async with client:
                pass

    async def raw(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        await stream.aclose()

    with scripted(raw=raw) as server:
        run(main)


def test_a_server_that_accepts_and_stays_silent_is_a_timeout(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with client_of(server, SHORT_S):
                pass
        client = client_of(server)
        with anyio.move_on_after(SHORT_S) as scope:
            await client.connect()
        assert scope.cancelled_caught
        assert not client.is_connected()

    async def raw(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.receive_some()

    with scripted(raw=raw) as server:
        run(main)


def test_connect_may_stand_under_a_deadline_that_ends_before_the_connection_does(run: Run, tmp_path: Path) -> None:
    async def main() -> bool:
        client = client_of(server)
        with anyio.fail_after(5):
            await client.connect()
        async with anyio.create_task_group() as tasks:  # another task may close it
            assert await client.generate_speech("Hello.", tmp_path / "a.wav")
            tasks.start_soon(client.disconnect)
        return client.is_connected()

    with scripted(stream_two_blocks) as server:
        assert run(main) is False


def test_a_url_says_host_port_and_path() -> None:
    client = TTSClient.from_url("wss://[::1]/speech?key=1")
    assert (client.host, client.port, client.uri) == ("::1", 443, "wss://[::1]:443/speech?key=1")
    assert TTSClient.from_url("ws://example.org:9000").uri == "ws://example.org:9000"
    for url in ("http://example.org", "example.org:9000", "ws://", "ws://user@example.org"):
        with pytest.raises(ValueError, match="URL"):
            TTSClient.from_url(url)


# --- A connection that ends ---


async def close_politely(peer: Peer) -> None:
    await peer.websocket.aclose(1001)


async def close_without_a_word(peer: Peer) -> None:
    await peer.drop()


@pytest.mark.parametrize("end", [close_politely, close_without_a_word])
def test_the_next_request_finds_a_new_connection_when_the_idle_one_was_closed(
    run: Run, tmp_path: Path, end: Callable[[Peer], Awaitable[None]]
) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            for number in range(3):
                assert await client.generate_speech("Hello.", tmp_path / f"{number}.wav")
            async with client.speak_text_stream(tokens("Hello.")) as speech:
                assert await audio_of(speech) == BLOCK

    async def serve_once(peer: Peer) -> None:
        request_id = await peer.start(await peer.request())
        while peer.log[-1].get("command") not in (None, "end"):
            await peer.request()
        await peer.send(BLOCK)
        await peer.end(request_id, len(BLOCK))
        await end(peer)

    with scripted(serve_once) as server:
        run(main)
        assert server.connections == 4


@pytest.mark.parametrize("partial", [False, True], ids=["before the reply", "in the middle of it"])
def test_a_request_is_not_repeated_once_an_answer_began(run: Run, partial: bool) -> None:
    async def main() -> bytes:
        async with client_of(server) as client:
            await client.speak("First.")
            return await client.speak("Second.")

    async def first_connection(peer: Peer) -> None:
        await peer.stream_audio(BLOCK)
        request = await peer.request()
        if partial:
            await peer.start(request)
            await peer.send(BLOCK)
        await peer.drop()

    with scripted(first_connection, stream_two_blocks) as server:
        if partial:
            with pytest.raises(ConnectionLost):
                run(main)
        else:
            assert run(main)[44:] == BLOCK + BLOCK
        assert server.connections == (1 if partial else 2)


def test_a_request_is_tried_twice_at_most(run: Run) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            await client.info()

    async def leave(peer: Peer) -> None:
        await peer.request()

    with scripted(leave) as server:
        with pytest.raises(ConnectionLost) as caught:
            run(main)
        assert caught.value.code == 1000
        assert server.connections == 2


def test_a_message_that_was_too_big_is_not_sent_again(run: Run) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            await client.speak("First.")
            await client.speak("Second.")

    async def too_big(peer: Peer) -> None:
        await peer.stream_audio(BLOCK)
        await peer.request()
        await peer.websocket.aclose(1009, "too big")

    with scripted(too_big) as server:
        with pytest.raises(ConnectionLost, match="1009: too big"):
            run(main)
        assert server.connections == 1


def test_disconnecting_ends_a_request_of_another_task(run: Run) -> None:
    async def main() -> None:
        client = client_of(server)
        await client.connect()
        async with anyio.create_task_group() as tasks:

            async def disconnect() -> None:
                await anyio.sleep(SHORT_S)
                await client.disconnect()

            tasks.start_soon(disconnect)
            with pytest.raises(ConnectionLost):
                await client.speak("Hello.")
        with pytest.raises(NotConnected):
            await client.speak("Hello.")

    async def never_answer(peer: Peer) -> None:
        await peer.request()
        await trio.sleep_forever()

    with scripted(never_answer) as server:
        run(main)
        assert server.connections == 1


# --- Nonsense ---


async def send_no_json(peer: Peer) -> None:
    await peer.send("{nonsense")


async def send_another_object(peer: Peer) -> None:
    await peer.send('{"status": "dancing"}')


async def send_audio_at_once(peer: Peer) -> None:
    await peer.send(BLOCK)


async def send_a_wrong_length(peer: Peer) -> None:
    request_id = await peer.start(peer.log[-1])
    await peer.send(BLOCK)
    await peer.end(request_id, len(BLOCK) - 2)


async def send_more_than_announced(peer: Peer) -> None:
    await peer.say("success", length_bytes=10, sample_rate=24_000, format="wav")
    await peer.send(BLOCK)


async def send_text_instead_of_the_file(peer: Peer) -> None:
    await peer.say("success", length_bytes=10, sample_rate=24_000, format="wav")
    await peer.say("queued", message="what?", queue_position=1)


async def begin_twice(peer: Peer) -> None:
    await peer.start(peer.log[-1])
    await peer.start(peer.log[-1])


async def send_frames_that_are_none(peer: Peer) -> None:
    await peer.stream.send_all(b"\xff\xff\xff\xff nonsense")


async def send_a_message_without_end(peer: Peer) -> None:
    await peer.start(peer.log[-1])
    await peer.send(bytes(17 * 2**20))


@pytest.mark.parametrize(
    "nonsense",
    [
        send_no_json,
        send_another_object,
        send_audio_at_once,
        send_a_wrong_length,
        send_more_than_announced,
        send_text_instead_of_the_file,
        begin_twice,
        send_frames_that_are_none,
        send_a_message_without_end,
    ],
)
def test_nonsense_is_an_unexpected_reply_and_the_next_request_works(
    run: Run, tmp_path: Path, nonsense: Callable[[Peer], Awaitable[None]]
) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            with pytest.raises(UnexpectedReply):
                await client.save("Hello.", tmp_path / "speech.wav")
            assert (await client.speak("Hello."))[44:] == BLOCK + BLOCK

    async def answer(peer: Peer) -> None:
        if peer.log:
            await stream_two_blocks(peer)
        await peer.request()
        await nonsense(peer)
        await stream_two_blocks(peer)

    with scripted(answer) as server:
        run(main)
    assert list(tmp_path.iterdir()) == []


# --- Time ---


def test_a_silent_server_is_a_timeout_however_often_it_pings(run: Run) -> None:
    pongs = 0

    async def main() -> None:
        async with client_of(server, 3 * SHORT_S) as client:
            with pytest.raises(ServerTimeout) as caught:
                await client.speak("Hello.")
            assert isinstance(caught.value, TimeoutError)
            assert not client.is_connected()
            assert (await client.speak("Hello."))[44:] == BLOCK + BLOCK

    async def ping(peer: Peer) -> None:
        nonlocal pongs
        await peer.request()
        while True:
            await peer.websocket.ping()
            pongs += 1
            await trio.sleep(SHORT_S / 2)

    with scripted(ping, stream_two_blocks) as server:
        run(main)
    assert pongs > 1


def test_a_server_that_makes_progress_may_take_longer_than_the_timeout(run: Run) -> None:
    async def main() -> bytes:
        async with client_of(server, 3 * SHORT_S) as client:
            return await client.speak("Hello.")

    async def dawdle(peer: Peer) -> None:
        request_id = await peer.start(await peer.request())
        await trio.sleep(SHORT_S)
        for _ in range(5):
            await trio.sleep(SHORT_S)
            await peer.send(BLOCK)
        await peer.end(request_id, 5 * len(BLOCK))

    with scripted(dawdle) as server:
        assert run(main)[44:] == 5 * BLOCK


def test_a_server_that_takes_nothing_is_a_timeout(run: Run) -> None:
    async def main() -> None:
        async with client_of(server, 3 * SHORT_S) as client:
            with pytest.raises(ServerTimeout, match="took nothing"):
                await client.speak("x" * 30_000_000)

    async def raw(stream: trio.SocketStream) -> None:
        from wsproto import ConnectionType, WSConnection
        from wsproto.events import AcceptConnection

        protocol = WSConnection(ConnectionType.SERVER)
        protocol.receive_data(bytes(await stream.receive_some()))
        await stream.send_all(protocol.send(AcceptConnection()))
        await trio.sleep_forever()

    with scripted(raw=raw) as server:
        run(main)


def test_a_cancelled_request_leaves_a_client_that_works(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            with anyio.move_on_after(SHORT_S) as scope:
                await client.generate_speech("Hello.", tmp_path / "speech.wav")
            assert scope.cancelled_caught
            assert not client.is_connected()
            assert await client.generate_speech("Hello.", tmp_path / "speech.wav")

    async def hang(peer: Peer) -> None:
        await peer.start(await peer.request())
        await peer.send(BLOCK)
        await peer.request()

    with scripted(hang, stream_two_blocks) as server:
        run(main)
        assert server.commands() == ["speak", "speak"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["speech.wav"]


# --- Streams ---


async def audio_of(speech: AsyncIterator[Any]) -> bytes:
    """The audio that is left in a stream."""
    return b"".join([item async for item in speech if isinstance(item, bytes)])


async def tokens(*pieces: str) -> AsyncIterator[str]:
    for piece in pieces:
        await anyio.sleep(0)
        yield piece


def test_a_stream_yields_audio_and_events_in_order(run: Run) -> None:
    async def main() -> None:
        waiting: list[Queued] = []
        async with client_of(server) as client:
            async with client.stream("One. Two.", on_queued=waiting.append, timestamps=True) as speech:
                assert speech.sample_rate == 16_000
                assert speech.streaming.voice == "tone"
                items = [item async for item in speech]
            assert speech.success is items[-1]
        assert [reply.progress for reply in waiting] == [0.5]
        assert [type(item) for item in items] == [Sentence, bytes, Words, bytes, Sentence, bytes, Success]
        words = items[2]
        assert isinstance(words, Words)
        assert words.words[0].text == "One"

    async def answer(peer: Peer) -> None:
        request = await peer.request()
        assert request["timestamps"] is True
        await peer.say("queued", message="Loading", queue_position=1, progress=0.5)
        request_id = await peer.start(request, 16_000)
        await peer.sentence(request_id, 0, "One.")
        await peer.send(BLOCK)
        await peer.websocket.ping()
        word = {"text": "One", "offset": 0, "start_ms": 0, "end_ms": 10, "exact": True}
        await peer.say("words", request_id=request_id, index=0, words=[word])
        await peer.send(BLOCK)
        await peer.send(b"")
        await peer.sentence(request_id, 1, "Two.")
        await peer.send(BLOCK)
        await peer.end(request_id, 3 * len(BLOCK), 16_000)

    with scripted(answer) as server:
        run(main)


def test_a_refused_stream_raises_on_entry_with_all_that_the_server_said(run: Run) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            with pytest.raises(TTSServerError, match="No place") as caught:
                async with client.stream("Hello."):
                    pytest.fail("the stream began")
            assert await client.speak("Hello.")
        error = caught.value
        assert (error.code, error.retryable, error.field, error.retry_after_ms) == ("overloaded", True, "model", 500)

    async def refuse(peer: Peer) -> None:
        await peer.request()
        await peer.say(
            "error", code="overloaded", message="No place.", retryable=True, field="model", retry_after_ms=500, new_field=1
        )
        await peer.stream_audio(BLOCK)

    with scripted(refuse) as server:
        run(main)
        assert server.connections == 1


def test_a_stream_that_fails_in_the_middle_gives_what_it_had(run: Run) -> None:
    async def main() -> None:
        heard = []
        async with client_of(server) as client:
            with pytest.raises(TTSServerError):
                async with client.stream("Hello.") as speech:
                    async for item in speech:
                        heard.append(item)
            assert await client.speak("Hello.")
        assert heard == [BLOCK]

    async def fail(peer: Peer) -> None:
        await peer.start(await peer.request())
        await peer.send(BLOCK)
        await peer.fail()
        await peer.stream_audio(BLOCK)

    with scripted(fail) as server:
        run(main)
        assert server.commands() == ["speak", "speak"]
        assert server.connections == 1


async def speak_until_cancelled(peer: Peer) -> None:
    """Streams without end; stops at a cancel."""
    request = await peer.request()
    request_id = await peer.start(request)
    async with trio.open_nursery() as nursery:

        async def flood() -> None:
            while True:
                await peer.send(BLOCK)

        nursery.start_soon(flood)
        assert await peer.request() == {"command": "cancel", "request_id": request_id}
        nursery.cancel_scope.cancel()
    await peer.say("cancelled", request_id=request_id)


def test_leaving_a_stream_cancels_it_and_keeps_the_connection(run: Run) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            async with client.stream("Hello.") as speech:
                assert await anext(speech) == BLOCK
            with pytest.raises(KeyError):
                async with client.stream("Hello.") as speech:
                    raise KeyError("the caller's own error")
            assert (await client.speak("Hello."))[44:] == BLOCK

    async def answer(peer: Peer) -> None:
        await speak_slowly_until_cancelled(peer)
        await speak_slowly_until_cancelled(peer)
        await peer.stream_audio(BLOCK)

    with scripted(answer) as server:
        run(main)
        assert server.commands() == ["speak", "cancel", "speak", "cancel", "speak"]
        assert server.connections == 1


async def speak_slowly_until_cancelled(peer: Peer) -> None:
    """Streams two blocks and then nothing; stops at a cancel."""
    request_id = await peer.start(await peer.request())
    await peer.send(BLOCK)
    await peer.send(BLOCK)
    assert await peer.request() == {"command": "cancel", "request_id": request_id}
    await peer.send(BLOCK)
    await peer.say("cancelled", request_id=request_id)


def test_a_cancel_that_comes_too_late_keeps_the_connection(run: Run) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            async with client.stream("Hello.") as speech:
                assert await anext(speech) == BLOCK
            assert (await client.speak("Hello."))[44:] == BLOCK

    async def end_before_the_cancel(peer: Peer) -> None:
        await peer.stream_audio(BLOCK)
        assert (await peer.request())["command"] == "cancel"
        await peer.fail("invalid_request", "There is no such request.", field="request_id")
        await peer.stream_audio(BLOCK)

    with scripted(end_before_the_cancel) as server:
        run(main)
        assert server.connections == 1


def test_a_cancel_that_is_not_answered_closes_the_connection(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tts_provider.client.stream.CANCEL_S", SHORT_S)

    async def main() -> None:
        async with client_of(server) as client:
            async with client.stream("Hello.") as speech:
                assert await anext(speech) == BLOCK
            assert not client.is_connected()
            assert await client.speak("Hello.")

    async def ignore_the_cancel(peer: Peer) -> None:
        await peer.start(await peer.request())
        while True:
            await peer.send(BLOCK)
            await trio.sleep(SHORT_S / 10)

    with scripted(ignore_the_cancel, stream_two_blocks) as server:
        run(main)


def test_a_client_takes_one_request_at_a_time(run: Run) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            async with client.stream("Hello.") as speech:
                with pytest.raises(RuntimeError, match="one client for each task"):
                    await client.speak("Me too.")
                assert await audio_of(speech) == 2 * BLOCK

    with scripted(stream_two_blocks) as server:
        run(main)


# --- A text that is still being written ---


async def speak_each_sentence(peer: Peer) -> None:
    """Speaks a block for each piece of text as soon as it has come, as often as asked."""
    while True:
        request = await peer.request()
        if "command" not in request:
            request_id = await peer.start(request)
            await peer.send(BLOCK)
            await peer.end(request_id, len(BLOCK))
            continue
        assert request["command"] == "begin", request
        assert "text" not in request
        request_id = await peer.start(request)
        blocks = 0
        while (request := await peer.request())["command"] not in ("end", "cancel"):
            assert request["request_id"] == request_id
            if request["command"] == "append":
                await peer.send(BLOCK)
                blocks += 1
        if request["command"] == "cancel":
            await peer.say("cancelled", request_id=request_id)
        else:
            await peer.end(request_id, blocks * len(BLOCK))


def test_text_is_sent_while_its_speech_is_received(run: Run) -> None:
    async def main() -> None:
        heard = anyio.Event()

        async def source() -> AsyncIterator[str | Flush]:
            yield "One. "
            yield ""
            await heard.wait()  # the second sentence is written once the first is heard
            yield "Two."
            yield Flush()

        async with client_of(server) as client:
            async with client.speak_text_stream(source(), speaker=1) as speech:
                assert await anext(speech) == BLOCK
                heard.set()
                assert await audio_of(speech) == BLOCK
                assert speech.success is not None
            assert (await client.speak("Hello."))[44:] == BLOCK

    with scripted(speak_each_sentence) as server:
        run(main)
        assert server.commands() == ["begin", "append", "append", "flush", "end", "speak"]
        assert server.log[0]["speaker"] == 1
        assert server.connections == 1


def test_a_writer_may_think_for_longer_than_the_timeout(run: Run) -> None:
    async def main() -> bytes:
        async def source() -> AsyncIterator[str]:
            yield "One. "
            await anyio.sleep(5 * SHORT_S)
            yield "Two."

        async with client_of(server, 2 * SHORT_S) as client:
            async with client.speak_text_stream(source()) as speech:
                return await audio_of(speech)

    with scripted(speak_each_sentence) as server:
        assert run(main) == 2 * BLOCK


def test_silence_after_the_end_of_the_text_is_a_timeout(run: Run) -> None:
    async def main() -> None:
        async with client_of(server, 2 * SHORT_S) as client:
            with pytest.raises(ServerTimeout):
                async with client.speak_text_stream(tokens("One.")) as speech:
                    await audio_of(speech)

    async def stall(peer: Peer) -> None:
        await peer.start(await peer.request())
        while True:
            await peer.request()

    with scripted(stall) as server:
        run(main)
        assert server.commands() == ["begin", "append", "end"]


def test_an_error_of_the_text_is_raised_to_the_listener_as_it_is(run: Run) -> None:
    class WriterError(Exception):
        pass

    async def main() -> None:
        async def source() -> AsyncIterator[str]:
            yield "One. "
            raise WriterError

        async with client_of(server) as client:
            with pytest.raises(WriterError):
                async with client.speak_text_stream(source()) as speech:
                    await audio_of(speech)
            assert await client.speak("Hello.")

    with scripted(speak_each_sentence) as server:
        run(main)


def test_an_error_of_the_listener_comes_out_as_it_is_and_closes_the_text(run: Run) -> None:
    closed = False

    async def main() -> None:
        async def source() -> AsyncIterator[str]:
            nonlocal closed
            try:
                while True:
                    yield "One. "
                    await anyio.sleep(0.01)
            finally:
                closed = True

        async with client_of(server) as client:
            with pytest.raises(KeyError):
                async with client.speak_text_stream(source()) as speech:
                    await anext(speech)
                    raise KeyError
            assert await client.speak("Hello.")

    with scripted(speak_each_sentence) as server:
        run(main)
    assert closed


def test_barging_in_cancels_and_keeps_the_connection(run: Run) -> None:
    async def main() -> None:
        async def source() -> AsyncIterator[str]:
            yield "One. "
            await anyio.sleep_forever()

        async with client_of(server) as client:
            async with client.speak_text_stream(source()) as speech:
                await anext(speech)
            assert await client.speak("Hello.")

    with scripted(speak_each_sentence) as server:
        run(main)
        assert server.commands() == ["begin", "append", "cancel", "speak"]
        assert server.connections == 1


def test_a_text_that_the_server_refuses_raises_its_error(run: Run) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            with pytest.raises(TTSServerError) as caught:
                async with client.speak_text_stream(tokens("One.", "Two.")) as speech:
                    await audio_of(speech)
            assert caught.value.code == "text_too_long"
            assert await client.speak("Hello.")

    async def refuse(peer: Peer) -> None:
        await peer.start(await peer.request())
        await peer.request()
        await peer.fail("text_too_long", "The text is too long.")
        await trio.sleep_forever()

    with scripted(refuse, speak_each_sentence) as server:
        run(main)


def test_cancelling_a_text_stream_drops_the_connection(run: Run) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            with anyio.move_on_after(SHORT_S) as scope:
                async with client.speak_text_stream(tokens("One.")) as speech:
                    await audio_of(speech)
            assert scope.cancelled_caught
            assert not client.is_connected()

    async def stall(peer: Peer) -> None:
        await peer.start(await peer.request())
        while True:
            await peer.request()

    with scripted(stall) as server:
        run(main)


# --- About the server ---


def test_typed_answers_about_the_server(run: Run) -> None:
    model = {"identifiers": ["edge"], "speakers": {"0": "Guy"}, "sample_rate": 24_000, "state": "ready"}

    async def main() -> None:
        async with client_of(server, 2 * SHORT_S) as client:
            info = await client.info()
            assert info.available_models["edge"].state == "ready"
            assert [voice.id for voice in await client.voices("edge", "en")] == ["v"]
            assert (await client.preload("edge")).ready
            with pytest.raises(TTSServerError):
                await client.voices(lang="xx")

    async def answer(peer: Peer) -> None:
        await peer.request()
        await peer.say(
            "success",
            server_version="1",
            current_model={"name": "edge", "ready": True, "sample_rate": 24_000, "speakers": {}},
            available_models={"edge": model},
            queue_size=0,
            model_loaded=True,
            speaker_mapping={},
            limits={},
            protocol_version=2,
        )
        assert await peer.request() == {"command": "voices", "model": "edge", "lang": "en"}
        await peer.say("success", voices=[{"id": "v", "name": "V", "model": "edge", "lang": "en-US"}])
        assert await peer.request() == {"command": "preload", "model": "edge"}
        await trio.sleep(4 * SHORT_S)  # a model may take longer to load than the timeout
        await peer.say("success", model="edge", ready=True)
        await peer.request()
        await peer.fail("unsupported_language")

    with scripted(answer) as server:
        run(main)


# --- Without an event loop ---


def test_speak_returns_a_wav() -> None:
    with scripted(stream_two_blocks) as server:
        data = speak("Hello.", host="127.0.0.1", port=server.port, speaker=1)
    with wave.open(io.BytesIO(data)) as file:
        assert file.getnframes() == 2400


def test_a_synchronous_client_speaks_streams_and_cancels(tmp_path: Path) -> None:
    async def answer(peer: Peer) -> None:
        await peer.stream_audio(BLOCK)
        await peer.stream_audio(BLOCK, BLOCK)
        await peer.stream_audio(BLOCK)
        await speak_slowly_until_cancelled(peer)
        await peer.stream_audio(BLOCK)

    with scripted(answer) as server:
        with SyncTTSClient("127.0.0.1", server.port) as client:
            assert client.speak("Hello.")[44:] == BLOCK
            assert client.save("Hello.", tmp_path / "speech.wav").length_bytes == 2 * len(BLOCK)
            with client.stream("Hello.") as speech:
                assert speech.sample_rate == 24_000
                assert [item for item in speech if isinstance(item, bytes)] == [BLOCK]
                assert speech.success is not None
            with client.stream("Hello.") as speech:
                assert next(speech) == BLOCK
            assert client.speak("Hello.")
        assert server.connections == 1
        with pytest.raises(NotConnected):
            client.speak("Hello.")


def test_a_synchronous_client_says_why_it_cannot_connect(unused_port: int) -> None:
    with pytest.raises(ConnectFailed):
        SyncTTSClient("127.0.0.1", unused_port).__enter__()
    with pytest.raises(TTSClientError):
        speak("Hello.", host="127.0.0.1", port=unused_port)


# --- Files ---


@pytest.mark.parametrize("length", [0, 2, 2**32 - 38, 2**33])
def test_a_wav_header_tells_the_length_or_that_it_is_unknown(length: int) -> None:
    header = wav_header(48_000, length)
    riff, data = struct.unpack_from("<I", header, 4)[0], struct.unpack_from("<I", header, 40)[0]
    assert (riff, data) == ((length + 36, length) if length + 36 < 2**32 - 1 else (2**32 - 1, 2**32 - 1))
    with wave.open(io.BytesIO(header)) as file:
        assert file.getframerate() == 48_000


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(KeyError), written_whole(path) as file:
        file.write(b"half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with written_whole(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"


def test_a_device_is_written_and_not_replaced() -> None:
    with written_whole(Path("/dev/null")) as file:
        file.write(b"gone")
    assert Path("/dev/null").is_char_device()
