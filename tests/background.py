"""Servers in a thread of their own, for clients under asyncio, clients without an event loop, and other processes."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import structlog.testing
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream
from wsproto.utilities import LocalProtocolError

from tts_provider.engines.catalog import Entry
from tts_provider.server.lifecycle import ServerAddress, serve
from tts_provider.settings import Settings

Json = dict[str, Any]

STOP_S = 10.0
"""For a server's end; a script that hangs must not hang the tests."""


class Main(Protocol):
    async def __call__(self, *, task_status: trio.TaskStatus[int]) -> None:
        """Serve until cancelled; start with the port."""


@contextmanager
def in_thread(main: Main) -> Iterator[int]:
    """Run `main` under Trio in a thread; the port with which it started. What it raises is raised at the end."""
    ready = threading.Event()
    port = 0
    scope = trio.CancelScope()
    token: trio.lowlevel.TrioToken | None = None
    errors: list[BaseException] = []

    async def run() -> None:
        nonlocal port, token
        token = trio.lowlevel.current_trio_token()
        with scope:
            async with trio.open_nursery() as nursery:
                port = await nursery.start(main)
                ready.set()

    def thread() -> None:
        try:
            trio.run(run)
        except BaseException as error:
            errors.append(error)
        finally:
            ready.set()

    worker = threading.Thread(target=thread, daemon=True)
    worker.start()
    ready.wait()
    try:
        if not errors:
            yield port
    finally:
        if token is not None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(scope.cancel)
        worker.join(STOP_S)
    assert not worker.is_alive(), "the server does not stop"
    if errors:
        raise errors[0]


@contextmanager
def speech_server(*entries: Entry, **settings: Any) -> Iterator[int]:
    """The real server with these engines, the first of them the default; its port. What it logs is not shown."""

    async def main(*, task_status: trio.TaskStatus[int]) -> None:
        class Started:
            def started(self, address: ServerAddress) -> None:
                task_status.started(address.port)

        chosen = Settings(port=0, default_model=entries[0].name, **settings)
        await serve(chosen, entries=entries, own_process=False, task_status=Started())  # type: ignore[arg-type]

    with structlog.testing.capture_logs(), in_thread(main) as port:
        yield port


@dataclass
class Peer:
    """The server's end of one connection, as a script sees it."""

    websocket: WebSocketConnection
    stream: trio.abc.Stream
    log: list[Json]

    async def request(self) -> Json:
        """The client's next message."""
        message = msgspec.json.decode(await self.websocket.get_message(), type=dict[str, Any])
        self.log.append(message)
        return message

    async def say(self, status: str, **fields: Any) -> None:
        """Send a reply."""
        await self.send(msgspec.json.encode({"status": status, **fields}).decode())

    async def send(self, message: str | bytes) -> None:
        """Send a message as it is."""
        await self.websocket.send_message(message)

    async def fail(self, code: str = "synthesis_failed", message: str = "It failed.", **fields: Any) -> None:
        """Send an error reply."""
        await self.say("error", code=code, message=message, retryable=False, **fields)

    async def start(self, request: Json, sample_rate: int = 24_000, warnings: Sequence[str] = ()) -> str:
        """Begin to answer a streaming request; its id."""
        request_id = str(request["request_id"])
        await self.say(
            "streaming",
            request_id=request_id,
            model=request.get("model", "fake"),
            voice="tone",
            lang="en-US",
            sample_rate=sample_rate,
            channels=1,
            format=request.get("format", "pcm"),
            warnings=warnings,
        )
        return request_id

    async def sentence(self, request_id: str, index: int, text: str) -> None:
        await self.say("sentence", request_id=request_id, index=index, text=text, start_ms=0.0)

    async def end(self, request_id: str, length: int, sample_rate: int = 24_000, format: str = "pcm") -> None:
        """The last word about a streaming request."""
        await self.say(
            "success", request_id=request_id, length_bytes=length, sample_rate=sample_rate, format=format, duration_ms=1.0
        )

    async def stream_audio(self, *blocks: bytes, sample_rate: int = 24_000) -> None:
        """Answer one streaming request."""
        request_id = await self.start(await self.request(), sample_rate)
        for block in blocks:
            await self.send(block)
        await self.end(request_id, sum(map(len, blocks)), sample_rate)

    async def drop(self) -> None:
        """Leave without a word."""
        await trio.aclose_forcefully(self.stream)


Script = Callable[[Peer], Awaitable[None]]
"""Plays the server on one connection; the connection is closed at its end."""

RawScript = Callable[[trio.abc.Stream], Awaitable[None]]
"""Plays something that is no WebSocket server."""


@dataclass
class Scripted:
    """A server that plays scripts."""

    port: int = 0
    log: list[Json] = field(default_factory=list)
    """All requests of all connections."""
    connections: int = 0

    def commands(self) -> list[str]:
        """What was asked, in order."""
        return [str(request.get("command", "speak")) for request in self.log]


@contextmanager
def scripted(*scripts: Script, raw: RawScript | None = None, tls: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    """A server on the loopback whose n-th connection plays the n-th script, and the last one ever after."""
    server = Scripted()

    async def main(*, task_status: trio.TaskStatus[int]) -> None:
        async def handle(plain: trio.SocketStream) -> None:
            stream = plain if tls is None else trio.SSLStream(plain, tls, server_side=True, https_compatible=True)
            number = server.connections
            server.connections += 1
            try:
                if raw is not None:
                    await raw(stream)
                else:
                    await play(stream, scripts[min(number, len(scripts) - 1)])
            except* (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError, LocalProtocolError):
                pass  # the last one is trio-websocket's reader, when something comes while it closes

        async def play(stream: trio.abc.Stream, script: Script) -> None:
            async with trio.open_nursery() as nursery:
                request = await wrap_server_stream(nursery, stream, max_message_size=2**26, message_queue_size=64)
                websocket = await request.accept()
                await script(Peer(websocket, stream, server.log))
                with trio.move_on_after(1):
                    await websocket.aclose()
                nursery.cancel_scope.cancel()

        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        task_status.started(listeners[0].socket.getsockname()[1])
        await trio.serve_listeners(handle, listeners)

    with in_thread(main) as server.port:
        yield server
