"""Files that the client writes."""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

__all__ = ["UNKNOWN_LENGTH", "wav_header", "written_whole"]

UNKNOWN_LENGTH: Final = 0xFFFF_FFFF
"""Size of a WAV file whose end is not known yet, or beyond 4 GiB. Readers take it; 0 means an empty file to some."""

_WAV: Final = struct.Struct("<4sI4s4sIHHIIHH4sI")
_PCM: Final = 1


def wav_header(sample_rate: int, length: int = UNKNOWN_LENGTH) -> bytes:
    """The 44 bytes before `length` bytes of s16le mono audio in a WAV file."""
    known = length + _WAV.size - 8 < UNKNOWN_LENGTH
    riff, data = (length + _WAV.size - 8, length) if known else (UNKNOWN_LENGTH, UNKNOWN_LENGTH)
    return _WAV.pack(b"RIFF", riff, b"WAVE", b"fmt ", 16, _PCM, 1, sample_rate, 2 * sample_rate, 2, 16, b"data", data)


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that becomes `path` when the block ends well, so that half a file never stands there; its folder is made.

    What is no regular file, such as a pipe, is written directly.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    part = path.with_name(f".{secrets.token_hex(4)}.part")
    try:
        with part.open("wb") as file:
            yield file
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
