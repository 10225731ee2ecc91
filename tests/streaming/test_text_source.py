"""Text on its way in, as its writer and its reader see it."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from tts_provider.errors import InvalidRequest, TextTooLong
from tts_provider.streaming.text import TextSource


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
