"""Attacks on an open WebSocket: frames, messages, floods, and clients that do not listen.

Each is a coroutine that does its worst to the port and returns when it is done, or goes on until it is cancelled.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import trio

from tests.hostile.heads import Attack, side_by_side
from tests.server.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame
from tests.server.raw import RawClient, upgraded

__all__ = ["ATTACKS"]

MIB = 2**20
LONG = "A long text that nobody will ever hear. " * 1500


def message(**fields: object) -> bytes:
    """A request as a frame."""
    return frame(TEXT, json.dumps(fields).encode())


async def closes_with(port: int, frames: bytes, *codes: int | None) -> None:
    """Send `frames`; the server must close, with one of `codes`. None is a close without a frame."""
    async with upgraded(port) as client:
        await client.send(frames)
        code, _ = await client.closing()
        assert code in codes, (frames[:20], code)


async def too_large_then_a_ping(port: int) -> None:
    """Ends a server made of `serve_websocket`, whose reader answers the ping while it closes."""
    for _ in range(5):
        await closes_with(port, frame(TEXT, b"x" * (MIB + 1)) + frame(PING) * 3, 1009)
        await closes_with(port, frame(BINARY, b"x" * MIB, fin=False) + frame(CONTINUATION, b"xx") + frame(PING), 1009)


async def too_large_and_stays(port: int) -> None:
    """Hears 1009 and keeps the connection open for as long as it is let."""

    async def one() -> None:
        async with upgraded(port) as client:
            await client.send(frame(TEXT, length=2 * MIB))
            assert (await client.closing())[0] == 1009

    await side_by_side(20, one)


async def bad_frames(port: int) -> None:
    """Everything that RFC 6455 forbids; most of it with the code that it asks for."""
    for bad in (
        frame(0x3),
        frame(0xF),
        frame(TEXT, reserved=4),
        frame(PING, reserved=2),
        frame(TEXT, b"{}", masked=False),
        frame(PING, b"x" * 126),
        frame(CLOSE, fin=False),
        frame(CONTINUATION, b"x"),
        frame(TEXT, fin=False) + frame(BINARY),
        frame(TEXT, length=2**63, length_bytes=8),
        frame(TEXT, length=2**64 - 1, length_bytes=8),
    ):
        await closes_with(port, bad, 1002)
    await closes_with(port, frame(TEXT, length=2**63 - 1, length_bytes=8), 1009)
    for text in (b"\xff", b"\xc3", b"\xed\xa0\x80", b"ok \xf4\x90\x80\x80"):
        await closes_with(port, frame(TEXT, text), 1007, None)
    for payload in (b"\x03", b"\x03\xe7", b"\x03\xed", b"\x04\x4c", b"\x13\x88", b"\x03\xe8\xff"):
        await closes_with(port, frame(CLOSE, payload), 1002, 1007, None)


async def fragments_of_one_byte(port: int) -> None:
    for opcode in (TEXT, BINARY):
        frames = frame(opcode, b"x", fin=False) + frame(CONTINUATION, b"x", fin=False) * 100_000
        await closes_with(port, frames, 1008)


async def endless_empty_fragments(port: int) -> None:
    """For as long as it is let, eight at a time."""

    async def one() -> None:
        async with upgraded(port) as client:
            await client.send(frame(TEXT, fin=False))
            for _ in range(200):
                await client.send(frame(CONTINUATION, fin=False) * 1000)
            await client.rest()

    await side_by_side(8, one)


async def flood(port: int, frames: bytes, *codes: int | None) -> None:
    """`frames` again and again until the server closes."""
    async with upgraded(port) as client, trio.open_nursery() as nursery:

        async def send() -> None:
            for _ in range(2000):
                await client.send(frames)

        nursery.start_soon(send)
        code, _ = await client.closing()
        nursery.cancel_scope.cancel()
    assert code in codes, code


async def pings(port: int) -> None:
    await flood(port, frame(PING, b"x" * 100) * 50, 1008)
    await flood(port, frame(PONG) * 50, 1008)


async def infos(port: int) -> None:
    """Ten thousand: `busy` soon, closed in the end, answered or not."""
    await flood(port, message(command="info") * 10_000, 1008, None)


async def messages_that_are_no_requests(port: int) -> None:
    """A hundred of each; each has its error, and the connection goes on."""
    long_name, long_number = b'{"command": "' + b"x" * 1000 + b'"}', b'{"speaker":' + b"9" * 10_000 + b"}"
    for bad in (b"{", b"null", b"[" * 32_768, b'{"a":' * 1000, long_name, long_number):
        async with upgraded(port) as client:
            for _ in range(100):
                await client.send(frame(TEXT, bad))
                await client.read_until(b'"code":"')


async def large_json(port: int) -> None:
    """A mebibyte that takes a parser as long as it can."""
    objects = b'{"text": "x", "speaker": "?", "y": [' + b",".join([b"{}"] * 300_000) + b"]}"
    for _ in range(4):
        async with upgraded(port) as client:
            for _ in range(5):
                await client.send(frame(TEXT, objects))
                await client.read_until(b'"code":"')


async def binary_messages(port: int) -> None:
    await flood(port, frame(BINARY, b"x" * 1000) * 10, 1003)


async def never_reads(port: int) -> None:
    """Asks for hours of speech and reads none of it: dropped after the stall time, its engine stopped."""

    async def one() -> None:
        async with upgraded(port) as client:
            await client.send(message(text=LONG, stream=True, sample_rate=192_000))
            await trio.sleep(3)
            await client.rest()

    await side_by_side(6, one)


async def reads_a_byte_now_and_then(port: int) -> None:
    async def one() -> None:
        async with upgraded(port) as client:
            await client.send(message(text=LONG, stream=True, sample_rate=192_000))
            for _ in range(100):
                await client.stream.receive_some(1)
                await trio.sleep(0.2)

    await side_by_side(6, one)


async def never_answers_the_close(port: int) -> None:
    """The server gives up after its closing time."""

    async def one() -> None:
        async with upgraded(port) as client:
            await client.send(frame(BINARY, b"x") * 4)
            assert (await client.closing())[0] == 1003

    await side_by_side(20, one)


async def half_a_frame(port: int) -> None:
    """The rest of it comes byte by byte, and never all."""

    async def one() -> None:
        async with upgraded(port) as client:
            for byte in frame(TEXT, b"x" * 1000):
                await client.send(bytes([byte]))
                await trio.sleep(0.05)

    await side_by_side(50, one)


async def all_it_may_have(port: int) -> None:
    """As many requests as one connection may have, begun and never ended, again and again."""

    async def one() -> None:
        async with upgraded(port) as client:
            await client.send(message(command="hello", version=2))
            for number in range(40):
                await client.send(message(command="begin", stream=True, request_id=f"r{number}"))
            await client.read_until(b'"busy"')

    for _ in range(5):
        await one()


async def cancels(port: int) -> None:
    """Begin and cancel as fast as a client may."""
    async with upgraded(port) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.rest)
        for number in range(400):
            await client.send(message(text=LONG, stream=True, request_id=f"r{number}"))
            await client.send(message(command="cancel", request_id=f"r{number}"))
            await trio.sleep(0.002)
        nursery.cancel_scope.cancel()


Phase = Callable[[RawClient], Awaitable[None]]


async def resets_while_streaming(port: int) -> None:
    for _ in range(50):
        async with upgraded(port) as client:
            await client.send(message(text=LONG, stream=True))
            await client.read_until(b'"sentence"')
            client.reset()


async def resets_while_queued(port: int) -> None:
    for _ in range(50):
        async with upgraded(port) as client:
            for _ in range(10):
                await client.send(message(text=LONG))
            client.reset()


ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        too_large_then_a_ping,
        too_large_and_stays,
        bad_frames,
        fragments_of_one_byte,
        endless_empty_fragments,
        pings,
        infos,
        messages_that_are_no_requests,
        large_json,
        binary_messages,
        never_reads,
        reads_a_byte_now_and_then,
        never_answers_the_close,
        half_a_frame,
        all_it_may_have,
        cancels,
        resets_while_streaming,
        resets_while_queued,
    )
}
