"""The examples run as they stand, and so does the one that the replaced server's README had."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.background import speech_server
from tests.fake_engine import FakeEngine, entry

ROOT = Path(__file__).parent.parent
PATIENCE_S = 60

# Word for word; users have programs like it.
LEGACY_EXAMPLE = """\
import asyncio
from tts_client import TTSClient

async def main():
    client = TTSClient(host="localhost", port=9000)

    try:
        await client.connect()

        # Get server information
        info = await client.get_server_info()
        print(f"Available models: {info.get('available_models')}")

        # Generate speech with default model (Edge TTS)
        await client.generate_speech(
            text="Hello, this is a test.",
            output_path="output.wav"
        )

        # Generate speech with specific model
        await client.generate_speech(
            text="Hello, this is Sesame CSM speaking.",
            output_path="output_sesame.wav",
            model="sesame"
        )

        # Generate speech with Edge TTS
        await client.generate_speech(
            text="Hello, this is Edge TTS speaking.",
            output_path="output_edge.wav",
            model="edge",
            speaker=2  # Use the Davis voice
        )

    finally:
        await client.disconnect()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """That of a server whose engines have the names of real ones."""
    with speech_server(entry(FakeEngine("edge"), "edge-tts"), entry(FakeEngine("sesame"), "csm")) as port:
        yield port


def run_example(name: str, *arguments: str, cwd: Path) -> str:
    """What the example prints."""
    result = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / name), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def seconds(path: Path) -> float:
    with wave.open(str(path)) as file:
        return float(file.getnframes() / file.getframerate())


def test_basic_client(port: int, tmp_path: Path) -> None:
    shown = run_example(
        "basic_client.py", "--port", str(port), "--model", "edge", "--model", "csm", "--output-dir", "audio", cwd=tmp_path
    )
    assert "edge, sesame" in shown
    assert seconds(tmp_path / "audio" / "output_edge.wav") > 0.5
    assert seconds(tmp_path / "audio" / "output_csm.wav") > 0.5


def test_stream_playback(port: int, tmp_path: Path) -> None:
    shown = run_example("stream_playback.py", "--port", str(port), "--no-play", "One. Two.", cwd=tmp_path)
    assert re.search(r"first audio after \d+ ms", shown)
    assert "One." in shown
    assert "played by null, 0 underruns" in shown


def test_llm_stream(port: int, tmp_path: Path) -> None:
    shown = run_example("llm_stream.py", "--port", str(port), "--no-play", cwd=tmp_path)
    assert "vents in the ocean floor." in shown
    assert "interrupted" not in shown


def test_llm_stream_is_interrupted_and_answers_again(port: int, tmp_path: Path) -> None:
    shown = run_example("llm_stream.py", "--port", str(port), "--no-play", "--interrupt-after", "1", cwd=tmp_path)
    first, _, second = shown.partition("(interrupted)")
    assert "rocks." in first
    assert "ocean floor" not in first
    assert "the sun takes only the water away." in second


def test_synchronous(port: int, tmp_path: Path) -> None:
    shown = run_example("synchronous.py", "--port", str(port), cwd=tmp_path)
    assert "edge: tone-a (en-US)" in shown
    assert seconds(tmp_path / "hello.wav") > 0.5


def test_the_replaced_readme_example_runs_with_another_import(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    connect = anyio.connect_tcp

    async def connect_to_the_test_server(host: str, asked: int, **options: Any) -> Any:
        assert (host, asked) == ("localhost", 9000)
        return await connect("127.0.0.1", port, **options)

    monkeypatch.setattr(anyio, "connect_tcp", connect_to_the_test_server)
    monkeypatch.chdir(tmp_path)
    program = LEGACY_EXAMPLE.replace("from tts_client import", "from tts_provider.client import")
    exec(compile(program, "legacy_example.py", "exec"), {"__name__": "__main__"})
    assert "Available models: {'edge':" in capsys.readouterr().out
    for name in ("output.wav", "output_sesame.wav", "output_edge.wav"):
        assert seconds(tmp_path / name) > 0.5
