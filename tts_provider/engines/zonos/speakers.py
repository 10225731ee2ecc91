"""The folder of reference recordings: who can be cloned, found by listing it, never by joining what a client sends.

    0.wav or default_speaker.wav     speaker 0
    N.wav or speaker_N.wav           speaker N

Looked at again when the folder changes. A recording is read whole, at most 20 MiB, and decoded in a process of its own.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import trio

from tts_provider.engines.base import Samples
from tts_provider.engines.zonos import reference_reader
from tts_provider.errors import SynthesisFailed, UnknownSpeaker

__all__ = ["MAX_FILE_SIZE", "Recording", "SpeakerFolder", "decode", "read_file"]

MAX_FILE_SIZE: Final = 20 << 20
"""Bytes; a minute of 16-bit stereo at 96 kHz is 22 MiB, of 48 kHz half that."""
MAX_SPEAKER: Final = 9999
DECODE_TIMEOUT: Final = 30.0
"""s for one recording; a minute of audio takes under one."""
READER: Final = Path(reference_reader.__file__)

_NAME: Final = re.compile(r"(?:speaker_)?(0|[1-9]\d{0,3})\.wav", re.ASCII)
_DEFAULT_NAME: Final = "default_speaker.wav"


@dataclass(frozen=True, slots=True)
class Recording:
    """A decoded reference."""

    samples: Samples
    """Mono, fp32."""
    rate: int
    """Hz."""


class SpeakerFolder:
    """The recordings there are, by speaker id."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._changed: int | None = None
        self._found: Mapping[int, Path] = {}

    def files(self) -> Mapping[int, Path]:
        """Speaker id to file, in the order of the ids. Lists the folder again if it has changed."""
        if self._folder is None:
            return {}
        try:
            changed = self._folder.stat().st_mtime_ns
            if changed != self._changed:
                self._found = _list(self._folder)
                self._changed = changed
        except OSError:
            self._found, self._changed = {}, None  # gone, or not readable: nobody is there
        return self._found

    def find(self, speaker: int, field: str = "speaker") -> Path:
        """The recording of `speaker`.

        Raises:
            UnknownSpeaker: there is none; the message lists those there are.
        """
        files = self.files()
        if speaker in files:
            return files[speaker]
        if self._folder is None:
            raise UnknownSpeaker("Engine 'zonos' has no voices: the server names no folder in TTS_ZONOS_SPEAKERS.", field=field)
        known = ", ".join(map(str, files)) or f"none; the server's owner can add {max(speaker, 0)}.wav"
        raise UnknownSpeaker(f"Engine 'zonos' has no recording for speaker {speaker}. Speakers: {known}.", field=field)


def _list(folder: Path) -> Mapping[int, Path]:
    base = folder.resolve()
    found: dict[int, tuple[int, Path]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            match = _NAME.fullmatch(entry.name)
            if match is None and entry.name != _DEFAULT_NAME:
                continue
            speaker = 0 if match is None else int(match[1])
            real = Path(entry.path).resolve()
            if not real.is_relative_to(base) or not real.is_file():
                continue  # a link that leads out of the folder, or no file
            # The same order as in the replaced server: the named default, the bare number, the long name.
            rank = 0 if match is None else 1 + entry.name.startswith("speaker_")
            if speaker not in found or rank < found[speaker][0]:
                found[speaker] = (rank, real)
    return {speaker: found[speaker][1] for speaker in sorted(found)}


def read_file(path: Path, speaker: str) -> bytes:
    """The bytes of a recording; blocking.

    Raises:
        SynthesisFailed: it cannot be read, or is larger than `MAX_FILE_SIZE`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_SIZE + 1)
    except OSError as error:
        raise _unusable(speaker, "cannot be read") from error
    if len(data) > MAX_FILE_SIZE:
        raise _unusable(speaker, f"is larger than {MAX_FILE_SIZE >> 20} MiB")
    return data


async def decode(data: bytes, speaker: str) -> Recording:
    """The audio in `data`, decoded in a process of its own.

    Raises:
        SynthesisFailed: it is no audio, shorter than a second or longer than a minute.
    """
    answer = b""
    with trio.move_on_after(DECODE_TIMEOUT):
        result = await trio.run_process(
            [sys.executable, "-I", str(READER)],
            stdin=data,
            capture_stdout=True,
            stderr=subprocess.DEVNULL,
            check=False,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        answer = result.stdout if result.returncode == 0 else b""
    match answer[:1]:
        case b"\x00":
            (rate,) = struct.unpack_from("<I", answer, 1)
            return Recording(np.frombuffer(answer, "<f4", offset=5).astype(np.float32), rate)
        case b"\x02":
            raise _unusable(speaker, f"is shorter than {reference_reader.LEAST_SECONDS:g} s")
        case b"\x03":
            raise _unusable(speaker, f"is longer than {reference_reader.MOST_SECONDS:g} s")
        case _:
            raise _unusable(speaker, "is no audio that can be read")


def _unusable(speaker: str, what: str) -> SynthesisFailed:
    return SynthesisFailed(f"The recording of speaker {speaker} {what}.", field="speaker", retryable=False)
