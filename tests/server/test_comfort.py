"""Company for clients that wait: when it comes, and that speech has precedence."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from tts_provider.errors import SynthesisFailed
from tts_provider.server.comfort import Patience, comforted

RATE = 8_000
SILENCE = bytes(1_600)
"""A tenth of a second."""
SPEECH = b"\x01\x02" * RATE
"""A second."""


class Listener:
    """Notes when it is sent what."""

    def __init__(self, takes_s: float = 0.0) -> None:
        self.heard: list[tuple[float, bytes]] = []
        self.takes_s = takes_s
        self.began = trio.current_time()

    async def __call__(self, samples: bytes) -> None:
        self.heard.append((round(trio.current_time() - self.began, 3), samples))
        await trio.sleep(self.takes_s)

    @property
    def silences(self) -> list[float]:
        return [at for at, samples in self.heard if samples == SILENCE]


async def test_silence_comes_after_a_while_and_without_gaps(autojump_clock: MockClock) -> None:
    listener = Listener()
    async with comforted(listener, RATE, 2.0):
        await trio.sleep(2.45)
    assert listener.silences == pytest.approx([2.0, 2.1, 2.2, 2.3, 2.4])


async def test_speech_puts_it_off_for_as_long_as_it_lasts(autojump_clock: MockClock) -> None:
    """A burst of speech is heard for longer than it takes to send."""
    listener = Listener()
    async with comforted(listener, RATE, 2.0) as send:
        await trio.sleep(1)
        for _ in range(3):
            await send(SPEECH)
        await trio.sleep(5.05)
    assert [at for at, samples in listener.heard if samples == SPEECH] == [1, 1, 1]
    assert listener.silences == pytest.approx([6.0])


async def test_it_stops_for_speech_and_needs_patience_again(autojump_clock: MockClock) -> None:
    listener = Listener()
    async with comforted(listener, RATE, 1.0) as send:
        await trio.sleep(1.25)
        await send(SPEECH)
        await trio.sleep(2.2)
    # Silence until 1.3, then the speech until 2.3, then a second of patience.
    assert listener.silences == pytest.approx([1.0, 1.1, 1.2, 3.3, 3.4])


async def test_speech_that_is_being_sent_is_not_followed_by_silence(autojump_clock: MockClock) -> None:
    """To a client so slow that patience ends meanwhile."""
    listener = Listener(takes_s=3.0)
    async with comforted(listener, RATE, 1.0) as send:
        await send(SPEECH)
        await trio.sleep(1.5)
    assert [samples for _, samples in listener.heard] == [SPEECH]


async def test_none_is_sent_without_being_asked_for(autojump_clock: MockClock) -> None:
    listener = Listener()
    async with comforted(listener, RATE, 0.0) as send:
        await trio.sleep(1000)
        await send(SPEECH)
    assert listener.heard == [(1000, SPEECH)]


async def test_an_error_comes_out_as_it_is(autojump_clock: MockClock) -> None:
    with pytest.raises(SynthesisFailed):
        async with comforted(Listener(), RATE, 1.0):
            raise SynthesisFailed("It failed.")


async def test_patience_reminds_again_and_again(autojump_clock: MockClock) -> None:
    """And begins anew with whatever is heard."""
    reminded: list[float] = []
    began = trio.current_time()

    async def remind() -> None:
        reminded.append(trio.current_time() - began)

    patience = Patience(8.0, remind)
    with trio.move_on_after(40):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(patience.run)
            await trio.sleep(20)
            patience.restart()
    assert reminded == pytest.approx([8, 16, 28, 36])
