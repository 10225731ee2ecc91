"""Decoding."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.edge_service import speak
from tts_provider.engines.edge.mp3 import DecodingError, Mp3Decoder, Mp3Format, ends_in_silence, read_format

SPEECH = speak("Here is a sentence. And there is another one.")
WHOLE = Mp3Decoder().decode(SPEECH.mp3, last=True)


def test_every_sample_comes_out() -> None:
    assert len(WHOLE) == len(SPEECH.mp3) // 144 * 576
    assert WHOLE.dtype == np.float32
    assert 0.2 < float(np.max(np.abs(WHOLE))) < 0.5


@settings(deadline=None, max_examples=30)
@given(cuts=st.lists(st.integers(0, len(SPEECH.mp3)), max_size=20))
def test_the_samples_do_not_depend_on_how_the_bytes_are_cut(cuts: list[int]) -> None:
    decoder = Mp3Decoder()
    edges = [0, *sorted(cuts), len(SPEECH.mp3)]
    blocks = [decoder.decode(SPEECH.mp3[start:end]) for start, end in pairwise(edges)]
    blocks.append(decoder.decode(b"", last=True))
    assert np.array_equal(np.concatenate(blocks), WHOLE)


def test_the_first_message_is_heard_at_once() -> None:
    assert len(Mp3Decoder().decode(SPEECH.mp3[:720])) == 5 * 576


def test_two_turns_do_not_disturb_each_other() -> None:
    one, other = Mp3Decoder(), Mp3Decoder()
    blocks: list[list[np.ndarray[tuple[int], np.dtype[np.float32]]]] = [[], []]
    for start in range(0, len(SPEECH.mp3), 1000):
        blocks[0].append(one.decode(SPEECH.mp3[start : start + 1000]))
        blocks[1].append(other.decode(SPEECH.mp3[start : start + 1000]))
    assert np.array_equal(np.concatenate(blocks[0]), WHOLE)
    assert np.array_equal(np.concatenate(blocks[1]), WHOLE)


def test_noise_is_an_error() -> None:
    noise = random.Random(1).randbytes(7200)
    with pytest.raises(DecodingError):
        Mp3Decoder().decode(noise, last=True)
    decoder = Mp3Decoder()
    decoder.decode(SPEECH.mp3[:7200])
    with pytest.raises(DecodingError):
        decoder.decode(noise, last=True)


def test_another_sample_rate_is_an_error() -> None:
    # The same frames with another rate in their headers: 22050 Hz, so frames of 156 bytes are looked for.
    wrong = b"".join(b"\xff\xf3\x60\xc4" + bytes(152) for _ in range(20))
    with pytest.raises(DecodingError):
        Mp3Decoder().decode(wrong, last=True)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("fff364c4", Mp3Format(24_000, 6_000)),
        ("fff3a4c4", Mp3Format(24_000, 12_000)),
        ("fff360c4", Mp3Format(22_050, 6_000)),
        ("fffb64c4", None),  # MPEG-1
        ("fff304c4", None),  # free format
        ("fff3f4c4", None),  # no bit rate
        ("fff36cc4", None),  # no sample rate
        ("52494646", None),  # RIFF
        ("fff3", None),
        ("", None),
    ],
)
def test_the_format_is_read_from_a_frame(header: str, expected: Mp3Format | None) -> None:
    assert read_format(bytes.fromhex(header)) == expected


def test_seconds_follow_from_bytes() -> None:
    assert Mp3Format(24_000, 6_000).seconds(9_000) == 1.5


def test_a_finished_turn_ends_in_silence_and_a_cut_one_does_not() -> None:
    assert ends_in_silence(SPEECH.mp3)
    middle_of_a_word = int((SPEECH.words[5].start_s + SPEECH.words[5].end_s) / 2 * 6000)
    assert not ends_in_silence(SPEECH.mp3[:middle_of_a_word])
    between_two_words = int((SPEECH.words[5].end_s + SPEECH.words[6].start_s) / 2 * 6000)
    assert not ends_in_silence(SPEECH.mp3[:between_two_words])


def test_noise_is_not_silence() -> None:
    assert not ends_in_silence(random.Random(1).randbytes(7200))
    assert not ends_in_silence(b"")
