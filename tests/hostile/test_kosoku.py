"""The Autobahn cases, as kosoku runs them, against our listener with an echo for a dialect.

Left out: 12 and 13 (compression, which is never negotiated) and 9 (large messages and tens of thousands of fragments, which the
limits are there to refuse).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.server.frames import CLOSE, TEXT, frame
from tests.server.raw import upgraded
from tts_provider.server.http_bridge import HttpBridge
from tts_provider.server.listener import Connection, Listener
from tts_provider.server.session import Session, Sessions
from tts_provider.settings import Settings

pytest.importorskip("kosoku")

RUN_S = 120
PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}


async def echo(session: Session) -> None:
    """A dialect that says what it hears."""
    while True:
        await session.outbox.put(await session.receive(), session)


async def no_application(*_: object) -> None:
    raise NotImplementedError


@pytest.fixture
async def listener(nursery: trio.Nursery) -> tuple[Listener, int]:
    """Our listener and its port; messages are echoed."""
    settings = Settings(port=0, max_message_bytes=2**24, close_s=0.5)
    sessions = Sessions(settings)

    async def session(connection: Connection) -> None:
        await sessions.serve(connection, echo)

    listener = Listener(settings, session, HttpBridge(no_application, max_body_bytes=0))
    sockets = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(listener.run, sockets, nursery)
    return listener, sockets[0].socket.getsockname()[1]


async def test_no_case_fails(listener: tuple[Listener, int], tmp_path: Path) -> None:
    """Each of 247 cases; the listener takes none of them for a fault of its own."""
    program = Path(sys.executable).parent / "kosoku"
    command = [str(program), "-m", "fuzzingclient", "-p", "4", "-o", str(tmp_path), f"127.0.0.1:{listener[1]}"]
    for section in ("9.*", "12.*", "13.*"):
        command += ["-x", section]
    with trio.fail_after(RUN_S):
        ended = await trio.run_process(command, capture_stdout=True, stderr=subprocess.STDOUT, check=False)
    (agent,) = json.loads((tmp_path / "index.json").read_text()).values()
    failed = {case: verdict for case, verdict in agent.items() if verdict["behavior"] not in PASSED}
    assert failed == {}
    assert ended.returncode == 0, ended.stdout[-2000:]
    assert len(agent) == 247
    assert listener[0].faults == 0


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (frame(0x3), 1002),
        (frame(TEXT, b"x", masked=False), 1002),
        (frame(TEXT, length=2**62), 1009),
        (frame(CLOSE, b"\x03\xe8bye"), 1000),
        # What the frames' headers do not tell, trio-websocket finds, and drops the client without a code: 1006 to the client.
        (frame(TEXT, b"\xff"), None),
        (frame(CLOSE, b"\x03"), None),
        (frame(CLOSE, b"\x03\xed"), None),
        (frame(CLOSE, b"\x03\xe8\xff"), None),
    ],
)
async def test_the_codes_that_clients_see(listener: tuple[Listener, int], frames: bytes, code: int | None) -> None:
    async with upgraded(listener[1]) as client:
        await client.send(frames)
        assert (await client.closing())[0] == code
