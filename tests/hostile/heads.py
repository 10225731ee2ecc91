"""Attacks before there is a WebSocket: heads, bodies, probes, resets.

Each is a coroutine that does its worst to the port and returns when it is done, or goes on until it is cancelled.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import trio

from tests.server.frames import upgrade
from tests.server.raw import RawClient, raw_client, upgraded

__all__ = ["ATTACKS"]

Attack = Callable[[int], Awaitable[None]]

RESETS = 500
"""Between 80 and 250 ended a plain trio-websocket server."""
PAUSE_S = 0.001
"""Between connections: both ends share the machine's cores, and it is the server that is to be measured."""
HELD = 150


async def side_by_side(count: int, one: Callable[[], Awaitable[None]]) -> None:
    """Do `one` so many times at once."""
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)


async def answer(port: int, request: bytes) -> bytes:
    """All that a request gets."""
    async with raw_client(port) as client:
        await client.send(request)
        return await client.rest()


async def answers(port: int, requests: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
    """Each of `requests` with all that it gets, asked side by side: a refused client is listened to for a second."""
    found: list[tuple[bytes, bytes]] = []

    async def ask(request: bytes) -> None:
        found.append((request, await answer(port, request)))

    async with trio.open_nursery() as nursery:
        for request in requests:
            nursery.start_soon(ask, request)
    return found


async def bytes_that_are_no_ascii(port: int) -> None:
    """One of these ends a server made of `serve_websocket`."""
    names = (b"Host", b"Connection", b"Sec-WebSocket-Protocol", b"Sec-WebSocket-Extensions", b"Cookie")
    values = (b"\xff", b"x\xc3", b"\x80\x81")
    for request, reply in await answers(port, [upgrade(name + b": " + value) for name in names for value in values]):
        assert reply.startswith(b"HTTP/1.1 400"), request


async def what_is_no_http(port: int) -> None:
    """TLS, HTTP/2, SSH, binary noise, an endless line."""
    starts = (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
        b"SSH-2.0-OpenSSH_9.6\r\n",
        bytes(range(256)) * 40,
        b"GET /" + b"a" * 200_000,
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000,
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 50_000,
        b"\r\n" * 50_000,
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET\x00/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00" * 10_000,
    )
    for start, reply in await answers(port, starts):
        assert reply[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 431"), (start[:20], reply[:80])


async def bad_upgrades(port: int) -> None:
    """None of them becomes a WebSocket."""
    good = upgrade()
    requests = (
        upgrade(version=b"8"),
        upgrade(version=b"thirteen"),
        good.replace(b"Sec-WebSocket-Key", b"X-Key"),
        good.replace(b"AAAAAAAAAAAAAAAAAAAAAA==", b"short"),
        upgrade(b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="),
        good.replace(b"Connection: Upgrade", b"Connection: close"),
        good.replace(b"GET", b"POST"),
        good.replace(b"HTTP/1.1", b"HTTP/1.0"),
        upgrade(b"Content-Length: 5") + b"hello",
        upgrade(b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        good.replace(b"Host: localhost\r\n", b""),
        upgrade(b"Host: other"),
    )
    for request, reply in await answers(port, requests):
        expected = b"HTTP/1.1 400" if b"Version: 13" in request else b"HTTP/1.1 426"
        assert reply.startswith(expected), (request, reply)


async def probes(port: int) -> None:
    """What a balancer does: connect and close."""
    for _ in range(1000):
        async with raw_client(port):
            pass
        await trio.sleep(PAUSE_S)


async def resets_after(port: int, start: bytes) -> None:
    for _ in range(RESETS):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        client = RawClient(stream)
        await client.send(start)
        client.reset()
        await trio.sleep(PAUSE_S)


async def resets_after_garbage(port: int) -> None:
    await resets_after(port, b"\x00\xff garbage\r\n\r\n")


async def resets_after_a_request(port: int) -> None:
    await resets_after(port, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")


async def resets_after_the_handshake(port: int) -> None:
    """Not waiting for its answer, and having had it."""
    await resets_after(port, upgrade())
    for _ in range(RESETS):
        async with upgraded(port) as client:
            client.reset()
        await trio.sleep(PAUSE_S)


async def half_handshakes(port: int) -> None:
    """Held for as long as the server does it."""

    async def half() -> None:
        async with raw_client(port) as client:
            await client.send(upgrade()[:-10])
            assert await client.rest() == b""

    while True:
        await side_by_side(HELD, half)


async def silence(port: int) -> None:
    """Connected, and never a byte."""

    async def nothing() -> None:
        async with raw_client(port) as client:
            assert await client.rest() == b""

    while True:
        await side_by_side(HELD, nothing)


async def slow_heads(port: int) -> None:
    """Slowloris: always a byte in time, never the end."""

    async def slow() -> None:
        async with raw_client(port) as client:
            try:
                for byte in b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 1000:
                    await client.stream.send_all(bytes([byte]))
                    await trio.sleep(0.1)
            except trio.BrokenResourceError:
                return
            raise AssertionError("the server waits for ever")

    while True:
        await side_by_side(HELD, slow)


async def smuggling(port: int) -> None:
    """A second request hidden in the first one's body or head: one answer at most, and never the hidden one's."""
    hidden = b"GET /v1/info HTTP/1.1\r\nHost: x\r\n\r\n"
    chunked_end = b"0\r\n\r\n"
    shapes = (
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked", chunked_end + hidden),
        (b"Transfer-Encoding: chunked\r\nContent-Length: %d" % len(chunked_end + hidden), chunked_end + hidden),
        (b"Content-Length: 0\r\nContent-Length: %d" % len(hidden), hidden),
        (b"Content-Length: 0, %d" % len(hidden), hidden),
        (b"Content-Length: +%d" % len(hidden), hidden),
        (b"Content-Length: -1", hidden),
        (b"Content-Length: 1e3", hidden),
        (b"Content-Length: 99999999999999999999999", hidden),
        (b"Transfer-Encoding: xchunked", chunked_end + hidden),
        (b"Transfer-Encoding: chunked, identity", chunked_end + hidden),
        (b"Transfer-Encoding : chunked", chunked_end + hidden),
        (b"Transfer-Encoding:\x0bchunked", chunked_end + hidden),
        (b"X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: %d" % len(hidden), hidden),
        (b"X: y\rTransfer-Encoding: chunked", hidden),
    )
    head = b"POST /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    for request, reply in await answers(port, [head + name + b"\r\n\r\n" + body for name, body in shapes]):
        assert reply.count(b"HTTP/1.1 ") <= 1, (request, reply)
        assert b"server_version" not in reply, (request, reply)


async def bodies_without_end(port: int) -> None:
    """Claimed, sent, or in chunks: 413 for each, however long it goes on."""
    speech = b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    block = b"x" * 65_536
    assert b" 413 " in (await answer(port, speech + b"Content-Length: 10000000000\r\n\r\n"))[:20]
    for head, piece in (
        (b"Content-Length: 100000000\r\n\r\n", block),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + block + b"\r\n"),
    ):
        async with raw_client(port) as client:
            await client.send(speech + head)
            for _ in range(200):
                await client.send(piece)
            assert b" 413 " in (await client.rest())[:20]


async def bad_chunks(port: int) -> None:
    speech = b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    bad = (b"zz\r\nhello", b"-5\r\nhello\r\n", b"5\r\nhelloXX", b"f" * 100 + b"\r\n", b"5;" + b"x" * 100_000, b"\r\n" * 9)
    for request, reply in await answers(port, [speech + chunks for chunks in bad]):
        assert reply[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 431"), (request[-20:], reply[:80])
    async with raw_client(port) as client:
        await client.send(speech)
        await client.send(b"1\r\nx\r\n" * 100_000)
        await client.send(b"0\r\n\r\n")
        reply = await client.read_until(b"\r\n\r\n")
        assert reply.startswith(b"HTTP/1.1 400"), reply


async def pipelining(port: int) -> None:
    """A thousand requests in one go, answered in order, one after the other."""
    count = 1000
    async with raw_client(port) as client:
        request = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                client.send, request * (count - 1) + request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
            )
            reply = await client.rest()
    assert reply.count(b"HTTP/1.1 200") == count


async def stalled_http_readers(port: int) -> None:
    """Ask for an hour of speech and never read it: dropped, and its engine stopped."""
    text = b"A long text that nobody will ever hear. " * 2000
    body = b'{"model": "espeak", "response_format": "pcm", "input": "' + text + b'"}'
    head = b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )

    async def stalled() -> None:
        async with raw_client(port) as client:
            await client.send(head + body)
            await trio.sleep(3)
            await client.rest()

    await side_by_side(5, stalled)


ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        bytes_that_are_no_ascii,
        what_is_no_http,
        bad_upgrades,
        probes,
        resets_after_garbage,
        resets_after_a_request,
        resets_after_the_handshake,
        half_handshakes,
        silence,
        slow_heads,
        smuggling,
        bodies_without_end,
        bad_chunks,
        pipelining,
        stalled_http_readers,
    )
}
