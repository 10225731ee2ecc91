"""WAV: the header, and a file that grows while its audio is streamed."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from typing import Final

from tts_provider.errors import TextTooLong

__all__ = ["WAV_HEADER_BYTES", "WavSpool", "wav_header"]

WAV_HEADER_BYTES: Final = 44

UNKNOWN_SIZE: Final = 0xFFFFFFFF
"""Stands in both size fields while the length is unknown, as ffmpeg does. The modules wave and soundfile, scipy, ffmpeg and
browsers read on to the end; with 0 there instead, three of four Python readers get nothing."""

MAX_DATA_BYTES: Final = 0xFFFFFFFF - WAV_HEADER_BYTES
"""Most audio that the 32-bit sizes can tell: 24 hours at 24 kHz."""

SPOOL_BYTES: Final = 4 * 1024 * 1024
"""A WAV up to this long stays in memory (87 s at 24 kHz); longer ones go to a temporary file."""

_HEADER: Final = struct.Struct("<4sI4s4sIHHIIHH4sI")


def wav_header(sample_rate: int, data_bytes: int | None) -> bytes:
    """The 44 bytes before the samples of a mono 16-bit PCM WAV; `data_bytes` None while nobody knows how many there will be.

    Raises:
        ValueError: more than `MAX_DATA_BYTES`.
    """
    if data_bytes is not None and not 0 <= data_bytes <= MAX_DATA_BYTES:
        raise ValueError(f"A WAV file holds up to {MAX_DATA_BYTES} bytes of audio, not {data_bytes}.")
    data_size = UNKNOWN_SIZE if data_bytes is None else data_bytes
    riff_size = UNKNOWN_SIZE if data_bytes is None else data_bytes + WAV_HEADER_BYTES - 8
    return _HEADER.pack(
        *(b"RIFF", riff_size, b"WAVE"),
        *(b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16),  # PCM, one channel, two bytes a sample
        *(b"data", data_size),
    )


class WavSpool:
    """A whole WAV whose length is known only at the end: appended to while its audio is streamed, then read from the start.

    Its first `SPOOL_BYTES` are kept in memory, then all of it on disk in a file without a name, so a request costs little
    memory however long it speaks. Writing happens where `append` is called, the event loop included: 100 ms of audio are
    copied in microseconds; only the move to the disk takes 5 ms, once. `close` gives memory and file back.
    """

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._data_bytes = 0
        self._file = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115  # closed by close()

    @property
    def length(self) -> int:
        """Bytes of the whole file so far, header included."""
        return WAV_HEADER_BYTES + self._data_bytes

    def append(self, s16: bytes) -> None:
        """Adds audio at the end.

        Raises:
            TextTooLong: no WAV file holds as much.
            OSError: the disk is full.
        """
        if self._data_bytes + len(s16) > MAX_DATA_BYTES:
            raise TextTooLong(
                "The audio is longer than a WAV file can be (4 GiB). Stream it with 'final_wav' false, or send shorter texts."
            )
        self._file.write(s16)
        self._data_bytes += len(s16)

    def read_in_pieces(self, size: int) -> Iterator[bytes]:
        """The whole file, header first, in pieces of exactly `size` bytes but for the last. It cannot grow any more then."""
        self._file.seek(0)
        header = wav_header(self._sample_rate, self._data_bytes)
        while piece := header[:size] + self._file.read(max(0, size - len(header))):
            yield piece
            header = header[size:]

    def close(self) -> None:
        """Gives memory and file back; harmless when called twice."""
        self._file.close()
