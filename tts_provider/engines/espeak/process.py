"""One worker process, from the engine's side: started, spoken to, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from tts_provider.engines.espeak.library import Library
from tts_provider.engines.espeak.worker import COUNT, END, ERROR, HEADER, LIST, READY, SAY, VOICES, frame

__all__ = ["Frame", "Worker", "WorkerDied", "WorkerRefused", "open_worker"]

Frame = tuple[int, bytes]
"""Kind and payload, as `worker` defines them."""

PROGRAM: Final = Path(__file__).with_name("worker.py")

START_TIMEOUT: Final = 10.0
"""Seconds to the worker's first word, or to its list of voices. They take 0.03; a busy machine with a cold disk more."""

EXIT_TIMEOUT: Final = 5.0
"""Seconds for a killed process to be gone; it takes 0.001."""

READ_BYTES: Final = 65536
"""What a pipe holds on Linux."""

MAX_FRAME_BYTES: Final = 1 << 20
"""Bytes in one frame; the longest, the list of voices, is 7 kB. More is a worker that has lost its mind."""

_ENVIRONMENT: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "ESPEAK_DATA_PATH", "SYSTEMROOT")
"""All that a worker inherits: it reads hostile text in a memory-unsafe library, and must hold no secret."""


class WorkerDied(Exception):
    """The worker is gone, or cannot be trusted any more; the argument says how it ended."""

    def __init__(self, how: str, *, by_itself: bool) -> None:
        super().__init__(how)
        self.by_itself = by_itself
        """False when somebody ended it from outside."""


class WorkerRefused(Exception):
    """The worker did not do what was asked, and is ready for more; the argument is its sentence."""


class Worker:
    """A running worker. One call at a time; a call that was cancelled halfway makes it useless."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._unread = bytearray()
        self.version = ""
        self.sample_rate = 0

    async def greet(self) -> None:
        """Learn version and sample rate, which the worker sends when it is ready."""
        greeting = await self._answer(READY)
        (self.sample_rate,) = COUNT.unpack_from(greeting)
        self.version = greeting[COUNT.size :].decode(errors="replace")

    async def list_voices(self) -> bytes:
        """The payload of `VOICES`."""
        await self._send(LIST)
        return await self._answer(VOICES)

    async def say(self, order: bytes, deliver: Callable[[Sequence[Frame]], None]) -> int:
        """Have one text spoken, handing on the frames of each read at once; returns the number of samples when it is over.

        Raises:
            WorkerDied: the worker's end; nobody may call it again.
            WorkerRefused: it will not speak this.
        """
        await self._send(SAY, order)
        while True:
            frames = await self._receive()
            last, payload = frames[-1]
            if last not in (END, ERROR):
                deliver(frames)
                continue
            deliver(frames[:-1])
            if last == ERROR:
                raise WorkerRefused(payload.decode(errors="replace"))
            return int(COUNT.unpack(payload)[0])

    async def exited(self) -> None:
        """Wait for the process to end, whatever ends it."""
        await self._process.wait()

    async def close(self) -> None:
        """End the process, if it has not ended, and leave nothing of it."""
        self._process.kill()
        with trio.CancelScope(shield=True), trio.move_on_after(EXIT_TIMEOUT):
            await self._process.wait()
        with trio.CancelScope(shield=True):  # both close at once
            await self._stdin.aclose()
            await self._stdout.aclose()

    async def _send(self, kind: int, payload: bytes = b"") -> None:
        try:
            await self._stdin.send_all(frame(kind, payload))
        except trio.BrokenResourceError:
            raise await self._death() from None

    async def _answer(self, kind: int) -> bytes:
        try:
            with trio.fail_after(START_TIMEOUT):
                [(answer, payload), *more] = await self._receive()
        except trio.TooSlowError:
            raise WorkerDied(f"did not answer within {START_TIMEOUT:g} s", by_itself=True) from None
        if answer == ERROR:
            raise WorkerRefused(payload.decode(errors="replace"))
        if answer != kind or more:
            raise WorkerDied("answered out of turn", by_itself=True)
        return payload

    async def _receive(self) -> list[Frame]:
        """The whole frames that have come, at least one."""
        while True:
            data = await self._stdout.receive_some(READ_BYTES)
            if not data:
                raise await self._death()
            self._unread += data
            if frames := self._split():
                return frames

    def _split(self) -> list[Frame]:
        unread = self._unread
        frames = []
        position = 0
        while len(unread) - position >= HEADER.size:
            size, kind = HEADER.unpack_from(unread, position)
            if size > MAX_FRAME_BYTES:
                raise WorkerDied("sent what is no frame", by_itself=True)
            begin = position + HEADER.size
            if len(unread) < begin + size:
                break
            position = begin + size
            frames.append((kind, bytes(unread[begin:position])))
        del unread[:position]
        return frames

    async def _death(self) -> WorkerDied:
        """The error that tells how the process ended, now that its pipe is closed."""
        with trio.move_on_after(EXIT_TIMEOUT):
            await self._process.wait()
        code = self._process.returncode
        if code is None:
            return WorkerDied("closed its pipe", by_itself=True)
        if code < 0:
            from_outside = code in (-getattr(signal, "SIGKILL", 9), -signal.SIGTERM)
            return WorkerDied(f"ended by signal {-code}", by_itself=not from_outside)
        return WorkerDied(f"exited with {code}", by_itself=True)


@asynccontextmanager
async def open_worker(library: Library) -> AsyncIterator[Worker]:
    """A worker, ready to speak; killed and reaped at the end.

    Raises:
        WorkerDied: the process cannot be started, or ended or hung while it started.
        WorkerRefused: the library cannot be used; the argument says why.
    """
    try:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-I", "-S", str(PROGRAM), library.path, library.data],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            start_new_session=True,  # no Ctrl-C from the server's terminal, and no terminal for glibc to report a crash on
        )
    except OSError as error:
        raise WorkerDied(f"cannot be started: {error.strerror}", by_itself=True) from error
    worker = Worker(process)
    try:
        await worker.greet()
        yield worker
    finally:
        await worker.close()
