"""The clients of a soak: good ones of each dialect, and those that do harm in each of the known ways."""

from __future__ import annotations

import json
import random
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection

from benchmarks.harness import connection

__all__ = ["GOOD", "HOSTILE", "Seen"]

TEXTS: Final = (
    "Hello there.",
    "The quick brown fox jumps over a lazy dog in the village.",
    "Numbers such as 42 or 3.14 belong to ordinary speech too. So do short sentences.",
    "A server that speaks should begin at once, and never stop before it has said all that it was asked for.",
)
ENDLESS: Final = "One more sentence for somebody who does not listen. " * 1_000
ANSWER_S: Final = 30.0
"""For any answer to a good client."""
DROPPED_S: Final = 30.0
"""Until a client that does nothing must have been dropped."""
RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER that makes closing a reset."""
HANDSHAKE: Final = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
WRONG: Final = (
    "",
    "{",
    "[" * 32_768,
    "null",
    '{"text": 42}',
    '{"text": ""}',
    '{"text": "Hi.", "speaker": "../../etc/passwd"}',
    '{"text": "Hi.", "sample_rate": 1e400}',
    '{"text": "Hi.", "model": "gpt"}',
    '{"text": "\\ud800"}',
    '{"command": "shutdown"}',
)


@dataclass
class Seen:
    """What the clients of one phase saw."""

    first_audio: list[float] = field(default_factory=list)
    """Seconds from a streamed request of a good client to its first audio."""
    done: Counter[str] = field(default_factory=Counter)
    """Rounds that went to their end, by kind of client."""
    errors: Counter[str] = field(default_factory=Counter)
    """Error replies by code, those to hostile clients."""
    failures: Counter[str] = field(default_factory=Counter)
    """What good clients were not spared: error codes and broken connections."""


class Failed(Exception):
    """A good client did not get what it had asked for; says what came instead."""


Client = Callable[[int, Seen], Awaitable[None]]
"""One round of a client, given the port."""


# --- Good clients ---


async def reply(websocket: WebSocketConnection) -> dict[str, Any] | bytes:
    """The next message, JSON decoded."""
    with trio.fail_after(ANSWER_S):
        message = await websocket.get_message()
    if isinstance(message, bytes):
        return message
    decoded: dict[str, Any] = msgspec.json.decode(message)
    if decoded["status"] == "error":
        raise Failed(decoded["code"])
    return decoded


async def send(websocket: WebSocketConnection, **fields: Any) -> None:
    await websocket.send_message(json.dumps(fields))


async def legacy(port: int, seen: Seen) -> None:
    async with connection(port) as websocket:
        await send(websocket, text=random.choice(TEXTS), sample_rate=random.choice((16_000, 24_000, 44_100)))
        while not isinstance(answer := await reply(websocket), dict) or answer["status"] != "success":
            pass
        left = answer["length_bytes"]
        while left > 0:
            left -= len(await reply(websocket))
        if left:
            raise Failed("wrong length")


async def streaming(port: int, seen: Seen) -> None:
    async with connection(port) as websocket:
        for text in random.sample(TEXTS, 2):
            asked, heard = time.perf_counter(), 0
            await send(websocket, text=text, stream=True, final_wav=False)
            while True:
                answer = await reply(websocket)
                if isinstance(answer, bytes):
                    if not heard:
                        seen.first_audio.append(time.perf_counter() - asked)
                    heard += len(answer)
                elif answer["status"] == "success":
                    break
            if heard != answer["length_bytes"] or not heard:
                raise Failed("wrong length")


async def multiplexed(port: int, seen: Seen) -> None:
    async with connection(port) as websocket:
        await send(websocket, command="hello", version=2)
        await reply(websocket)
        asked = time.perf_counter()
        for number, text in enumerate(TEXTS):
            await send(websocket, text=text, stream=True, final_wav=False, request_id=str(number))
        heard: Counter[int] = Counter()
        streams: dict[str, int] = {}
        while streams.keys() != {str(number) for number in range(len(TEXTS))} or any(streams.values()):
            answer = await reply(websocket)
            if isinstance(answer, bytes):
                stream = int.from_bytes(answer[:4], "big")
                if not heard[stream]:
                    seen.first_audio.append(time.perf_counter() - asked)
                heard[stream] += len(answer) - 4
            elif answer["status"] == "streaming":
                streams[answer["request_id"]] = answer["stream"]
            elif answer["status"] == "success":
                if heard[streams[answer["request_id"]]] != answer["length_bytes"]:
                    raise Failed("wrong length")
                streams[answer["request_id"]] = 0


async def cancelling(port: int, seen: Seen) -> None:
    async with connection(port) as websocket:
        await send(websocket, text=ENDLESS, stream=True, final_wav=False, request_id="long")
        while not isinstance(await reply(websocket), bytes):
            pass
        await send(websocket, command="cancel", request_id="long")
        while not isinstance(answer := await reply(websocket), dict) or answer["status"] != "cancelled":
            pass
        await send(websocket, text="Something else.", stream=True, final_wav=False)
        while not isinstance(answer := await reply(websocket), dict) or answer["status"] != "success":
            pass


async def openai(port: int, seen: Seen) -> None:
    body = json.dumps({"input": random.choice(TEXTS), "response_format": random.choice(("pcm", "wav", "mp3"))}).encode()
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        head = b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        await stream.send_all(head + body)
        answer = b""
        with trio.fail_after(ANSWER_S):
            while data := await stream.receive_some():
                answer += data
    if not answer.startswith(b"HTTP/1.1 200 ") or not answer.endswith(b"0\r\n\r\n"):
        raise Failed(f"http {answer[9:12].decode(errors='replace') or 'nothing'}")


# --- Hostile clients ---


@asynccontextmanager
async def upgraded(port: int, receive_buffer: int = 0) -> AsyncIterator[trio.SocketStream]:
    """A WebSocket after its handshake, for bytes of any kind."""
    with trio.socket.socket() as socket:
        if receive_buffer:
            socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, receive_buffer)
        await socket.connect(("127.0.0.1", port))
        stream = trio.SocketStream(socket)
        await stream.send_all(HANDSHAKE)
        await stream.receive_some()
        yield stream


def frame(opcode: int, payload: bytes) -> bytes:
    """A frame with an eight-byte length, masked with zeros."""
    return bytes([0x80 | opcode, 0xFF]) + len(payload).to_bytes(8, "big") + bytes(4) + payload


def request(text: str) -> bytes:
    return frame(1, json.dumps({"text": text, "stream": True, "final_wav": False, "sample_rate": 192_000}).encode())


async def until_dropped(stream: trio.SocketStream) -> None:
    with trio.move_on_after(DROPPED_S):
        while await stream.receive_some():
            pass


async def reset_while_speaking(port: int, seen: Seen) -> None:
    async with upgraded(port) as stream:
        await stream.send_all(request(ENDLESS))
        for _ in range(random.randrange(5)):
            await stream.receive_some()
        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, RESET)


async def reset_after_handshake(port: int, seen: Seen) -> None:
    async with upgraded(port) as stream:
        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, RESET)


async def garbage(port: int, seen: Seen) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(random.randbytes(random.randrange(1, 5_000)))
        await until_dropped(stream)


async def garbage_frames(port: int, seen: Seen) -> None:
    async with upgraded(port) as stream:
        await stream.send_all(random.randbytes(random.randrange(1, 5_000)))
        await until_dropped(stream)


async def never_reads(port: int, seen: Seen) -> None:
    async with upgraded(port, receive_buffer=4_096) as stream:
        await stream.send_all(request(ENDLESS))
        with trio.move_on_after(DROPPED_S):
            while True:
                await trio.sleep(0.5)
                await stream.send_all(frame(9, b""))  # fails once the server has given up


async def oversize(port: int, seen: Seen) -> None:
    async with upgraded(port) as stream:
        await stream.send_all(frame(1, b"x" * 1_100_000) + frame(9, b""))
        await until_dropped(stream)


async def half_handshake(port: int, seen: Seen) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(HANDSHAKE[: random.randrange(1, len(HANDSHAKE))])
        await until_dropped(stream)


async def wrong_json(port: int, seen: Seen) -> None:
    async with connection(port) as websocket:
        for message in WRONG:
            await websocket.send_message(message)
            try:
                raise Failed(f"{message[:40]!r} was accepted: {await reply(websocket)!r}")
            except Failed as failed:
                seen.errors[str(failed)] += 1


GOOD: Final[dict[str, Client]] = {
    "legacy": legacy,
    "streaming": streaming,
    "multiplexed": multiplexed,
    "cancelling": cancelling,
    "openai": openai,
}
HOSTILE: Final[dict[str, Client]] = {
    "reset while speaking": reset_while_speaking,
    "reset after handshake": reset_after_handshake,
    "garbage": garbage,
    "garbage frames": garbage_frames,
    "never reads": never_reads,
    "oversize": oversize,
    "half handshake": half_handshake,
    "wrong JSON": wrong_json,
}

ENDS: Final = (ConnectionClosed, HandshakeError, OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)
"""How a connection may end for a client."""


async def one_round(kind: str, client: Client, port: int, seen: Seen) -> None:
    """Have a client do its work once and note how it ended; what befalls a hostile one is its own affair."""
    good = kind in GOOD
    try:
        await client(port, seen)
    except* Failed as group:
        seen.failures[f"{kind}: {_first(group)}"] += 1
    except* ENDS as group:
        if good:
            seen.failures[f"{kind}: {type(_first(group)).__name__}"] += 1
        else:
            seen.done[kind] += 1
    else:
        seen.done[kind] += 1


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error
