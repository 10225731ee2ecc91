"""A client's connection: made, closed, lost, silent, replaced."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
import trio

from tests.background import Peer, scripted
from tests.client.helpers import (
    BLOCK,
    SHORT_S,
    Run,
    audio_of,
    client_of,
    stream_two_blocks,
    tokens,
)
from tests.edge_service.certificate import authority_file, server_context
from tts_provider.client import (
    ConnectFailed,
    ConnectionLost,
    NotConnected,
    ServerTimeout,
    TTSClient,
    UnexpectedReply,
)

# --- Connecting ---


def test_connect_is_false_where_nobody_listens(run: Run, unused_port: int) -> None:
    async def main() -> None:
        client = TTSClient("127.0.0.1", unused_port)
        assert await client.connect() is False
        with pytest.raises(ConnectFailed, match="refused"):
            async with client:
                pass

    run(main)


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

    async def raw(stream: trio.abc.Stream) -> None:
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

    async def raw(stream: trio.abc.Stream) -> None:
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


def test_a_wss_url_is_spoken_to_over_tls(run: Run) -> None:
    async def main() -> None:
        url = f"wss://127.0.0.1:{server.port}/"
        trusting = ssl.create_default_context(cafile=authority_file())
        async with TTSClient.from_url(url, ssl_context=trusting) as client:
            assert (await client.speak("Hello."))[44:] == BLOCK + BLOCK
        with pytest.raises(ConnectFailed, match="CERTIFICATE_VERIFY_FAILED"):
            async with TTSClient.from_url(url):
                pass

    with scripted(stream_two_blocks, tls=server_context()) as server:
        run(main)


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


@pytest.mark.parametrize("replies", [0, 1, 2], ids=["before any reply", "after the first", "in the middle of the audio"])
def test_a_request_is_repeated_only_before_its_first_reply(run: Run, replies: int) -> None:
    async def main() -> bytes:
        async with client_of(server) as client:
            await client.speak("First.")
            return await client.speak("Second.")

    async def first_connection(peer: Peer) -> None:
        await peer.stream_audio(BLOCK)
        request = await peer.request()
        if replies > 0:
            await peer.say("queued", message="Loading", queue_position=1)
        if replies > 1:
            await peer.start(request)
            await peer.send(BLOCK)
        await peer.drop()

    with scripted(first_connection, stream_two_blocks) as server:
        if replies:
            with pytest.raises(ConnectionLost):
                run(main)
        else:
            assert run(main)[44:] == BLOCK + BLOCK
        assert server.connections == (1 if replies else 2)


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


def test_a_long_message_may_take_longer_than_the_timeout(run: Run) -> None:
    async def main() -> bytes:
        async with client_of(server, 3 * SHORT_S) as client:
            return await client.speak("Hello.")

    async def dribble(peer: Peer) -> None:
        request_id = await peer.start(await peer.request())
        await peer.stream.send_all(b"\x82\x7e" + struct.pack(">H", 5000))  # the head of one binary message
        for _ in range(5):
            await trio.sleep(SHORT_S)
            await peer.stream.send_all(bytes(1000))
        await peer.end(request_id, 5000)

    with scripted(dribble) as server:
        assert run(main)[44:] == bytes(5000)


def test_a_server_that_takes_nothing_is_a_timeout(run: Run) -> None:
    async def main() -> None:
        async with client_of(server, 3 * SHORT_S) as client:
            with pytest.raises(ServerTimeout, match="took nothing"):
                await client.speak("x" * 30_000_000)

    async def raw(stream: trio.abc.Stream) -> None:
        from wsproto import ConnectionType, WSConnection
        from wsproto.events import AcceptConnection

        protocol = WSConnection(ConnectionType.SERVER)
        protocol.receive_data(bytes(await stream.receive_some()))
        await stream.send_all(protocol.send(AcceptConnection()))
        await trio.sleep_forever()

    with scripted(raw=raw) as server:
        run(main)


@pytest.mark.parametrize("begun", [False, True])
def test_a_cancelled_request_leaves_a_client_that_works(run: Run, tmp_path: Path, begun: bool) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            with anyio.move_on_after(SHORT_S) as scope:
                await client.generate_speech("Hello.", tmp_path / "speech.wav")
            assert scope.cancelled_caught
            assert not client.is_connected()
            assert await client.generate_speech("Hello.", tmp_path / "speech.wav")

    async def hang(peer: Peer) -> None:
        request = await peer.request()
        if begun:
            await peer.start(request)
            await peer.send(BLOCK)
        await peer.request()

    with scripted(hang, stream_two_blocks) as server:
        run(main)
        assert server.commands() == ["speak", "speak"]
        assert server.connections == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["speech.wav"]


def test_asyncios_own_timeouts_work(tmp_path: Path) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.generate_speech("Hello.", tmp_path / "speech.wav"), SHORT_S)
            assert not client.is_connected()
            async with asyncio.timeout(10):
                assert await client.generate_speech("Hello.", tmp_path / "speech.wav")

    async def hang(peer: Peer) -> None:
        await peer.start(await peer.request())
        await peer.request()

    with scripted(hang, stream_two_blocks) as server:
        asyncio.run(main())
        assert server.commands() == ["speak", "speak"]
