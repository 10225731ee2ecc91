"""The delay pattern: what goes in as frames comes out as the same frames, wherever the speech ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engines.zonos.models import torch
from tts_provider.engines.zonos.config import EOS, MASK
from tts_provider.engines.zonos.delay import Columns, FrameReader, delayed_prefix

Frames = list[list[int]]


def run(frames: Frames, heard: int, limit: int, end: int | None, slots: int = 1, slot: int = 0) -> tuple[Frames, FrameReader]:
    """Say `frames` column by column, with rubbish wherever the pattern should not listen; `end`: columns until the end."""
    random = np.random.RandomState(1)
    columns = Columns(slots, torch.device("cpu"))
    before, given_codes = delayed_prefix(torch.tensor(frames[:heard], dtype=torch.int64).reshape(-1, 9).T)
    columns.start(slot, before, given_codes, position=50 + heard + 1, limit=limit)
    reader = FrameReader(before, limit)
    out = reader.given()
    number = heard
    while not reader.done:
        number += 1
        said = random.randint(0, 1025, size=9)
        for book in range(9):
            frame = number - book - 1
            if heard <= frame < min(len(frames), limit):
                said[book] = frames[frame][book]
        if end is not None and number == heard + 1 + end:
            said[0] = EOS
        columns.advance(torch.from_numpy(said)[None], slot)
        assert int(columns.column[slot]) == number
        assert int(columns.position[slot]) == 50 + number
        frame_codes = reader.push(columns.current[slot].tolist())
        if frame_codes is not None:
            out.append(frame_codes)
    return out, reader


def codes(count: int, seed: int) -> Frames:
    """Random frames."""
    frames: Frames = np.random.RandomState(seed).randint(0, 1024, size=(count, 9)).tolist()
    return frames


@settings(max_examples=80, deadline=None)
@given(heard=st.integers(0, 30), new=st.integers(1, 25), end=st.none() | st.integers(1, 30), seed=st.integers(0, 99))
def test_frames_come_out_as_they_went_in(heard: int, new: int, end: int | None, seed: int) -> None:
    """With audio before, with an end anywhere, and at the cap; never a code that the codec does not know."""
    limit = heard + new
    frames = codes(limit, seed)
    out, reader = run(frames, heard, limit, end)
    expected = limit if end is None or end >= new else heard + end
    assert out == frames[:expected]
    assert reader.frames == expected
    assert reader.ended_itself == (end is not None and end < new)
    assert all(0 <= code < 1024 for frame in out for code in frame)


def test_an_end_in_the_first_column_is_none() -> None:
    """The original ignores it, and its frame has a 0 in that place."""
    frames = codes(6, 1)
    out, reader = run(frames, 0, 6, 0)
    assert out == [[0, *frames[0][1:]], *frames[1:]]
    assert not reader.ended_itself


def test_after_the_end_the_diagonal_ends_and_what_lies_beyond_is_empty() -> None:
    """The columns that the model reads while its last frames become whole."""
    columns = Columns(1, torch.device("cpu"))
    before, given_codes = delayed_prefix(torch.zeros(9, 0, dtype=torch.int64))
    columns.start(0, before, given_codes, position=5, limit=40)
    seen = []
    for number in range(1, 30):
        said = torch.full((1, 9), number)
        if number == 12:
            said[0, 0] = EOS
        columns.advance(said)
        seen.append(columns.current[0].tolist())
    assert seen[0] == [1] + [MASK] * 8
    assert seen[10] == [11] * 9
    assert seen[11] == [EOS] + [12] * 8
    assert seen[14] == [MASK] * 3 + [EOS] + [15] * 5
    assert seen[19] == [MASK] * 8 + [EOS]
    assert seen[20:] == [seen[19]] * 9, "eight columns after the end, nothing moves any more"


def test_at_the_cap_what_lies_beyond_it_is_empty() -> None:
    """No end is said there, so none is put in."""
    columns = Columns(1, torch.device("cpu"))
    before, given_codes = delayed_prefix(torch.zeros(9, 0, dtype=torch.int64))
    columns.start(0, before, given_codes, position=5, limit=12)
    seen = []
    for number in range(1, 25):
        columns.advance(torch.full((1, 9), number))
        seen.append(columns.current[0].tolist())
    assert seen[11] == [12] * 9
    assert seen[12] == [MASK] + [13] * 8
    assert seen[19] == [MASK] * 8 + [20]
    assert seen[20] == seen[19]


def test_a_slot_at_rest_does_not_move() -> None:
    """Nor does it write beyond the first place of its cache."""
    columns = Columns(2, torch.device("cpu"))
    before, given_codes = delayed_prefix(torch.zeros(9, 0, dtype=torch.int64))
    columns.start(0, before, given_codes, position=9, limit=20)
    columns.start(1, before, given_codes, position=9, limit=20)
    columns.advance(torch.ones(2, 9, dtype=torch.int64))
    columns.rest(0)
    columns.advance(torch.full((2, 9), 5))
    assert columns.position.tolist() == [0, 10]
    assert columns.column.tolist() == [1, 2]


@pytest.mark.parametrize("slot", [0, 2])
def test_a_slots_place_does_not_matter(slot: int) -> None:
    """The same frames from the first and the last slot of three."""
    frames = codes(15, 4)
    assert run(frames, 3, 15, 8, slots=3, slot=slot)[0] == frames[:11]
