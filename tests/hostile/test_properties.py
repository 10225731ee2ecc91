"""Whatever a client sends: at most one well-formed answer a message, a session that goes on, and never a fault of ours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import msgspec
import pytest
import structlog.testing
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.background import in_thread
from tests.conftest import RunningServer, Wire
from tests.fake_engine import FakeEngine, entry
from tests.server.frames import frame, upgrade
from tests.server.raw import raw_client
from tts_provider.engines.catalog import Catalog
from tts_provider.messages import COMMANDS
from tts_provider.server.app import build_app
from tts_provider.server.dialects.native import NativeDialect
from tts_provider.server.http_bridge import HttpBridge
from tts_provider.server.lifecycle import ServerAddress
from tts_provider.server.listener import Connection, Listener
from tts_provider.server.service import SpeechService
from tts_provider.server.session import Sessions
from tts_provider.settings import Settings

STATUSES = {"queued", "success", "error", "streaming", "sentence", "words", "cancelled", "info", "voices"}

T = TypeVar("T")


class Served:
    """A listener with the fake engine behind it, in a thread of its own, so that examples can be synchronous."""

    def __init__(self) -> None:
        self.settings = Settings(
            port=0, default_model="fake", handshake_s=0.2, close_s=0.2, max_commands_per_s=0, max_frames_per_s=0
        )
        self.listener: Listener
        self.port = 0

    async def main(self, *, task_status: trio.TaskStatus[int]) -> None:
        catalog = Catalog([entry(FakeEngine())], default="fake")
        service, sessions = SpeechService(catalog, self.settings), Sessions(self.settings)

        async def session(connection: Connection) -> None:
            await sessions.serve(connection, lambda session: NativeDialect(service, session).run())

        app = build_app([], metrics=service.metrics, ready=lambda: True, describe=dict)
        self.listener = Listener(self.settings, session, HttpBridge(app, max_body_bytes=1000))
        sockets = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with trio.open_nursery() as nursery:
            await nursery.start(catalog.run)
            nursery.start_soon(self.listener.run, sockets, nursery)
            task_status.started(sockets[0].socket.getsockname()[1])

    def with_client(self, use: Callable[[Wire], Awaitable[T]]) -> T:
        """What `use` makes of a new connection."""

        async def run() -> T:
            with trio.fail_after(10):
                async with RunningServer(ServerAddress("127.0.0.1", self.port), self.settings).connect() as client:
                    return await use(client)

        return trio.run(run)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    server = Served()
    with structlog.testing.capture_logs(), in_thread(server.main) as server.port:
        yield server


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**6), 10**6),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
FIELDS = st.sampled_from(
    [
        "text",
        "model",
        "speaker",
        "voice",
        "lang",
        "sample_rate",
        "format",
        "speed",
        "final_wav",
        "request_id",
        "extra_params",
        "x",
    ]
)
REQUESTS = st.dictionaries(FIELDS, JSON, max_size=6)
ASKED = REQUESTS | st.builds(
    lambda request, command: {**request, "command": command}, REQUESTS, st.sampled_from(COMMANDS) | JSON
)


@settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(JSON | ASKED, min_size=1, max_size=8))
def test_any_json_has_its_answer_and_the_session_goes_on(served: Served, messages: list[Any]) -> None:
    """Each reply is well-formed, of a known kind, and an error says which and why. Then the same session still speaks."""

    async def use(client: Wire) -> None:
        for message in messages:
            await client.send(msgspec.json.encode(message).decode())
            await client.send({"command": "end"})  # should it have been a `begin`
        await client.send({"text": "Are you there?", "stream": True, "final_wav": False, "request_id": "the-last-one"})
        while True:
            reply = await client.receive()
            if isinstance(reply, bytes):
                continue
            assert reply.keys() & {"status", "server_version"}, reply
            assert reply.get("status", "info") in STATUSES, reply
            if reply.get("status") == "error":
                assert reply["code"]
                assert reply["message"]
                assert reply["code"] != "internal", (messages, reply)
            if reply.get("request_id") == "the-last-one" and reply["status"] in ("success", "error"):
                assert reply["status"] == "success", reply
                return

    served.with_client(use)
    assert served.listener.faults == 0


FRAMES = st.builds(
    frame,
    st.integers(0, 15),
    st.binary(max_size=200) | ASKED.map(msgspec.json.encode),
    fin=st.booleans(),
    reserved=st.sampled_from([0] * 9 + [1, 4]),
    masked=st.sampled_from([True] * 9 + [False]),
)
HEADS = st.sampled_from(
    [upgrade(), b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", b""]
)
CHUNKS = st.lists(HEADS | FRAMES | st.binary(max_size=300), max_size=12)


@settings(derandomize=True, deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(HEADS, CHUNKS, st.booleans())
def test_no_bytes_are_a_fault_of_the_listener(served: Served, head: bytes, chunks: list[bytes], reset: bool) -> None:
    """Heads, frames and noise in any order, ended properly or by a reset."""

    async def send() -> None:
        with trio.fail_after(30):
            async with raw_client(served.port) as client:
                await client.send(head)
                if head.startswith(b"GET / "):
                    await client.read_until(b"\r\n\r\n")
                for chunk in chunks:
                    await client.send(chunk)
                if reset:
                    client.reset()

    trio.run(send)
    assert served.listener.faults == 0


def test_after_all_that_nobody_is_left(served: Served) -> None:
    """Run last, as it stands last."""

    async def settle() -> None:
        for _ in range(200):
            if served.listener.connections:
                await trio.sleep(0.05)

    trio.run(settle)
    assert served.listener.connections == 0
    assert served.listener.faults == 0
