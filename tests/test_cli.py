"""The command line against the real server with a fake engine."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from tests.background import Peer, scripted, speech_server
from tests.fake_engine import FakeEngine, entry
from tts_provider.cli import main

PATIENCE_S = 30.0
"""For a process on a busy machine."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """That of a running server."""
    with speech_server(
        entry(FakeEngine(), "tones"), entry(FakeEngine("other"), unavailable=lambda: "It lacks a thing.")
    ) as port:
        yield port


@pytest.fixture
def at(port: int) -> list[str]:
    """The flags that say where the server runs."""
    return ["--host", "127.0.0.1", "--port", str(port)]


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TTS_")]:
        monkeypatch.delenv(name)


def wav_frames(data: bytes) -> int:
    with wave.open(io.BytesIO(data)) as file:
        return int(file.getnframes())


def start(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """A process that runs the command line."""
    return subprocess.Popen([sys.executable, "-m", "tts_provider", *arguments], stderr=subprocess.PIPE, **options)


def wait_for(what: Callable[[], bool]) -> None:
    """Wait until another process or thread has done something."""
    end = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


# --- say ---


def test_say_writes_a_wav(at: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "hello.wav"
    assert main(["say", "Hello there.", "-o", str(path), "--sample-rate", "16000", *at]) == 0
    with wave.open(str(path)) as file:
        assert file.getframerate() == 16_000
        assert file.getnframes() > 8_000
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hello.wav" in captured.err
    assert "s of audio" in captured.err


@pytest.mark.parametrize("stream", [[], ["--stream"]], ids=["whole", "streamed"])
def test_say_writes_to_standard_output(at: list[str], stream: list[str], capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["say", "Hello there.", "-o", "-", *stream, *at]) == 0
    captured = capsysbinary.readouterr()
    assert captured.err == b""
    known = int.from_bytes(captured.out[40:44], "little") == len(captured.out) - 44
    assert known is not bool(stream)
    assert wav_frames(captured.out) > 8_000


def test_streaming_into_a_file_ends_with_its_true_length(at: list[str], tmp_path: Path) -> None:
    path = tmp_path / "hello.wav"
    assert main(["say", "Hello there.", "-o", str(path), "--stream", *at]) == 0
    assert wav_frames(path.read_bytes()) * 2 == path.stat().st_size - 44


@pytest.mark.parametrize(
    ("name", "magic"), [("a.mp3", b"\xff"), ("a.ogg", b"OggS"), ("a.opus", b"OggS"), ("a.flac", b"fLaC"), ("a.wav", b"RIFF")]
)
def test_the_name_of_the_file_chooses_the_format(at: list[str], tmp_path: Path, name: str, magic: bytes) -> None:
    assert main(["say", "Hello there.", "-o", str(tmp_path / name), *at]) == 0
    assert (tmp_path / name).read_bytes().startswith(magic)


def test_say_without_an_output_writes_a_file_and_says_which(
    at: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["say", "Hello.", *at]) == 0
    assert main(["say", "Hello.", "--format", "flac", *at]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["speech.flac", "speech.wav"]
    assert "speech.wav" in capsys.readouterr().err


def test_say_reads_a_file_and_standard_input(at: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "text"
    text.write_text("Grüße. Und noch einer.", encoding="utf-8")
    marked = tmp_path / "marked"
    marked.write_text("Grüße. Und noch einer.", encoding="utf-8-sig")
    assert main(["say", "--file", str(marked), "-o", str(tmp_path / "c.pcm"), *at]) == 0
    assert main(["say", "--file", str(text), "-o", str(tmp_path / "a.pcm"), *at]) == 0
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.read_bytes())))
    assert main(["say", "-", "-o", str(tmp_path / "b.pcm"), *at]) == 0
    assert (tmp_path / "a.pcm").read_bytes() == (tmp_path / "b.pcm").read_bytes()
    assert (tmp_path / "a.pcm").read_bytes() == (tmp_path / "c.pcm").read_bytes() != b""


def test_say_plays(at: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "too.wav"
    assert main(["say", "Hello.", "--play", "--player", "null", "-o", str(path), *at]) == 0
    assert wav_frames(path.read_bytes()) > 0
    assert "played by null" in capsys.readouterr().err


def test_say_writes_a_file_when_there_is_no_player(
    at: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["say", "Hello.", "--play", "--player", "gramophone", *at]) == 0
    assert wav_frames((tmp_path / "speech.wav").read_bytes()) > 0
    errors = capsys.readouterr().err
    assert "No audio player works" in errors
    assert "speech.wav" in errors


def test_text_from_a_pipe_is_spoken_as_it_comes(port: int, at: list[str], tmp_path: Path) -> None:
    path = tmp_path / "live.pcm"
    with start("say", "-", "--stream", "-o", str(path), *at, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write("Der erste Satz, mit ü".encode()[:-1])  # half a character
        process.stdin.flush()
        process.stdin.write("ü".encode()[-1:] + b" am Ende. And the beginning of the second ")
        process.stdin.flush()
        wait_for(lambda: path.exists() and path.stat().st_size > 0)
        first = path.stat().st_size
        process.stdin.write(b"one, which ends only now.")
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert path.stat().st_size > first


def test_progress_is_shown_on_a_terminal_and_wiped(at: list[str], tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    terminal, process_end = pty.openpty()
    command = [sys.executable, "-m", "tts_provider", "say", "Hello there.", "-o", str(tmp_path / "a.wav"), *at]
    assert subprocess.run(command, stderr=process_end, timeout=PATIENCE_S, check=False).returncode == 0
    os.close(process_end)
    shown = os.read(terminal, 10_000).decode()
    os.close(terminal)
    assert "\r" in shown
    assert shown.rpartition("\x1b[K")[2].startswith("Wrote ")


def test_warnings_of_the_server_are_shown(at: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["say", "Hello.", "--speaker", "2", "-o", str(tmp_path / "a.wav"), *at]) == 0
    assert "Warning: Speaker 2 has left" in capsys.readouterr().err


# --- voices, info ---


def test_voices_are_listed_and_filtered(at: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["voices", *at]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["MODEL", "VOICE", "LANG", "GENDER", "NAME"]
    assert [line.split()[1] for line in lines[1:]] == ["tone-a", "tone-b", "tone-c"]
    assert main(["voices", "--gender", "female", "--lang", "en", "--model", "tones", *at]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]] == ["tone-b"]
    assert main(["voices", "--json", *at]) == 0
    assert json.loads(capsys.readouterr().out)[0]["id"] == "tone-a"


def test_info_shows_the_engines(at: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", *at]) == 0
    shown = capsys.readouterr().out
    assert "default engine fake" in shown
    assert "It lacks a thing." in shown
    assert main(["info", "--json", *at]) == 0
    assert json.loads(capsys.readouterr().out)["available_models"]["fake"]["identifiers"] == ["fake", "tones"]


# --- Mistakes ---


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["say", "Hello.", "--model", "gpt", "AT"], 1, "There is no such model"),
        (["say", "", "AT"], 1, "empty"),
        (["say", "Hello.", "--speed", "99", "AT"], 1, "'speed'"),
        (["say", "Hello.", "-o", "latin1.txt/file.wav", "AT"], 1, "latin1.txt: File exists"),
        (["say", "--file", "missing.txt", "AT"], 1, "missing.txt: No such file"),
        (["say", "--file", "latin1.txt", "AT"], 1, "not UTF-8"),
        (["say", "Hello.", "--host", "127.0.0.1", "--port", "1"], 1, "connection refused"),
        (["say", "Hello.", "--play", "-o", "a.mp3", "AT"], 2, "exclude each other"),
        (["voices", "--lang", "klingon-", "AT"], 1, "not a language tag"),
        (["serve", "--port", "many"], 2, "--port"),
        (["--port", "70000"], 2, "65535"),
        (["serve", "--config", "missing.toml"], 2, "cannot be read"),
        (["info", "--config", "missing.toml"], 2, "cannot be read"),
    ],
)
def test_a_mistake_is_one_sentence_and_a_status(
    at: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin1.txt").write_bytes(b"gr\xfc\xdfe")
    if arguments[-1] == "AT":
        arguments = [*arguments[:-1], *at]
    assert main(arguments) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert sentence in captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["latin1.txt"]


@pytest.mark.parametrize("arguments", [["dance"], ["say"], ["say", "a", "--file", "b"], ["say", "a", "--format", "doc"]])
def test_a_command_that_is_none_is_a_misuse(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_a_fault_of_our_own_is_a_sentence_too(
    at: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fault(*arguments: object) -> None:
        raise ZeroDivisionError("what nobody thought of")

    monkeypatch.setattr("tts_provider.cli._info", fault)
    assert main(["info", *at]) == 1
    assert capsys.readouterr().err == "tts-provider: Internal error: ZeroDivisionError: what nobody thought of\n"


def test_a_missing_package_is_a_sentence_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "tts_provider.client", None)
    assert main(["info"]) == 1
    assert "The installation is not complete" in capsys.readouterr().err


def test_the_configuration_comes_from_flags_variables_and_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tts.toml"
    file.write_text("port = 1\nidle_s = 2.5\ndefault_model = 'zonos'\n")
    monkeypatch.setenv("TTS_PORT", "3")
    monkeypatch.setenv("TTS_DEFAULT_MODEL", "sesame")
    assert main(["--config", str(file), "--default-model", "espeak", "--print-config"]) == 0
    shown = capsys.readouterr().out
    assert "port = 3 " in shown
    assert "idle_s = 2.5 " in shown
    assert 'default_model = "espeak" ' in shown


# --- Keys and TLS ---


def test_a_key_is_taken_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without one that the server knows it is said so; no server of one's own is started in silence."""
    key = "a-key-of-ours"
    with speech_server(entry(FakeEngine()), api_keys=(key,)) as port:
        monkeypatch.setenv("TTS_PORT", str(port))
        assert main(["info"]) == 1
        assert "TTS_API_KEY" in capsys.readouterr().err
        monkeypatch.setenv("TTS_API_KEY", key)
        path = tmp_path / "hello.wav"
        assert main(["say", "Hello.", "-o", str(path)]) == 0
        assert main(["info", "--url", f"ws://127.0.0.1:{port}"]) == 0
        assert main(["info", "--host", "127.0.0.1", "--port", str(port)]) == 0
        monkeypatch.delenv("TTS_API_KEY")
        monkeypatch.setenv("TTS_API_KEYS", f"{key},another")  # the server's own configuration
        assert main(["info"]) == 0
        assert main(["info", "--host", "127.0.0.1"]) == 1  # who knows whose that is
    assert wav_frames(path.read_bytes()) > 0


def test_a_url_may_be_one_with_tls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authority = trustme.CA()
    server, trusted = tmp_path / "server.pem", tmp_path / "authority.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(server)
    authority.cert_pem.write_to_path(trusted)
    with speech_server(entry(FakeEngine()), tls_cert=str(server)) as port:
        at = ["--url", f"wss://localhost:{port}"]
        assert main(["info", *at, "--cafile", str(trusted)]) == 0
        assert main(["info", *at]) == 1
        assert "certificate verify failed" in capsys.readouterr().err
        assert main(["info", *at, "--cafile", str(tmp_path / "missing")]) == 1
        assert "No such file" in capsys.readouterr().err


def test_keys_do_not_hold_up_a_server_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("espeakng_loader")
    for name, value in (("API_KEYS", "a-key-of-ours"), ("API_KEYS_FILE", "missing"), ("TLS_CERT", "missing")):
        monkeypatch.setenv(f"TTS_{name}", value)
    path = tmp_path / "hello.wav"
    assert main(["say", "--local", "--model", "espeak", "Hello.", "-o", str(path)]) == 0, capsys.readouterr().err
    assert wav_frames(path.read_bytes()) > 0


def test_keys_are_neither_shown_nor_taken_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everybody on the machine can read command lines."""
    monkeypatch.setenv("TTS_API_KEYS", "a-key-of-ours")
    monkeypatch.setenv("TTS_EDGE_PROXY", "http://user:pass-of-ours@proxy:3128")
    assert main(["--print-config"]) == 0
    shown = capsys.readouterr().out
    assert "of-ours" not in shown
    assert 'api_keys = "..."' in shown
    assert "@proxy:3128" in shown
    with pytest.raises(SystemExit):
        main(["serve", "--api-keys", "a-key-of-ours", "--print-config"])
    file = tmp_path / "tts.toml"
    file.write_text("api_keys = 'a-key-of-ours'\n[api]\nkeys = 4711\n")
    monkeypatch.delenv("TTS_API_KEYS")
    assert main(["--config", str(file), "--print-config"]) == 2
    assert "4711" not in capsys.readouterr().err


# --- Processes ---


def test_a_server_that_is_started_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    with start("--port", "0", "--log-format", "json", "--default-model", "espeak") as process:
        assert process.stderr is not None
        listening = next(line for line in map(json.loads, process.stderr) if line["event"] == "server.listening")
        with socket.create_connection(("127.0.0.1", listening["port"])):
            pass
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(PATIENCE_S) == 0
    assert b"Traceback" not in rest


def test_a_port_that_is_taken_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start("serve", "--port", str(taken.getsockname()[1]), "--log-level", "error")
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert errors.count(b"\n") == 1
    assert b"choose another with --port" in errors


def test_interrupting_say_is_quiet(tmp_path: Path) -> None:
    async def never_answer(peer: Peer) -> None:
        await peer.request()
        await trio.sleep_forever()

    path = tmp_path / "speech.wav"
    with scripted(never_answer) as server:
        process = start("say", "Hello.", "-o", str(path), "--host", "127.0.0.1", "--port", str(server.port))
        wait_for(lambda: bool(server.log))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (130, b"")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_early_is_no_disaster(at: list[str]) -> None:
    process = start("voices", *at, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(PATIENCE_S) == 1
    assert errors == b""


def test_say_starts_a_server_of_its_own_where_none_runs(tmp_path: Path) -> None:
    """With espeak, offline: the README's first command."""
    pytest.importorskip("espeakng_loader")
    path = tmp_path / "hello.wav"
    with socket.socket() as unused:  # bound and not listening: nobody answers there
        unused.bind(("127.0.0.1", 0))
        environment = {**os.environ, "TTS_PORT": str(unused.getsockname()[1])}
        process = start("say", "--model", "espeak", "-o", str(path), "Hello. This was made offline.", env=environment)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert 1.0 < wav_frames(path.read_bytes()) / 24_000 < 5.0


def test_doctor_has_the_default_engine_speak() -> None:
    pytest.importorskip("espeakng_loader")
    process = start("doctor", stdout=subprocess.PIPE, env={**os.environ, "TTS_DEFAULT_MODEL": "espeak"})
    shown, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (0, b"")
    assert b"espeak (default): spoke after" in shown
    assert b"The default engine works." in shown


def test_doctor_fails_when_the_default_engine_cannot_work(tmp_path: Path) -> None:
    environment = {**os.environ, "TTS_DEFAULT_MODEL": "espeak", "TTS_ESPEAK_LIBRARY": str(tmp_path / "missing.so")}
    process = start("doctor", stdout=subprocess.PIPE, env=environment)
    shown, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (1, b"")
    assert b"The default engine does not work." in shown
