"""The server as a process: started as users start it, stopped as containers stop it."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import httpx
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


async def test_no_secret_and_no_text_gets_into_the_log(tmp_path: Path) -> None:
    """Keys from the environment and from a file, right and wrong ones; every line is JSON, whatever clients send."""
    file = tmp_path / "keys"
    file.write_text("canary-in-a-file\n")
    environment = {"TTS_API_KEYS": "canary-in-the-environment", "TTS_API_KEYS_FILE": str(file), "HF_TOKEN": "canary-of-the-hub"}
    with process("--log-level", "debug", environment=environment) as running:
        address = running.server.address
        for key, status in (("canary-in-a-file", 200), ("canary-in-the-environment", 200), ("canary-of-nobody", 401)):
            async with httpx.AsyncClient(base_url=f"http://{address.host}:{address.port}", timeout=60) as client:
                client.headers["authorization"] = f"Bearer {key}"
                body = {"input": "A canary sang.\n{forged}", "response_format": "pcm"}
                assert (await client.post("/v1/audio/speech", json=body)).status_code == status
        for sent in (b"GET / HTTP/1.1\r\nHost: x\r\nX: \xff canary\r\n\r\n", b"\ncanary\n", b"\x16\x03\x01canary"):
            async with await trio.open_tcp_stream(address.host, address.port) as stream:
                await stream.send_all(sent)
                await stream.receive_some()
        running.child.send_signal(signal.SIGTERM)
        records = await trio.to_thread.run_sync(running.whole_log)
    assert [record["outcome"] for record in records if record["event"] == "request.end"] == ["done", "done"]
    assert records[-1]["event"] == "server.stopped"
    assert "canary" not in json.dumps(records)


async def test_a_port_that_is_taken_is_told_in_one_sentence() -> None:
    with process() as running:
        command = [sys.executable, "-m", "tts_provider", "--port", str(running.server.address.port)]
        second = await trio.run_process(command, capture_stderr=True, check=False)
    assert second.returncode == 1
    assert b"Traceback" not in second.stderr
    assert b"port" in second.stderr
