"""When a sentence has been said."""

from __future__ import annotations

import numpy as np
import pytest

from tts_provider.engines.codec_lm import FinishReason
from tts_provider.engines.sesame.ending import Codes, Ending, EndRules, frame_cap

SPEECH = np.full(1920, 0.1, dtype=np.float32)
SILENCE = np.full(1920, 1e-4, dtype=np.float32)


def codes(number: int) -> Codes:
    return np.full(32, number, dtype=np.int64)


def test_the_cap_grows_with_the_text_and_has_a_limit() -> None:
    assert frame_cap(1) == 28
    assert frame_cap(40) == 113
    assert frame_cap(10_000) == 750


@pytest.mark.parametrize("last", [0, 5])
def test_a_frame_with_31_zeros_ends_the_speech_and_is_not_heard(last: int) -> None:
    ending = Ending(EndRules(), characters=10, max_frames=50)
    assert ending.push(codes(3), SPEECH) == ([SPEECH], None)
    zeros = codes(0)
    zeros[31] = last
    audio, finish = ending.push(zeros, SPEECH)
    assert (list(audio), finish) == ([], FinishReason.STOP)
    assert len(ending.frames) == 1


def test_30_zeros_do_not_end_the_speech() -> None:
    nearly = codes(0)
    nearly[30] = 1
    assert Ending(EndRules(), characters=10, max_frames=50).push(nearly, SPEECH)[1] is None


def test_the_cap_ends_the_speech_with_its_last_frame_heard() -> None:
    ending = Ending(EndRules(), characters=10, max_frames=3)
    heard = [ending.push(codes(number), SPEECH) for number in (1, 2, 3)]
    assert [finish for _, finish in heard] == [None, None, FinishReason.LENGTH]
    assert sum(len(audio) for audio, _ in heard) == 3


def test_equal_frames_in_a_row_end_the_speech_and_are_left_out_of_the_context() -> None:
    ending = Ending(EndRules(repeated_frames=3), characters=10, max_frames=50)
    finishes = [ending.push(codes(number), SPEECH)[1] for number in (1, 2, 2, 1, 1, 1)]
    assert finishes == [None, None, None, None, None, FinishReason.REPETITION]
    assert [int(frame[0]) for frame in ending.frames] == [1, 2, 2, 1]


def test_silence_is_held_back_until_speech_follows_it() -> None:
    ending = Ending(EndRules(), characters=10, max_frames=50)
    ending.push(codes(1), SPEECH)
    assert list(ending.push(codes(2), SILENCE)[0]) == []
    assert list(ending.push(codes(3), SILENCE)[0]) == []
    audio, _ = ending.push(codes(4), SPEECH)
    assert [block is SPEECH for block in audio] == [False, False, True]


def test_silence_before_the_speech_is_heard_at_once() -> None:
    """Nobody waits for the first frame because it is soft."""
    ending = Ending(EndRules(), characters=10, max_frames=50)
    assert len(ending.push(codes(1), SILENCE)[0]) == 1


def test_long_silence_after_the_expected_length_ends_the_speech_with_a_short_tail() -> None:
    ending = Ending(EndRules(silent_frames=4, tail_frames=2), characters=6, max_frames=50)
    for number in range(1, 6):
        ending.push(codes(number), SPEECH)
    results = [ending.push(codes(number), SILENCE) for number in range(6, 10)]
    assert [finish for _, finish in results] == [None, None, None, FinishReason.SILENCE]
    assert sum(len(audio) for audio, _ in results) == 2
    assert len(ending.frames) == 7


def test_long_silence_before_the_expected_length_is_a_pause() -> None:
    ending = Ending(EndRules(silent_frames=4), characters=100, max_frames=500)
    ending.push(codes(1), SPEECH)
    assert all(ending.push(codes(number), SILENCE)[1] is None for number in range(2, 30))


def test_a_speech_of_nothing_but_silence_ends_too() -> None:
    ending = Ending(EndRules(silent_frames=4), characters=3, max_frames=500)
    finishes = [ending.push(codes(number), SILENCE)[1] for number in range(1, 5)]
    assert finishes[-1] is FinishReason.SILENCE


def test_silence_at_the_natural_end_is_cut_to_the_tail() -> None:
    ending = Ending(EndRules(tail_frames=1), characters=10, max_frames=50)
    ending.push(codes(1), SPEECH)
    for number in range(2, 6):
        ending.push(codes(number), SILENCE)
    audio, finish = ending.push(codes(0), SPEECH)
    assert (len(audio), finish) == (1, FinishReason.STOP)
