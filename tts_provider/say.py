"""``say``: a text spoken into a file, to a player, or both."""

from __future__ import annotations

import codecs
import io
import os
import shutil
import sys
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

import anyio
import anyio.to_thread

from tts_provider.client import Queued, RequestOptions, Sentence, SpeechStream, TTSClient
from tts_provider.client.files import wav_header, written_whole
from tts_provider.playback import NoPlayer, Player, open_player

__all__ = ["FORMATS", "STDOUT", "Job", "format_of", "read_stdin", "say"]

FORMATS: Final = ("wav", "pcm", "mp3", "opus", "flac")
STDOUT: Final = "-"
"""Stands for standard output, and for standard input."""
STDIN_BYTES: Final = 4096
PROGRESS_S: Final = 0.1
"""Seconds between two updates of the progress; people do not read faster."""

_SUFFIXES: Final = {".mp3": "mp3", ".ogg": "opus", ".opus": "opus", ".flac": "flac", ".pcm": "pcm", ".raw": "pcm"}


@dataclass(frozen=True, slots=True)
class Job:
    """What `say` shall do."""

    text: str | AsyncIterable[str]
    output: str | None = None
    """A file's path, or `STDOUT`."""
    format: str = "wav"
    """Of `output`."""
    stream: bool = False
    """Write `output` while the audio is made; otherwise it appears when it is whole."""
    play: bool = False
    player: str | None = None
    """Name of a player; the first that works when None."""
    options: RequestOptions = field(default_factory=RequestOptions)


def format_of(output: str | None) -> str:
    """The format that a file's name asks for."""
    return _SUFFIXES.get(Path(output or "").suffix.lower(), "wav")


async def read_stdin() -> AsyncIterator[str]:
    """What is typed or piped into standard input, as it comes.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    while data := await anyio.to_thread.run_sync(os.read, 0, STDIN_BYTES, abandon_on_cancel=True):
        yield decoder.decode(data)
    yield decoder.decode(b"", final=True)


async def say(client: TTSClient, job: Job) -> None:
    """Speak `job.text`.

    Raises:
        TTSClientError: the server could not.
        PlaybackError: the player stopped working.
        OSError: the file cannot be written.
    """
    progress = _Progress()
    as_wav = job.format == "wav"
    options = job.options | {"format": "pcm" if as_wav or job.play else job.format}
    source = job.text
    if isinstance(source, str):
        speaking = client.stream(source, on_queued=progress.queued, **options)
    else:
        speaking = client.speak_text_stream(source, on_queued=progress.queued, **options)
    with progress:
        async with speaking as speech, AsyncExitStack() as stack:
            player: Player | None = None
            output = job.output
            if job.play:
                try:
                    player = await stack.enter_async_context(open_player(speech.sample_rate, job.player))
                except NoPlayer as error:
                    progress.note(str(error))
                    output = output or "speech.wav"
            for warning in speech.streaming.warnings:
                progress.note(f"Warning: {warning}")
            file = stack.enter_context(_opened(output, whole=not job.stream))
            await _copy(speech, file, player, progress, wav=as_wav, patch=output != STDOUT or not job.stream)
            if player is not None:
                await player.drain()
    played = f", played by {player.name} with {player.underruns} underruns" if player is not None else ""
    if output not in (None, STDOUT) or played:
        progress.note(f"{f'Wrote {output}: ' if output not in (None, STDOUT) else ''}{progress.heard}{played}.")


async def _copy(
    speech: SpeechStream, file: IO[bytes] | None, player: Player | None, progress: _Progress, *, wav: bool, patch: bool
) -> None:
    """Bring the audio to `file` and `player` as it comes. `patch`: write the WAV's true length into its head at the end."""
    length = 0
    if file is not None and wav:
        file.write(wav_header(speech.sample_rate))
    async for item in speech:
        if isinstance(item, bytes):
            length += len(item)
            if file is not None:
                file.write(item)
                file.flush()
            if player is not None:
                await player.play(item)
            progress.audio(length, speech)
        elif isinstance(item, Sentence):
            progress.sentence(item)
    if speech.success is not None and speech.success.duration_ms is not None:
        progress.seconds = speech.success.duration_ms / 1000
    if file is not None and wav and patch and file.seekable():
        file.seek(0)
        file.write(wav_header(speech.sample_rate, length))


@contextmanager
def _opened(output: str | None, *, whole: bool) -> Iterator[IO[bytes] | None]:
    """The file to write to. `whole`: nothing of it is seen before the block ends well."""
    if output is None:
        yield None
    elif output == STDOUT and whole:
        buffer = io.BytesIO()
        yield buffer
        sys.stdout.buffer.write(buffer.getbuffer())
        sys.stdout.buffer.flush()
    elif output == STDOUT:
        yield sys.stdout.buffer
    elif whole:
        with written_whole(Path(output)) as file:
            yield file
    else:
        with open(output, "wb") as file:
            yield file


class _Progress:
    """One line on the terminal, if there is one, and the time to the first audio."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._began = time.monotonic()
        self._first: float | None = None
        self._shown = 0.0
        self._text = ""
        self.seconds = 0.0
        """Of audio."""

    @property
    def heard(self) -> str:
        first = "" if self._first is None else f", the first after {self._first * 1000:.0f} ms"
        return f"{self.seconds:.1f} s of audio{first}"

    def __enter__(self) -> None:
        self._show("connected")

    def __exit__(self, *error: object) -> None:
        self._clear()

    def queued(self, reply: Queued) -> None:
        self._show(f"{reply.message} ({reply.queue_position})" if reply.progress is None else f"{reply.progress:.0%} loaded")

    def sentence(self, sentence: Sentence) -> None:
        self._text = " ".join(sentence.text.split())

    def audio(self, length: int, speech: SpeechStream) -> None:
        """Take note that `length` bytes have come."""
        if self._first is None:
            self._first = time.monotonic() - self._began
        if speech.streaming.format == "pcm":
            self.seconds = length / (2 * speech.sample_rate)
        self._show(f"{self.seconds:6.1f} s  {self._text}")

    def note(self, sentence: str) -> None:
        """Tell something that stays."""
        self._clear()
        print(sentence, file=sys.stderr)

    def _show(self, text: str) -> None:
        now = time.monotonic()
        if self._terminal and now >= self._shown + PROGRESS_S:
            self._shown = now
            sys.stderr.write(f"\r{text[: shutil.get_terminal_size().columns - 1]}\x1b[K")
            sys.stderr.flush()

    def _clear(self) -> None:
        if self._terminal and self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
