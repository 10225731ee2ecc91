"""Audio between the task that receives it and the task that hands it over."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.edge_service import speak
from tts_provider.engines.base import WordMark
from tts_provider.engines.edge.turn import MAX_TURN_BYTES, Piece, Turn
from tts_provider.errors import SynthesisFailed

MP3 = speak("Some words to be said.").mp3
MARK = WordMark(0, 4, 0.1, 0.4)


async def test_what_was_put_is_taken() -> None:
    turn = Turn()
    turn.put(MP3[:720], [MARK])
    turn.put(MP3[720:1440], [])
    piece = await turn.take(0.0, 10.0)
    assert (piece.mp3, list(piece.marks), piece.last) == (MP3[:1440], [MARK], False)
    turn.put(MP3[1440:], [])
    turn.complete()
    piece = await turn.take(10.0, 100.0)
    assert (piece.mp3, list(piece.marks), piece.last) == (MP3[1440:], [], True)
    assert turn.size == len(MP3)
    assert turn.seconds == pytest.approx(len(MP3) / 6000)


async def test_no_more_is_taken_than_was_asked_for() -> None:
    turn = Turn()
    turn.put(MP3, [])
    turn.complete()
    pieces: list[Piece] = []
    while not pieces or not pieces[-1].last:
        pieces.append(await turn.take(0.0, 0.5))
    assert b"".join(piece.mp3 for piece in pieces) == MP3
    assert max(len(piece.mp3) for piece in pieces) == 3000


async def test_taking_waits_for_as_much_as_is_wanted() -> None:
    turn = Turn()
    turn.put(MP3[:720], [])
    await turn.take(0.0, 10.0)
    taken = []

    async def take() -> None:
        taken.append(await turn.take(0.5, 1.0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        turn.put(MP3[720:3000], [])
        await trio.testing.wait_all_tasks_blocked()
        assert taken == []
        turn.put(MP3[3000:3720], [])
    assert len(taken[0].mp3) == 3000


async def test_a_failure_is_told_at_once_whatever_is_left() -> None:
    turn = Turn()
    turn.put(MP3, [])
    turn.fail(SynthesisFailed("Broken."))
    with pytest.raises(SynthesisFailed, match="Broken"):
        await turn.take(0.0, 1.0)


async def test_a_turn_that_nobody_touched_can_begin_again() -> None:
    turn = Turn()
    turn.put(MP3[:1000], [MARK])
    assert not turn.touched
    turn.restart()
    turn.put(MP3, [])
    turn.complete()
    piece = await turn.take(0.0, 100.0)
    assert (piece.mp3, list(piece.marks), piece.last) == (MP3, [], True)
    assert turn.touched


async def test_a_turn_that_begins_again_while_it_is_being_taken_is_waited_for() -> None:
    turn = Turn()
    turn.put(MP3[:720], [])
    taken: list[Piece] = []

    async def take() -> None:
        taken.append(await turn.take(0.0, 100.0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await trio.lowlevel.checkpoint()
        turn.restart()
        await trio.testing.wait_all_tasks_blocked()
        assert not turn.touched
        turn.put(MP3, [])
    assert [piece.mp3 for piece in taken] == [MP3]


async def test_the_format_is_known_before_anything_is_taken() -> None:
    turn = Turn()
    taken: list[Piece] = []

    async def take() -> None:
        taken.append(await turn.take(0.0, 100.0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        for index in range(3):
            turn.put(MP3[index : index + 1], [])
            await trio.testing.wait_all_tasks_blocked()
        assert taken == []
        assert turn.format is None
        turn.put(MP3[3:4], [])
    assert taken[0].mp3 == MP3[:4]


async def test_marks_alone_are_not_waited_for() -> None:
    turn = Turn()
    turn.put(b"", [MARK])
    turn.complete()
    piece = await turn.take(0.0, 1.0)
    assert (piece.mp3, list(piece.marks), piece.last) == (b"", [MARK], True)


async def test_taking_lets_others_run() -> None:
    turn = Turn()
    turn.put(MP3, [])
    with trio.testing.assert_checkpoints():
        await turn.take(0.0, 0.1)


def test_what_is_no_mp3_is_refused() -> None:
    with pytest.raises(SynthesisFailed, match="not MP3"):
        Turn().put(b"RIFF....WAVE", [])


def test_there_is_a_bound() -> None:
    turn = Turn()
    for _ in range(MAX_TURN_BYTES // len(MP3)):
        turn.put(MP3, [])
    with pytest.raises(SynthesisFailed, match="without an end"):
        turn.put(MP3, [])
