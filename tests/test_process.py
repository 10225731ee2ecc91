"""The server as a process: started as users start it, stopped as containers stop it."""

from __future__ import annotations

import signal
import sys

import psutil
import trio

from tests.conftest import replies_of
from tests.processes import END_S, process


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
