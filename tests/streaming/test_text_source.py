"""Text on its way in, as its writer and its readers see it; it can be read again for as long as somebody may want that."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.streaming.texts import unhurried
from tts_provider.errors import InvalidRequest, TextTooLong
from tts_provider.streaming.chunker import Chunker
from tts_provider.streaming.text import PieceReader, TextSource

LONG = "A sentence of fifty characters, more or less so. " * 100


def take_all(source: TextSource, at_most: int = 1000) -> str:
    """All text that can be had now, flushes as ``|``."""
    taken = ""
    for _ in range(at_most):
        part = source.take()
        if part is None:
            break
        taken += part if isinstance(part, str) else "|"
    return taken


def read_all(source: TextSource) -> str:
    reader = PieceReader(source, Chunker("en-US", max_weight=240))
    text = ""
    while (piece := reader.next_ready()) is not None:
        text += piece.text
    return text


@unhurried
@given(st.lists(st.one_of(st.text(max_size=5000), st.none()), max_size=8), st.integers(0, 12))
def test_a_second_reader_reads_the_same(parts: list[str | None], taken: int) -> None:
    """However much the first had read, slices of long texts and flushes included."""
    source, plain = TextSource(1_000_000), TextSource(1_000_000)
    source.keep()
    for part in parts:
        for each in (source, plain):
            if part is None:
                each.flush()
            else:
                each.append(part)
    first = take_all(source, taken)
    source.rewind()
    whole = take_all(plain)
    assert take_all(source) == whole
    assert whole.startswith(first)


def test_text_that_came_meanwhile_comes_after_it() -> None:
    source = TextSource(100)
    source.keep()
    source.append("One. ")
    assert take_all(source) == "One. "
    source.append("Two.")
    source.rewind()
    source.rewind()
    assert take_all(source) == "One. Two."


def test_what_may_be_read_again_still_waits() -> None:
    """It makes room only when nobody can want it any more."""
    source = TextSource(len(LONG))
    source.keep()
    source.append(LONG)
    assert read_all(source).strip()
    with pytest.raises(TextTooLong):
        source.append("x")
    source.let_go()
    source.append("x" * 4_000)


def test_reading_again_does_not_make_room_twice() -> None:
    source = TextSource(len(LONG))
    source.keep()
    source.append(LONG)
    source.end()
    assert read_all(source) == LONG
    source.rewind()
    assert read_all(source) == LONG
    source.let_go()
    assert source.waiting == 0


async def test_it_is_known_whether_there_is_something_to_speak(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """As soon as there is, and for blanks and punctuation at the end."""
    heard: list[tuple[float, bool]] = []
    began = trio.current_time()

    async def wait(source: TextSource) -> None:
        speakable = await source.wait_speakable()
        heard.append((trio.current_time() - began, speakable))

    for parts in ([" ", "...", "Well"], [" ", "...", None]):
        source = TextSource(100)
        nursery.start_soon(wait, source)
        for part in parts:
            await trio.sleep(1)
            if part is None:
                source.end()
            else:
                source.append(part)
    await trio.sleep(1)
    assert heard == [(3, True), (6, False)]


async def test_refused_text_is_not_something_to_speak() -> None:
    source = TextSource(3)
    with pytest.raises(TextTooLong):
        source.append("Well")
    assert not source.speakable


async def test_a_text_that_fails_fails_its_reader(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """One that waits, too. The first error is the one that is told."""
    source = TextSource(100)
    nursery.start_soon(trio.sleep, 0)
    with trio.fail_after(10):
        async with trio.open_nursery() as writing:
            writing.start_soon(source.wait)
            await trio.sleep(1)
            source.fail(TextTooLong("It is too long."))
            source.fail(InvalidRequest("It is something else."))
    source.append("Whatever.")
    with pytest.raises(TextTooLong):
        source.take()


def test_a_long_text_is_read_in_slices_that_begin_small() -> None:
    """The first sentence does not wait until a whole book was looked through."""
    text = TextSource(100_000)
    text.append("A word here. " * 1_000)
    text.end()
    slices = []
    while isinstance(part := text.take(), str):
        slices.append(part)
    assert [len(part) for part in slices[:4]] == [125, 250, 500, 500]
    assert "".join(slices) == "A word here. " * 1_000
