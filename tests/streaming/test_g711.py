"""G.711 against the decision values of the standard's own tables, and against another implementation."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate

import av
import numpy as np
import pytest

from tts_provider.streaming.g711 import to_alaw, to_mulaw

SAMPLES = range(-32_768, 32_768)
S16 = np.array(SAMPLES, "<i2").tobytes()

MULAW_DECISIONS = [0, *accumulate([1, *[2] * 15, *(4 << segment for segment in range(7) for _ in range(16))])][:-1]
"""Table 2: from 0 to 7,903, in 14-bit units."""
ALAW_DECISIONS = [0, *accumulate([*[2] * 32, *(4 << segment for segment in range(6) for _ in range(16))])][:-1]
"""Table 1: from 0 to 3,968, in 13-bit units."""


def interval(sample: int, decisions: list[int], unit: int) -> int:
    """Which interval between decision values holds `sample`; one on the border belongs to the greater number."""
    scaled = [decision * unit for decision in decisions]
    return bisect_right(scaled, sample) - 1 if sample >= 0 else max(0, bisect_left(scaled, -sample) - 1)


def test_the_tables_have_the_ends_that_the_standard_prints() -> None:
    assert (len(MULAW_DECISIONS), MULAW_DECISIONS[:4], MULAW_DECISIONS[16], MULAW_DECISIONS[-1]) == (
        128,
        [0, 1, 3, 5],
        31,
        7903,
    )
    assert (len(ALAW_DECISIONS), ALAW_DECISIONS[:3], ALAW_DECISIONS[32], ALAW_DECISIONS[-1]) == (128, [0, 2, 4], 64, 3968)


def test_mulaw_is_the_standards_interval_for_every_sample() -> None:
    expected = [~(interval(sample, MULAW_DECISIONS, 4) | (0x80 if sample < 0 else 0)) & 0xFF for sample in SAMPLES]
    assert list(to_mulaw(S16)) == expected


def test_alaw_is_the_standards_interval_for_every_sample() -> None:
    expected = [(interval(sample, ALAW_DECISIONS, 8) | (0 if sample < 0 else 0x80)) ^ 0x55 for sample in SAMPLES]
    assert list(to_alaw(S16)) == expected


@pytest.mark.parametrize(
    ("sample", "mulaw", "alaw"),
    [(0, 0xFF, 0xD5), (-1, 0x7F, 0x55), (32_767, 0x80, 0xAA), (-32_768, 0x00, 0x2A), (1_000, 0xCE, 0xFA), (-1_000, 0x4E, 0x7A)],
)
def test_known_values(sample: int, mulaw: int, alaw: int) -> None:
    s16 = np.array([sample], "<i2").tobytes()
    assert (to_mulaw(s16), to_alaw(s16)) == (bytes([mulaw]), bytes([alaw]))


@pytest.mark.parametrize("codec", ["pcm_mulaw", "pcm_alaw"])
def test_another_decoder_gives_back_the_code(codec: str) -> None:
    """What ffmpeg decodes from a code is encoded as that code again; mu-law's second zero becomes the first."""
    decoder = av.CodecContext.create(codec, "r")
    assert isinstance(decoder, av.AudioCodecContext)
    decoder.sample_rate, decoder.layout = 8000, "mono"
    codes = bytes(range(256))
    decoded = b"".join(bytes(frame.planes[0])[: 2 * frame.samples] for frame in decoder.decode(av.Packet(codes)))
    if codec == "pcm_mulaw":
        assert to_mulaw(decoded) == codes.replace(b"\x7f", b"\xff")
    else:
        assert to_alaw(decoded) == codes


def test_nothing_becomes_nothing() -> None:
    assert (to_mulaw(b""), to_alaw(b"")) == (b"", b"")
