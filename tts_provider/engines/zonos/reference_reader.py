"""The program that decodes one reference recording; started by path in a process of its own.

The file may be hostile and the decoder is C: it runs with bounded memory and time, away from the server. The recording comes in
on stdin, whole. The answer on stdout is a byte (see the constants), and for `OK` ``u32 rate`` and mono float32, little-endian.
"""

from __future__ import annotations

import io
import struct
import sys

OK, UNREADABLE, TOO_SHORT, TOO_LONG = range(4)

LEAST_SECONDS = 1.0
MOST_SECONDS = 60.0
RATES = (8_000, 192_000)  # Hz
MAX_CHANNELS = 8
MEMORY_LIMIT = 4 << 30  # bytes of address space; numpy reserves much of it and uses little
CPU_LIMIT = 20  # s


def confine() -> None:
    """Take no more memory and time than a recording needs."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT, CPU_LIMIT))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        pass  # another system than Linux, or a narrower limit already


def read(data: bytes) -> bytes:
    """The answer for the recording `data`."""
    import numpy as np
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate = file.samplerate
            if not RATES[0] <= rate <= RATES[1] or not 1 <= file.channels <= MAX_CHANNELS:
                return bytes([UNREADABLE])
            most = int(MOST_SECONDS * rate)
            # Not what the header promises, which may be anything: what is there, and one sample more than may be.
            samples = file.read(most + 1, dtype="float32", always_2d=True).mean(axis=1, dtype=np.float32)
    except (soundfile.SoundFileError, RuntimeError, ValueError, MemoryError, TypeError):
        return bytes([UNREADABLE])
    if len(samples) > most:
        return bytes([TOO_LONG])
    if len(samples) < LEAST_SECONDS * rate:
        return bytes([TOO_SHORT])
    if not np.isfinite(samples).all() or not samples.any():
        return bytes([UNREADABLE])
    return b"".join([bytes([OK]), struct.pack("<I", rate), samples.astype("<f4").tobytes()])


if __name__ == "__main__":
    confine()
    sys.stdout.buffer.write(read(sys.stdin.buffer.read()))
