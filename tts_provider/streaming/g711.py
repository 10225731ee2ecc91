"""G.711: 16-bit samples to the 8 bits of telephony, by the mu-law and the A-law.

Source: ITU-T G.711 (11/88), tables 1 and 2. Where the standard leaves it open on which side of a decision value a sample falls,
this does as the ITU's own software tools do (G.191): a negative sample has the magnitude of its one's complement.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["to_alaw", "to_mulaw"]

MULAW_BIAS: Final = 33
"""Added to a 14-bit magnitude, so that each segment begins at a power of two."""
MULAW_LARGEST: Final = 8_191
"""Biased magnitude of the highest code; what is louder is clipped to it."""
MULAW_SEGMENTS: Final = tuple(64 << segment for segment in range(7))
ALAW_SEGMENTS: Final = tuple(16 << segment for segment in range(7))
"""Magnitudes at which the segments after the first begin."""
ALAW_TOGGLED: Final = 0x55
"""Every other bit is inverted on the line."""
SIGN: Final = 0x80


def to_mulaw(s16: bytes) -> bytes:
    """One byte for each sample of `s16`, whole little-endian samples, by the mu-law."""
    return _look_up(s16, _mulaw_table())


def to_alaw(s16: bytes) -> bytes:
    """One byte for each sample of `s16`, whole little-endian samples, by the A-law."""
    return _look_up(s16, _alaw_table())


def _look_up(s16: bytes, table: npt.NDArray[np.uint8]) -> bytes:
    samples: npt.NDArray[np.uint16] = np.frombuffer(s16, "<u2")
    return bytes(table[samples])


def _magnitudes() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The magnitude and whether it is negative, of all 65,536 samples in the order of their unsigned value."""
    samples = np.arange(65_536, dtype=np.uint16).view(np.int16).astype(np.int64)
    return np.where(samples < 0, ~samples, samples), samples < 0


@cache
def _mulaw_table() -> npt.NDArray[np.uint8]:
    magnitudes, negative = _magnitudes()
    biased = np.minimum((magnitudes >> 2) + MULAW_BIAS, MULAW_LARGEST)
    segments = np.searchsorted(MULAW_SEGMENTS, biased, side="right")
    steps = biased >> (segments + 1) & 0xF
    codes: npt.NDArray[np.int64] = ~(np.where(negative, SIGN, 0) | segments << 4 | steps) & 0xFF
    return codes.astype(np.uint8)


@cache
def _alaw_table() -> npt.NDArray[np.uint8]:
    magnitudes, negative = _magnitudes()
    magnitudes >>= 4
    segments = np.searchsorted(ALAW_SEGMENTS, magnitudes, side="right")
    steps = magnitudes >> np.maximum(segments - 1, 0) & 0xF
    codes: npt.NDArray[np.int64] = (np.where(negative, 0, SIGN) | segments << 4 | steps) ^ ALAW_TOGGLED
    return codes.astype(np.uint8)
