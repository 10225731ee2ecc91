"""Fixtures that several test modules share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest
import structlog
import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

from tests.fake_engine import FakeEngine, entry
from tts_provider.engines.catalog import Entry
from tts_provider.server.lifecycle import ServerAddress, serve
from tts_provider.settings import Settings

Json = dict[str, Any]

MAX_MESSAGE_BYTES = 16 * 2**20


@dataclass
class Wire:
    """A client of the native protocol that sees every message."""

    websocket: WebSocketConnection
    stream: trio.SocketStream

    async def drop(self) -> None:
        """Leave without a word."""
        await trio.aclose_forcefully(self.stream)

    async def send(self, request: Json | str | bytes) -> None:
        """Send a JSON object, or a raw message."""
        message = request if isinstance(request, str | bytes) else msgspec.json.encode(request).decode()
        await self.websocket.send_message(message)

    async def receive(self) -> Json | bytes:
        """The next message; JSON decoded. Fails after a minute."""
        with trio.fail_after(60):
            message = await self.websocket.get_message()
        return message if isinstance(message, bytes) else msgspec.json.decode(message, type=dict)

    async def reply(self) -> Json:
        """The next message, which must be JSON."""
        message = await self.receive()
        assert isinstance(message, dict), f"{len(message)} bytes of audio came instead of a reply"
        return message

    async def ask(self, request: Json | str | bytes) -> Json:
        """Send a request and return the first reply."""
        await self.send(request)
        return await self.reply()

    async def audio(self, length: int) -> bytes:
        """Exactly `length` bytes of binary messages."""
        data = b""
        while len(data) < length:
            message = await self.receive()
            assert isinstance(message, bytes), message
            data += message
        assert len(data) == length
        return data

    async def legacy(self, request: Json | str) -> tuple[Json, bytes]:
        """Ask as clients of the replaced server do: at most one word that the request is queued, a success object, one WAV."""
        success = await self.ask(request)
        if success["status"] == "queued":  # on a slow machine a light engine takes a while to load, too
            success = await self.reply()
        assert success["status"] == "success", success
        return success, await self.audio(success["length_bytes"])

    async def until(self, *statuses: str) -> list[Json | bytes]:
        """All messages up to and with the first reply of one of `statuses`."""
        messages: list[Json | bytes] = []
        while True:
            messages.append(message := await self.receive())
            if isinstance(message, dict) and message["status"] in statuses:
                return messages


@dataclass
class RunningServer:
    """A server that listens on a free port of the loopback."""

    address: ServerAddress
    settings: Settings

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Wire]:
        """A new connection."""
        stream = await trio.open_tcp_stream(self.address.host, self.address.port)
        async with stream, trio.open_nursery() as nursery:
            websocket = await wrap_client_stream(
                nursery, stream, self.address.host, "/", max_message_size=MAX_MESSAGE_BYTES, message_queue_size=64
            )
            yield Wire(websocket, stream)
            with trio.move_on_after(5):
                await websocket.aclose()
            nursery.cancel_scope.cancel()


# Quick to write and without the variables of the code: rich, where it is installed, takes a second for each traceback.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        structlog.processors.KeyValueRenderer(key_order=["level", "event"]),
    ]
)


StartServer = Callable[..., Awaitable[RunningServer]]


@pytest.fixture
def settings() -> Settings:
    """Those of a server under test: a free port, the fake engine."""
    return Settings(port=0, default_model="fake")


@pytest.fixture
async def start_server(nursery: trio.Nursery, settings: Settings) -> StartServer:
    """Starts a server with the engines given, and settings that differ from the defaults by the keywords given."""

    async def start(*engines: FakeEngine | Entry, **changes: Any) -> RunningServer:
        lines = [engine if isinstance(engine, Entry) else entry(engine) for engine in engines]
        changed = replace(settings, **changes)

        async def run(*, task_status: trio.TaskStatus[ServerAddress]) -> None:
            await serve(changed, entries=lines, own_process=False, task_status=task_status)

        address = await nursery.start(run)
        return RunningServer(address, changed)

    return start


def audio_of(messages: list[Json | bytes]) -> bytes:
    """The binary messages among `messages`, joined."""
    return b"".join(message for message in messages if isinstance(message, bytes))


def replies_of(messages: list[Json | bytes], status: str) -> list[Json]:
    """The replies of one kind among `messages`."""
    return [message for message in messages if isinstance(message, dict) and message["status"] == status]
