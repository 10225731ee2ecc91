"""The server as a process: started as users start it, stopped as containers stop it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import trio

from tests.conftest import RunningServer, replies_of
from tts_provider.server.lifecycle import ServerAddress
from tts_provider.settings import Settings

END_S = 15


class Process:
    """`python -m tts_provider` on a free port, its log read line by line."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self.child = child
        address = self.log_until("server.listening")
        self.server = RunningServer(ServerAddress(address["host"], address["port"]), Settings())

    def log_until(self, event: str) -> dict[str, Any]:
        assert self.child.stderr is not None
        for line in self.child.stderr:
            record: dict[str, Any] = json.loads(line)
            if record["event"] == event:
                return record
        raise AssertionError(f"the process ended without {event}")


@contextmanager
def process(*flags: str) -> Iterator[Process]:
    command = [sys.executable, "-m", "tts_provider", "--port", "0", "--default-model", "espeak", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"TTS_LOG_FORMAT": "json"}) as child:
        try:
            yield Process(child)
        finally:
            child.kill()


async def test_a_process_speaks_and_leaves_nothing_behind() -> None:
    """A real WAV through a real process; after SIGTERM it ends with 0 and so has espeak's worker."""
    with process() as running:
        async with running.server.connect() as client:
            success, data = await client.legacy({"text": "Hello from a process."})
        workers = psutil.Process(running.child.pid).children(recursive=True)
        running.child.send_signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(running.child.wait, END_S) == 0
        gone, alive = await trio.to_thread.run_sync(psutil.wait_procs, workers, END_S)
    assert success["length_bytes"] == len(data) > 24_000
    assert workers
    assert (len(gone), alive) == (len(workers), [])


async def test_a_running_request_is_finished_after_sigterm() -> None:
    with process() as running:
        async with running.server.connect() as client:
            await client.send({"text": "A sentence to be finished. " * 40, "stream": True, "final_wav": False})
            while not isinstance(await client.receive(), bytes):
                pass
            running.child.send_signal(signal.SIGTERM)
            assert replies_of(await client.until("success", "error"), "success")
        assert await trio.to_thread.run_sync(running.child.wait, END_S) == 0


async def test_a_port_that_is_taken_is_told_in_one_sentence() -> None:
    with process() as running:
        command = [sys.executable, "-m", "tts_provider", "--port", str(running.server.address.port)]
        second = await trio.run_process(command, capture_stderr=True, check=False)
    assert second.returncode == 1
    assert b"Traceback" not in second.stderr
    assert b"port" in second.stderr
