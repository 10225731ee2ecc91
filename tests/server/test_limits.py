"""What clients are held to: frames, messages, rates, addresses; and that they are told why."""

from __future__ import annotations

import json

import pytest
import trio
from trio.testing import MockClock

from tests.conftest import StartServer
from tests.fake_engine import FakeEngine
from tests.server.frames import BINARY, CLOSE, CONTINUATION, PING, TEXT, frame, upgrade
from tests.server.raw import raw_client, upgraded
from tts_provider.settings import SettingsError

INFO = frame(TEXT, b'{"command": "info"}')


@pytest.mark.parametrize(
    ("frames", "code", "reason"),
    [
        (frame(TEXT, b"x", fin=False) + frame(CONTINUATION, fin=False) * 4, 1008, "a message has 4 fragments at most"),
        (frame(TEXT, b"x" * 2001), 1009, "a message has 2000 bytes at most"),
        (frame(TEXT, b"x" * 2001) + frame(PING) * 3, 1009, "a message has 2000 bytes at most"),
        (frame(BINARY, b"x" * 1500, fin=False) + frame(CONTINUATION, b"x" * 501), 1009, "a message has 2000 bytes at most"),
        (frame(TEXT, length=2**62), 1009, "a message has 2000 bytes at most"),
        (frame(TEXT, length=2**63, length_bytes=8), 1002, "a frame's length is written the wrong way"),
        (frame(PING) * 21, 1008, "more than 10 pings a second"),
        (INFO * 101, 1008, "more than 50 frames a second"),
        (frame(0x5), 1002, "there is no opcode 5"),
        (frame(TEXT, b"x", masked=False), 1002, "a client must mask its frames"),
        (frame(TEXT, b"x", reserved=4), 1002, "a reserved bit is set"),
        (frame(CONTINUATION, b"x"), 1002, "a message begins before the last one has ended, or goes on without having begun"),
    ],
)
@pytest.mark.parametrize("early", [False, True])
async def test_a_breach_closes_the_connection_and_says_why(
    start_server: StartServer, frames: bytes, code: int, reason: str, early: bool
) -> None:
    """Also when the frames come in one packet with the request for them."""
    changes = {"max_fragments": 4, "max_message_bytes": 2000, "max_pings_per_s": 10, "max_frames_per_s": 50, "close_s": 0.5}
    server = await start_server(FakeEngine(), **changes)
    async with upgraded(server.address.port, first=frames if early else b"") as client:
        if not early:
            await client.send(frames)
        assert await client.closing() == (code, reason)
    async with server.connect() as other:
        await other.legacy({"text": "Hi."})


@pytest.mark.row(12)
async def test_a_message_has_256_fragments_unless_it_is_set_otherwise(start_server: StartServer) -> None:
    server = await start_server(FakeEngine(), close_s=0.5)
    whole = b'{"command": "info"}'.ljust(256)
    fragments = [frame(CONTINUATION if at else TEXT, whole[at : at + 1], fin=False) for at in range(256)]
    async with upgraded(server.address.port) as client:
        await client.send(b"".join(fragments[:255]) + frame(CONTINUATION, whole[255:]))
        await client.read_until(b'"server_version"')
    async with upgraded(server.address.port) as client:
        await client.send(b"".join(fragments) + frame(CONTINUATION))
        assert await client.closing() == (1008, "a message has 256 fragments at most")


async def test_a_client_that_writes_on_hears_why_it_was_closed(start_server: StartServer) -> None:
    """Closing on unread bytes would reset the connection, and the close frame be lost on the way."""
    server = await start_server(FakeEngine(), max_message_bytes=2000)
    async with upgraded(server.address.port) as client:
        await client.send(frame(TEXT, b"x" * 500_000))
        assert (await client.read_until(b"at most"))[:2] == b"\x88\x22"
        begun = trio.current_time()
        await client.send(frame(CLOSE, b"\x03\xf1"))
        await client.rest()
        assert trio.current_time() - begun < 1.5


async def test_frames_that_come_before_the_answer_are_not_lost(start_server: StartServer) -> None:
    """No client may send them, but half of one lost would let the rest of it be read as something else."""
    server = await start_server(FakeEngine())
    whole = INFO + INFO
    async with upgraded(server.address.port, first=whole[:30]) as client:
        await client.send(whole[30:])
        for _ in range(2):
            await client.read_until(b'"server_version"')


async def test_commands_have_a_rate(start_server: StartServer, autojump_clock: MockClock) -> None:
    """Twice as many at once, then `busy`; a second later again as many as the rate. Requests are not counted."""
    server = await start_server(FakeEngine(), max_commands_per_s=3)
    async with server.connect() as client:
        replies = [await client.ask({"command": "info"}) for _ in range(5)]
        replies.append(await client.ask({"command": "voices", "model": "fake"}))
        assert {"error"} & {reply["status"] for reply in replies} == set()
        refused = await client.ask({"command": "info"})
        assert (refused["code"], refused["retryable"]) == ("busy", True)
        await client.legacy({"text": "Hi."})
        await trio.sleep(1)
        replies = [await client.ask({"command": "info"}) for _ in range(4)]
        assert [reply["status"] for reply in replies].count("error") == 1


async def test_an_address_has_so_many_connections_and_no_more(start_server: StartServer) -> None:
    """429 with the time to wait, before the upgrade and for HTTP alike; a place that is given up can be had again."""
    server = await start_server(FakeEngine(), max_connections_per_address=2, uncounted_addresses=())
    port = server.address.port
    async with server.connect() as first:
        async with upgraded(port):
            for request in (upgrade(), b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"):
                async with raw_client(port) as third:
                    await third.send(request)
                    head = await third.read_until(b"\r\n\r\n")
                    assert head.startswith(b"HTTP/1.1 429")
                    assert b"retry-after: 1" in head.lower()
        await first.legacy({"text": "Hi."})
        with trio.fail_after(5):
            while True:
                async with raw_client(port) as again:
                    await again.send(upgrade())
                    if (await again.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101"):
                        break


async def test_those_who_are_turned_away_take_no_place(start_server: StartServer) -> None:
    """However many they are, and even if they say nothing: a place that becomes free is free."""
    server = await start_server(FakeEngine(), max_connections=1, handshake_s=30)
    port = server.address.port
    async with trio.open_nursery() as nursery:
        async with server.connect() as client:
            silent = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(80)]
            # The first 64 might still ask something, which they would be told; for the others there is no time.
            with trio.fail_after(5):
                for stream in silent[64:]:
                    assert await stream.receive_some() == b""
            await client.legacy({"text": "Hi."})
        async with server.connect() as client:
            await client.legacy({"text": "Hi."})
        for stream in silent:
            nursery.start_soon(stream.aclose)


async def test_the_limits_are_told(start_server: StartServer) -> None:
    server = await start_server(FakeEngine(), max_fragments=7)
    async with server.connect() as client:
        limits = (await client.ask({"command": "info"}))["limits"]
    expected = {
        "max_message_bytes": 1_048_576,
        "max_fragments": 7,
        "max_frames_per_s": 1000,
        "max_pings_per_s": 100,
        "max_commands_per_s": 50,
        "max_fields": 32,
        "max_text_chars": 100_000,
        "max_queued_requests": 32,
        "max_streams": 32,
        "max_connections": 1000,
        "max_connections_per_address": 50,
        "handshake_s": 5,
        "idle_s": 300,
        "send_stall_s": 10,
        "ping_interval_s": 20,
        "ping_timeout_s": 20,
        "close_s": 2,
        "min_sample_rate": 8000,
        "max_sample_rate": 192_000,
    }
    assert json.loads(json.dumps(limits)) | expected == limits


async def test_uncounted_addresses_must_be_networks(start_server: StartServer) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(SettingsError, match="uncounted_addresses")):
        async with trio.open_nursery() as nursery:
            from tts_provider.server.lifecycle import serve
            from tts_provider.settings import Settings

            nursery.start_soon(serve, Settings(port=0, uncounted_addresses=("home",)))
