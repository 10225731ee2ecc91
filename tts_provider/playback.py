"""Playing audio while it arrives, with whatever player there is.

    async with open_player(sample_rate=24_000) as player:
        async for item in speech:
            if isinstance(item, bytes):
                await player.play(item)
        await player.drain()

Players, best first: miniaudio (``pip install miniaudio``), sounddevice, and the programs ffplay, mpv and aplay. The first two
call back from a thread of their own that must never wait for the network, so a ring buffer stands between: it fills for a
moment before the first sample and counts how often it ran dry.
"""

from __future__ import annotations

import array
import os
import shutil
import sys
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib.util import find_spec
from typing import Any, Final, Protocol

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread

__all__ = ["PLAYERS", "NoPlayer", "PlaybackError", "Player", "RingBuffer", "available_players", "open_player"]

BUFFER_S: Final = 10.0
"""Seconds of audio between the network and the device: 480 kB at 24 kHz. `Player.play` waits while there is more."""
PREROLL_S: Final = 0.2
"""Seconds gathered before the first sample and after each underrun. Network jitter and the pauses between sentences of an
engine that is barely faster than speech are shorter; a listener hardly notices it."""
PERIOD_MS: Final = 40
"""Asked of the device: it calls back this often."""
LATENCY_S: Final = 0.15
"""What a device may still hold when its buffer is empty: a few periods."""
STALL_S: Final = 5.0
"""A device that takes nothing for so long is broken."""
END_S: Final = 2.0
"""Seconds for a player's end."""
FADE_S: Final = 0.005
"""Seconds over which playing stops: a cut at a loud sample is a click."""
SAMPLE_BYTES: Final = 2

_PROGRAMS: Final = {
    # Raw audio is mono for all versions of ffplay unless told otherwise; how to tell it otherwise differs between them.
    "ffplay": "ffplay -loglevel error -nodisp -autoexit -fflags nobuffer -f s16le -sample_rate {rate} -i pipe:0",
    "mpv": "mpv --no-terminal --no-cache --demuxer=rawaudio --demuxer-rawaudio-format=s16le --demuxer-rawaudio-channels=1"
    " --demuxer-rawaudio-rate={rate} -",
    "aplay": "aplay -q -t raw -f S16_LE -c 1 -r {rate} -",
}

PLAYERS: Final = ("miniaudio", "sounddevice", *_PROGRAMS)
"""What `open_player` tries, in this order. Two more are taken by name: ``null`` throws audio away, and ``miniaudio-null`` plays
it in real time to nobody."""


class PlaybackError(Exception):
    """The player stopped working."""


class NoPlayer(PlaybackError):
    """No player works here; the message says which were tried and what to install."""


class Player(Protocol):
    """Plays s16le mono audio, one stretch after the other."""

    @property
    def name(self) -> str:
        """Which of `PLAYERS` it is."""

    @property
    def underruns(self) -> int:
        """How often the listener had to wait because audio came too late."""

    async def play(self, block: bytes) -> None:
        """Add a block; waits while `BUFFER_S` of audio are ahead.

        Raises:
            PlaybackError: the player takes no audio any more.
        """

    async def drain(self) -> None:
        """Wait until all was heard.

        Raises:
            PlaybackError: as for `play`.
        """

    async def stop(self) -> None:
        """Be silent now and forget what was not heard; `play` begins anew."""


class RingBuffer:
    """Audio between a writer and a device's thread. Both may call at any time."""

    def __init__(self, sample_rate: int, *, capacity_s: float = BUFFER_S, preroll_s: float = PREROLL_S) -> None:
        self._rate = sample_rate
        self._capacity = round(capacity_s * sample_rate) * SAMPLE_BYTES
        self._preroll = round(preroll_s * sample_rate) * SAMPLE_BYTES
        self._data = bytearray()
        self._lock = threading.Lock()
        self._playing = False
        self._finished = False
        self.underruns = 0
        """How often `read` found too little in the middle of the audio."""

    @property
    def seconds(self) -> float:
        """Seconds of audio that wait."""
        return len(self._data) / (self._rate * SAMPLE_BYTES)

    def write(self, block: bytes) -> int:
        """Add what there is room for; how many bytes that was. More audio follows unless `finish` is called."""
        with self._lock:
            self._finished = False
            taken = max(0, min(len(block), self._capacity - len(self._data)))
            self._data += memoryview(block)[:taken]
            return taken

    def finish(self) -> None:
        """Nothing more comes for now: play what there is, and let the silence after it be no underrun."""
        with self._lock:
            self._finished = True

    def read(self, size: int) -> bytes:
        """The next `size` bytes; silence where there is no audio."""
        with self._lock:
            if not self._playing and (len(self._data) >= self._preroll or self._finished):
                self._playing = bool(self._data)
            if not self._playing:
                return bytes(size)
            block = bytes(self._data[:size])
            del self._data[:size]
            if len(block) < size:
                self._playing = False
                self.underruns += not self._finished
            return block + bytes(size - len(block))

    def stop(self) -> None:
        """Forget all but a few milliseconds, which fade out."""
        with self._lock:
            end = array.array("h", bytes(self._data[: round(FADE_S * self._rate) * SAMPLE_BYTES]) if self._playing else b"")
            if sys.byteorder == "big":
                end.byteswap()
            faded = array.array("h", (round(sample * (1 - i / len(end))) for i, sample in enumerate(end)))
            if sys.byteorder == "big":
                faded.byteswap()
            self._data[:] = faded.tobytes()
            self._finished = True


class _DevicePlayer:
    """A device that takes its audio from a ring buffer."""

    def __init__(self, name: str, ring: RingBuffer) -> None:
        self.name = name
        self._ring = ring

    @property
    def underruns(self) -> int:
        return self._ring.underruns

    async def play(self, block: bytes) -> None:
        while block := block[self._ring.write(block) :]:
            await self._wait(PERIOD_MS / 1000)

    async def drain(self) -> None:
        self._ring.finish()
        while self._ring.seconds > 0:
            await self._wait(self._ring.seconds)
        await anyio.sleep(LATENCY_S)

    async def stop(self) -> None:
        self._ring.stop()

    async def _wait(self, seconds: float) -> None:
        """Wait `seconds` for the device, or longer until it has taken something."""
        before = self._ring.seconds
        await anyio.sleep(seconds)
        with anyio.move_on_after(STALL_S):
            while self._ring.seconds >= before:  # noqa: ASYNC110 (the device's thread must not wait for the event loop)
                await anyio.sleep(PERIOD_MS / 1000)
            return
        raise PlaybackError(f"The audio device ({self.name}) takes no audio.")


class _ProgramPlayer:
    """A program that reads audio from its standard input."""

    def __init__(self, name: str, command: list[str], sample_rate: int) -> None:
        self.name = name
        self.underruns = 0
        self._command = command
        self._rate = sample_rate
        self._process: anyio.abc.Process | None = None
        self._heard_until = 0.0

    async def play(self, block: bytes) -> None:
        if self._process is None:
            self._process = await anyio.open_process(self._command, stdout=None, stderr=None)
            self._heard_until = anyio.current_time()
        elif anyio.current_time() > self._heard_until:
            # The program does not tell; when it has had too little for the time that passed, it must have run dry.
            self.underruns += 1
            self._heard_until = anyio.current_time()
        self._heard_until += len(block) / (self._rate * SAMPLE_BYTES)
        await self._send(self._process, block)

    async def _send(self, process: anyio.abc.Process, block: bytes) -> None:
        assert process.stdin is not None
        try:
            with anyio.fail_after(STALL_S + len(block) / (self._rate * SAMPLE_BYTES)):
                await process.stdin.send(block)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, TimeoutError) as error:
            raise PlaybackError(f"{self.name} takes no audio.") from error

    async def drain(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            assert process.stdin is not None
            await process.stdin.aclose()
            with anyio.fail_after(STALL_S + max(0.0, self._heard_until - anyio.current_time())):
                status = await process.wait()
        except TimeoutError as error:
            raise PlaybackError(f"{self.name} does not end.") from error
        finally:
            await _end(process)
        if status:
            raise PlaybackError(f"{self.name} failed with exit status {status}.")

    async def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await _end(process)


class _NullPlayer:
    """Throws the audio away."""

    name = "null"
    underruns = 0

    async def play(self, block: bytes) -> None:
        await anyio.lowlevel.checkpoint()

    async def drain(self) -> None:
        await anyio.lowlevel.checkpoint()

    async def stop(self) -> None:
        await anyio.lowlevel.checkpoint()


async def _end(process: anyio.abc.Process) -> None:
    """Kill the program if it lives, and reap it."""
    with suppress(ProcessLookupError):
        process.kill()
    with anyio.move_on_after(END_S, shield=True):
        await process.aclose()


def available_players() -> list[str]:
    """Those of `PLAYERS` that are installed. Whether they find a device shows when they are opened."""
    return [name for name in PLAYERS if (shutil.which(name) if name in _PROGRAMS else find_spec(name)) is not None]


@asynccontextmanager
async def open_player(sample_rate: int, name: str | None = None) -> AsyncIterator[Player]:
    """The first player that works, or the one of that name. Leaving the block stops it; `drain` before to hear all.

    Raises:
        NoPlayer: there is none.
    """
    tried: list[str] = []
    for candidate in PLAYERS if name is None else [name]:
        try:
            player, close = await anyio.to_thread.run_sync(_open, candidate, sample_rate)
        except PlaybackError as error:
            tried.append(f"{candidate}: {error}")
            continue
        try:
            yield player
        finally:
            with anyio.move_on_after(END_S, shield=True):
                await player.stop()
            close()
        return
    raise NoPlayer(f"No audio player works here. Install one: pip install miniaudio. ({'; '.join(tried)})")


def _open(name: str, sample_rate: int) -> tuple[Player, Callable[[], object]]:
    """The player and what closes it.

    Raises:
        PlaybackError: it does not work here; the message is short.
    """
    if name == "null":
        return _NullPlayer(), lambda: None
    if name in _PROGRAMS:
        if shutil.which(name) is None:
            raise PlaybackError("not found")
        return _ProgramPlayer(name, _PROGRAMS[name].format(rate=sample_rate).split(), sample_rate), lambda: None
    ring = RingBuffer(sample_rate)
    try:
        if name == "sounddevice":
            close = _start_sounddevice(sample_rate, ring)
        elif name in ("miniaudio", "miniaudio-null"):
            close = _start_miniaudio(sample_rate, ring, to_nobody=name == "miniaudio-null")
        else:
            raise PlaybackError(f"unknown; there are {', '.join(PLAYERS)}")
    except ImportError as error:
        raise PlaybackError("not installed") from error
    except PlaybackError:
        raise
    except Exception as error:  # each library has its own errors, and PortAudio's absence is an OSError
        raise PlaybackError(str(error.args[0] if error.args else type(error).__name__)) from error
    return _DevicePlayer(name, ring), close


def _start_miniaudio(sample_rate: int, ring: RingBuffer, *, to_nobody: bool) -> Callable[[], object]:
    import miniaudio

    with _silent_stderr():
        device = miniaudio.PlaybackDevice(
            output_format=miniaudio.SampleFormat.SIGNED16,
            nchannels=1,
            sample_rate=sample_rate,
            buffersize_msec=PERIOD_MS,
            backends=[miniaudio.Backend.NULL] if to_nobody else None,
            app_name="tts-provider",
        )
    if device.backend == "Null" and not to_nobody:  # what it falls back to by itself
        device.close()
        raise PlaybackError("no audio device")
    device.start(_frames(ring))
    close: Callable[[], object] = device.close
    return close


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keeps away what ALSA itself writes to standard error, thirty lines for a machine without a sound card."""
    try:
        saved = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _frames(ring: RingBuffer) -> Generator[bytes, int, None]:
    """Runs in miniaudio's thread, which sends the number of frames that it wants."""

    def run() -> Generator[bytes, int, None]:
        count = yield b""
        while True:
            count = yield ring.read(count * SAMPLE_BYTES)

    frames = run()
    next(frames)
    return frames


def _start_sounddevice(sample_rate: int, ring: RingBuffer) -> Callable[[], object]:
    import sounddevice

    def fill(out: Any, frames: int, time: object, status: object) -> None:
        out[:] = ring.read(frames * SAMPLE_BYTES)

    stream = sounddevice.RawOutputStream(samplerate=sample_rate, channels=1, dtype="int16", callback=fill)
    stream.start()
    return lambda: stream.close()
