"""Messages of a line and a body on a plain stream."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MemoryReceiveStream, MemorySendStream, memory_stream_pair

from tts_provider.errors import InvalidJSON, InvalidRequest
from tts_provider.server.framed import FramedStream
from tts_provider.server.streams import GuardedStream
from tts_provider.server.websocket import Closed


def length(line: bytes) -> int:
    try:
        return int(line)
    except ValueError:
        raise InvalidJSON("This is no number.") from None


def framed() -> tuple[FramedStream, trio.StapledStream[MemorySendStream, MemoryReceiveStream]]:
    """A connection whose lines are the lengths of what follows, and the client's end."""
    ours, theirs = memory_stream_pair()
    return FramedStream(GuardedStream(ours, 10.0), length, 100), theirs


async def test_messages_are_told_apart_however_they_come() -> None:
    stream, client = framed()
    await client.send_all(b"3\nabc0\n2\n")
    assert [await stream.receive() for _ in range(2)] == [b"3\nabc", b"0\n"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, b"x")
        with trio.move_on_after(0.01):
            await stream.receive()  # cancelled halfway, which loses nothing
    await client.send_all(b"\n4")
    assert await stream.receive() == b"2\nx\n"
    await client.send_all(b"\nmore")
    assert await stream.receive() == b"4\nmore"


@pytest.mark.parametrize(
    ("sent", "error"),
    [(b"1" * 65_537, InvalidRequest), (b"101\n", InvalidRequest), (b"-1\n", InvalidRequest), (b"GET /\n", InvalidJSON)],
)
async def test_what_is_no_message_is_refused(sent: bytes, error: type[Exception]) -> None:
    """Before more of it is kept than one message may have."""
    stream, client = framed()
    await client.send_all(sent)
    with pytest.raises(error):
        await stream.receive()


async def test_a_client_that_goes_is_told() -> None:
    """Also in the middle of a message."""
    stream, client = framed()
    await client.send_all(b"3\na")
    await client.aclose()
    with pytest.raises(Closed):
        await stream.receive()
    with pytest.raises(Closed):
        await stream.send([b"late"])


async def test_messages_are_sent_together() -> None:
    stream, client = framed()
    await stream.send([b"1\na", "2\nbc"])
    assert await client.receive_some() == b"1\na2\nbc"
