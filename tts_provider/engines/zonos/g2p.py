"""Text to phonemes, as the model was trained to read them: words one by one through libespeak-ng, marks as they are.

The original says each word alone, because its set of marks holds the space ("il y a" is read as "il, y, a"), and leaves the
library's notes on languages, such as "(en)", in. That is reproduced: the model has learned from it. Not reproduced is that
numbers became English words in every language; here they are words in English alone, and elsewhere espeak's to read.
"""

from __future__ import annotations

import importlib.util
import re
import struct
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

import trio

from tts_provider.engines.zonos.english import spell_numbers
from tts_provider.engines.zonos.phonemes import PUNCTUATION
from tts_provider.errors import EngineUnavailable, SynthesisFailed

__all__ = ["EspeakFiles", "PhonemeWorker", "find_espeak", "split_words"]

START_TIMEOUT: Final = 10.0
"""s from the start of the worker until it is ready; 25 ms on an idle machine."""
ANSWER_TIMEOUT: Final = 10.0
"""s for one text; 2 ms for 50 words."""
MAX_ANSWER: Final = 1 << 24
"""Bytes; phonemes of a text are a few times its length, and a text has some kB."""
STOP_TIMEOUT: Final = 2.0
"""s to wait for a killed process to be gone."""
WORKER: Final = Path(__file__).with_name("g2p_worker.py")

_LIBRARIES: Final = ("*espeak-ng*.so*", "*espeak-ng*.dylib", "*espeak-ng*.dll")
_MARKS: Final = re.escape(PUNCTUATION)
# A point or comma between digits belongs to the number; outside English espeak knows how to read it.
_BREAK: Final = re.compile(rf"((?:(?!(?<=\d)[.,](?=\d))[{_MARKS}])+)")


@dataclass(frozen=True, slots=True)
class EspeakFiles:
    """Where libespeak-ng is."""

    library: str
    data: str


def find_espeak() -> EspeakFiles | None:
    """The library and data that espeakng-loader carries, or None; found without importing anything."""
    spec = importlib.util.find_spec("espeakng_loader")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0])
    libraries = [path for pattern in _LIBRARIES for path in sorted(folder.glob(pattern))]
    data = folder / "espeak-ng-data"
    return EspeakFiles(str(libraries[0]), str(data)) if libraries and data.is_dir() else None


def split_words(text: str, code: str) -> tuple[Sequence[str], Sequence[str]]:
    """Words, and the marks around them: one more than words, the first and last of them maybe empty.

    Args:
        code: an espeak-ng code; English gets its numbers spelled.
    """
    text = "".join(" " if unicodedata.category(character) == "Cc" else character for character in text)
    if code.startswith("en"):
        text = spell_numbers(text)
    text = " ".join(text.split())
    parts = _BREAK.split(text)
    words, marks = parts[::2], ["", *parts[1::2], ""]
    while words and not words[0]:
        words, marks = words[1:], ["".join(marks[:2]), *marks[2:]]
    while words and not words[-1]:
        words, marks = words[:-1], [*marks[:-2], "".join(marks[-2:])]
    return words, marks


class PhonemeWorker:
    """A process that reads words; one text at a time, the next ones wait.

    Use it as a context manager: leaving ends the process. A process that died fails the text that it died of, and the next
    text gets a new one.
    """

    def __init__(self, files: EspeakFiles) -> None:
        self._command = [sys.executable, "-I", "-S", str(WORKER), files.library, files.data]
        self._lock = trio.Lock()
        self._process: trio.Process | None = None

    async def __aenter__(self) -> PhonemeWorker:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stop()

    @property
    def process_id(self) -> int | None:
        """The process that runs now, if any."""
        return None if self._process is None else self._process.pid

    async def phonemes(self, text: str, code: str) -> str:
        """IPA of `text` with its marks; only marks, or nothing, when there is nothing to say.

        Raises:
            SynthesisFailed: the library failed on this text.
            EngineUnavailable: it cannot be started, or knows no such code.
        """
        words, marks = split_words(text, code)
        if not words:
            return "".join(marks).strip()
        spoken = await self._ask(code, words)
        return "".join(part for pair in zip(marks, [*spoken, ""], strict=True) for part in pair).strip()

    async def _ask(self, code: str, words: Sequence[str]) -> Sequence[str]:
        payload = "\n".join([code, *words]).encode("utf-8", "ignore")
        async with self._lock:
            try:
                if self._process is not None and self._process.poll() is not None:
                    await self._stop()  # it died while nobody asked it anything
                if self._process is None:
                    self._process = await self._start()
                with trio.fail_after(ANSWER_TIMEOUT):
                    answer = await _exchange(self._process, struct.pack("<I", len(payload)) + payload)
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, EOFError) as error:
                await self._stop()
                raise SynthesisFailed("The phonemes of a sentence could not be made: espeak-ng failed on it.") from error
            except BaseException:
                await self._stop()  # its answer to this text must not become the answer to the next
                raise
        if answer[:1] != b"\0":
            raise EngineUnavailable(f"The installed espeak-ng does not know the language '{code}'.", retryable=False)
        return answer[1:].decode("utf-8", "replace").split("\n")

    async def _start(self) -> trio.Process:
        try:
            process = await trio.lowlevel.open_process(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            raise EngineUnavailable("The process for espeak-ng could not be started.") from error
        self._process = process
        try:
            with trio.fail_after(START_TIMEOUT):
                await _exchange(process, b"")
        except (trio.BrokenResourceError, trio.TooSlowError, EOFError) as error:
            await self._stop()
            raise EngineUnavailable(
                'libespeak-ng could not be loaded. Install it again: pip install --force-reinstall "tts-provider[zonos]".'
            ) from error
        return process

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with trio.move_on_after(STOP_TIMEOUT, shield=True):
            process.kill()
            await process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with trio.CancelScope(shield=True):  # closing a pipe does not wait for anybody
                    await stream.aclose()


async def _exchange(process: trio.Process, request: bytes) -> bytes:
    """Send `request` and read one answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdin.send_all(request)  # the worker answers a whole request only, so neither waits for the other
    buffer = bytearray()
    needed = 4
    while len(buffer) < needed:
        block = await process.stdout.receive_some(1 << 16)
        if not block:
            raise EOFError
        buffer += block
        if needed == 4 and len(buffer) >= 4:
            needed += struct.unpack_from("<I", buffer)[0]
            if needed > MAX_ANSWER:
                raise EOFError
    return bytes(buffer[4:])
