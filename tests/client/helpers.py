"""What the client's tests share."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel

from tests.background import Peer, Scripted
from tts_provider.client import TTSClient

SHORT_S = 0.1
"""A timeout that a test waits for."""
BLOCK = struct.pack("<1200h", *range(1200))
"""50 ms of audio at 24 kHz."""

Run = Callable[[Callable[[], Awaitable[Any]]], Any]


def client_of(server: Scripted, timeout: float | None = 10) -> TTSClient:
    """A client of a server that plays a script."""
    return TTSClient("127.0.0.1", server.port, timeout)


async def audio_of(speech: AsyncIterator[Any]) -> bytes:
    """The audio that is left in a stream."""
    return b"".join([item async for item in speech if isinstance(item, bytes)])


async def tokens(*pieces: str) -> AsyncIterator[str]:
    for piece in pieces:
        await anyio.lowlevel.checkpoint()
        yield piece


async def stream_two_blocks(peer: Peer) -> None:
    """Answers any number of streaming requests, each with two blocks of audio."""
    while True:
        await peer.stream_audio(BLOCK, BLOCK)


async def speak_slowly_until_cancelled(peer: Peer) -> None:
    """Streams two blocks and then nothing; stops at a cancel."""
    request_id = await peer.start(await peer.request())
    await peer.send(BLOCK)
    await peer.send(BLOCK)
    assert await peer.request() == {"command": "cancel", "request_id": request_id}
    await peer.send(BLOCK)
    await peer.say("cancelled", request_id=request_id)
