"""Playing: the ring buffer, programs that read a pipe, devices that call back."""

from __future__ import annotations

import os
import stat
import struct
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio

from tts_provider.playback import NoPlayer, PlaybackError, RingBuffer, available_players, open_player

RATE = 24_000
TENTH = struct.pack("<h", 1000) * (RATE // 10)
"""100 ms of audio."""


# --- The ring buffer ---


def ring(**options: float) -> RingBuffer:
    return RingBuffer(RATE, **options)


def test_nothing_is_played_before_the_preroll_is_there() -> None:
    buffer = ring(preroll_s=0.2)
    buffer.write(TENTH)
    assert buffer.read(1000) == bytes(1000)
    buffer.write(TENTH)
    assert buffer.read(len(TENTH)) == TENTH
    assert buffer.underruns == 0


def test_short_audio_is_played_once_it_is_known_to_be_short() -> None:
    buffer = ring(preroll_s=0.2)
    buffer.write(TENTH)
    buffer.finish()
    assert buffer.read(len(TENTH) + 100) == TENTH + bytes(100)
    assert buffer.read(100) == bytes(100)
    assert (buffer.underruns, buffer.seconds) == (0, 0)


def test_running_dry_counts_once_and_gathers_anew() -> None:
    buffer = ring(preroll_s=0.2)
    buffer.write(TENTH + TENTH)
    buffer.read(2 * len(TENTH))
    for _ in range(3):
        assert buffer.read(100) == bytes(100)
    assert buffer.underruns == 1
    buffer.write(TENTH)
    assert buffer.read(100) == bytes(100)
    buffer.write(TENTH)
    assert buffer.read(len(TENTH)) == TENTH


def test_no_more_is_taken_than_there_is_room_for() -> None:
    buffer = ring(capacity_s=0.15, preroll_s=0)
    assert buffer.write(TENTH) == len(TENTH)
    assert buffer.write(TENTH) == len(TENTH) // 2
    assert buffer.write(TENTH) == 0
    buffer.read(100)
    assert buffer.write(TENTH) == 100


def test_stopping_leaves_five_milliseconds_that_fade() -> None:
    buffer = ring(preroll_s=0)
    buffer.write(TENTH)
    buffer.read(100)
    buffer.stop()
    assert buffer.seconds == 0.005
    faded = struct.unpack("<240h", buffer.read(480) + b"")[:120]
    assert faded[0] == 1000
    assert 0 <= faded[-1] < 20
    assert list(faded) == sorted(faded, reverse=True)
    assert buffer.read(100) == bytes(100)
    assert buffer.underruns == 0


def test_stopping_before_the_first_sample_plays_nothing() -> None:
    buffer = ring(preroll_s=0.2)
    buffer.write(TENTH)
    buffer.stop()
    assert buffer.read(1000) == bytes(1000)


def test_a_writer_and_a_reader_in_two_threads_lose_nothing() -> None:
    buffer = ring(capacity_s=0.01, preroll_s=0)
    sent = bytes(number % 255 + 1 for number in range(20_000))  # no zeros, so that silence can be told apart
    got = bytearray()

    def read() -> None:
        while len(got) < len(sent):
            got.extend(buffer.read(64).rstrip(b"\0"))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    left = sent
    while left and reader.is_alive():
        left = left[buffer.write(left) :]
    reader.join(10)
    assert got == sent


# --- Programs ---


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ffplay that writes its arguments and what it hears into files; the folder that it writes to."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "ffplay"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nopen({str(tmp_path / 'arguments')!r}, 'w').write(' '.join(sys.argv[1:]))\n"
        f"data = sys.stdin.buffer.read()\nopen({str(tmp_path / 'heard')!r}, 'ab').write(data)\n"
        "sys.exit(3 if data.startswith(b'fail') else 0)\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


async def test_a_program_hears_all_and_is_waited_for(program: Path) -> None:
    assert "ffplay" in available_players()
    async with open_player(RATE, "ffplay") as player:
        assert player.name == "ffplay"
        for _ in range(5):
            await player.play(TENTH)
        await player.drain()
        assert (program / "heard").read_bytes() == 5 * TENTH
        await player.play(TENTH)
        await player.drain()
    assert (program / "heard").read_bytes() == 6 * TENTH
    arguments = (program / "arguments").read_text()
    assert "-f s16le" in arguments
    assert f"-sample_rate {RATE}" in arguments


async def test_stopping_a_program_forgets_what_was_not_heard(program: Path) -> None:
    async with open_player(RATE, "ffplay") as player:
        await player.play(TENTH)
        await player.stop()
        await player.play(TENTH + TENTH)
        await player.drain()
    assert (program / "heard").read_bytes() == TENTH + TENTH


async def test_a_program_that_fails_is_an_error(program: Path) -> None:
    async with open_player(RATE, "ffplay") as player:
        await player.play(b"fail")
        with pytest.raises(PlaybackError, match="exit status 3"):
            await player.drain()


async def test_a_program_that_had_too_little_counts_an_underrun(program: Path) -> None:
    async with open_player(RATE, "ffplay") as player:
        await player.play(TENTH[:480])
        await trio.sleep(0.05)
        await player.play(TENTH)
        assert player.underruns == 1


# --- Devices ---


class FakeDevice:
    """sounddevice's stream, which plays when the test says so."""

    opened: FakeDevice

    def __init__(self, **options: Any) -> None:
        FakeDevice.opened = self
        self.options = options
        self.state = "new"

    def start(self) -> None:
        self.state = "started"

    def close(self) -> None:
        self.state = "closed"

    def pull(self, frames: int) -> bytes:
        out = bytearray(2 * frames)
        self.options["callback"](memoryview(out), frames, None, None)
        return bytes(out)


@pytest.fixture
def sounddevice(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("sounddevice")
    module.RawOutputStream = FakeDevice  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return module


async def test_a_device_pulls_what_was_played(sounddevice: ModuleType, autojump_clock: trio.testing.MockClock) -> None:
    async with open_player(RATE, "sounddevice") as player, trio.open_nursery() as nursery:
        device = FakeDevice.opened
        assert device.options["samplerate"] == RATE
        assert device.options["channels"] == 1
        for _ in range(3):
            await player.play(TENTH)
        assert device.pull(RATE // 10) == TENTH
        drained = trio.Event()

        async def drain() -> None:
            await player.drain()
            drained.set()

        nursery.start_soon(drain)
        await trio.sleep(0.1)
        assert device.pull(RATE // 5) == TENTH + TENTH
        assert not drained.is_set()
        await drained.wait()
    assert device.state == "closed"


async def test_playing_waits_while_the_device_has_plenty(
    sounddevice: ModuleType, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_player(RATE, "sounddevice") as player, trio.open_nursery() as nursery:
        played = 0

        async def play() -> None:
            nonlocal played
            for _ in range(110):
                await player.play(TENTH)
                played += 1

        nursery.start_soon(play)
        await trio.sleep(1)
        assert played == 100
        FakeDevice.opened.pull(RATE)
        await trio.sleep(1)
        assert played == 110


async def test_a_device_that_takes_nothing_is_an_error(sounddevice: ModuleType, autojump_clock: trio.testing.MockClock) -> None:
    async with open_player(RATE, "sounddevice") as player:
        await player.play(TENTH)
        with pytest.raises(PlaybackError, match="takes no audio"):
            await player.drain()


async def test_miniaudio_plays_in_real_time() -> None:
    pytest.importorskip("miniaudio")
    async with open_player(RATE, "miniaudio-null") as player:
        began = trio.current_time()
        for _ in range(4):
            await player.play(TENTH)
        await player.drain()
        assert 0.3 < trio.current_time() - began < 5
        assert player.underruns == 0


# --- Which ---


async def test_the_first_player_that_works_is_taken(
    program: Path, sounddevice: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """miniaudio is not installed, and sounddevice finds no library."""
    monkeypatch.setitem(sys.modules, "miniaudio", None)

    def no_library(**options: Any) -> None:
        raise OSError("PortAudio library not found")

    sounddevice.RawOutputStream = no_library  # type: ignore[attr-defined]
    async with open_player(RATE) as player:
        assert player.name == "ffplay"


async def test_without_a_player_the_error_says_what_was_tried(sounddevice: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "miniaudio", None)
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NoPlayer, match=r"pip install miniaudio.*sounddevice: not installed; ffplay: not found"):
        async with open_player(RATE):
            pass


async def test_the_null_player_throws_away() -> None:
    async with open_player(RATE, "null") as player:
        await player.play(TENTH)
        await player.drain()
        assert player.underruns == 0
