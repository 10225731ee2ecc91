"""Requests of one connection that take turns, on a real session over a transport that says nothing."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from tts_provider.errors import Busy, SynthesisFailed, TTSError
from tts_provider.server.session import Session
from tts_provider.server.turns import Turns
from tts_provider.server.websocket import Closed
from tts_provider.settings import Settings


class Transport:
    """A client that says nothing, and keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str | bytes] = []
        self.closed: tuple[int, str] | None = None
        self.gone = trio.Event()
        self.reading = trio.Event()
        self.reading.set()

    async def receive(self) -> str | bytes:
        await self.gone.wait()
        raise Closed

    async def send(self, messages: list[str | bytes]) -> None:
        await self.reading.wait()
        self.told += messages

    unsent = False

    def send_now(self, messages: list[str | bytes]) -> bool:
        return False

    async def answers_ping(self, timeout_s: float) -> bool:
        return True

    async def close(self, code: int, reason: str, timeout_s: float) -> None:
        self.closed = (code, reason)


@pytest.fixture
async def transport() -> Transport:
    return Transport()


@pytest.fixture
async def session(transport: Transport) -> Session:
    return Session(transport, Settings(idle_s=60.0))


class Answers:
    """Answers each request, a word, after a second; one at a time."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.begun: list[str] = []

    async def __call__(self, request: str) -> None:
        self.begun.append(request)
        await self.session.outbox.put(f"{request} begins", request)
        await trio.sleep(1)
        await self.session.outbox.put(f"{request} ends", request)


def start(nursery: trio.Nursery, session: Session, turns: Turns[str]) -> None:
    async def converse(session: Session) -> None:
        await session.converse(lambda _: None, turns.run)

    nursery.start_soon(session.run, nursery, converse)


async def test_requests_are_answered_in_order(
    autojump_clock: MockClock, nursery: trio.Nursery, session: Session, transport: Transport
) -> None:
    """One after the other, and the next as soon as it is added."""
    turns = Turns[str](session, 8, Answers(session))
    start(nursery, session, turns)
    turns.add("one")
    turns.add("two")
    await trio.sleep(5)
    turns.add("three")
    await trio.sleep(0.5)
    answered = [turns.current]
    await trio.sleep(5)
    assert [*answered, turns.current] == ["three", None]
    assert transport.told == [f"{word} {what}" for word in ("one", "two", "three") for what in ("begins", "ends")]


async def test_too_many_are_refused(autojump_clock: MockClock, session: Session) -> None:
    """Those that wait are counted besides the one that is answered."""
    turns = Turns[str](session, 2, Answers(session))
    for word in ("one", "two", "three"):
        turns.add(word)
    with pytest.raises(Busy, match="2"):
        turns.add("four")


async def test_clearing_cancels_the_current_and_forgets_the_others(
    autojump_clock: MockClock, nursery: trio.Nursery, session: Session, transport: Transport
) -> None:
    """What was not sent yet never is; what comes after is answered."""
    answers = Answers(session)
    turns = Turns[str](session, 8, answers)
    start(nursery, session, turns)
    transport.reading = trio.Event()
    session.outbox.reply("hello")
    await trio.sleep(0.5)
    turns.add("one")
    turns.add("two")
    await trio.sleep(0.5)
    turns.clear(lambda: session.outbox.reply("first"))
    turns.clear(lambda: session.outbox.reply("second"))
    turns.add("three")
    await trio.sleep(0.5)
    transport.reading.set()
    await trio.sleep(5)
    assert answers.begun == ["one", "three"]
    assert transport.told == ["hello", "first", "second", "three begins", "three ends"]
    session.drain()
    await trio.sleep(1)
    assert transport.closed is not None  # nobody waits for what was forgotten


async def test_clearing_nothing_is_told_at_once(autojump_clock: MockClock, session: Session) -> None:
    told = []
    turns = Turns[str](session, 8, Answers(session))
    turns.add("waits")  # and nobody answers yet
    turns.clear(lambda: told.append("cleared"))
    assert told == ["cleared"]


async def test_clearing_faster_than_an_answer_stops_is_refused(
    autojump_clock: MockClock, nursery: trio.Nursery, session: Session
) -> None:
    """What was promised before still comes."""
    told: list[int] = []

    async def stop_slowly(_: str) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(10)

    turns = Turns[str](session, 2, stop_slowly)
    start(nursery, session, turns)
    turns.add("one")
    await trio.sleep(1)
    for number in range(3):
        turns.clear(lambda number=number: told.append(number))  # type: ignore[misc]
    with pytest.raises(Busy, match="2"):
        turns.clear(lambda: told.append(3))
    assert told == []
    await trio.sleep(10)
    assert told == [0, 1, 2]


async def test_a_session_with_requests_is_not_idle_and_drains_behind_them(
    autojump_clock: MockClock, nursery: trio.Nursery, session: Session, transport: Transport
) -> None:
    async def long(_: str) -> None:
        await trio.sleep(100)

    turns = Turns[str](session, 8, long)
    start(nursery, session, turns)
    turns.add("one")
    turns.add("two")
    await trio.sleep(150)
    session.drain()
    await trio.sleep(40)
    assert transport.closed is None
    await trio.sleep(20)
    assert transport.closed == (1001, "the server is going away")


async def test_finishing_ends_the_session_behind_the_last_answer(
    autojump_clock: MockClock, nursery: trio.Nursery, session: Session, transport: Transport
) -> None:
    turns = Turns[str](session, 8, Answers(session))
    start(nursery, session, turns)
    turns.add("one")
    turns.add("two")
    turns.finish()
    await trio.sleep(1.5)
    assert transport.closed is None
    await trio.sleep(1)
    assert transport.told[-1] == "two ends"
    assert transport.closed == (1000, "closed by the client")


@pytest.mark.parametrize(
    ("raised", "code"), [(SynthesisFailed("No."), "synthesis_failed"), (ZeroDivisionError("/secret/path"), "internal")]
)
async def test_what_an_answer_raises_leaves_the_conversation(
    autojump_clock: MockClock, session: Session, raised: Exception, code: str
) -> None:
    """Out of its groups; a fault of ours as an error that tells nothing of it."""

    async def fail(_: str) -> None:
        raise raised

    turns = Turns[str](session, 8, fail)
    turns.add("one")
    with pytest.raises(TTSError) as caught:
        await session.converse(lambda _: None, turns.run)
    assert caught.value.code == code
    assert "secret" not in caught.value.message


async def test_a_client_that_leaves_cancels_what_is_answered(
    autojump_clock: MockClock, session: Session, transport: Transport
) -> None:
    cancelled = []

    async def answer(request: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(request)

    async def leave() -> None:
        await trio.sleep(1)
        transport.gone.set()

    turns = Turns[str](session, 8, answer)
    turns.add("one")
    with pytest.raises(Closed):
        await session.converse(lambda _: None, turns.run, leave)
    assert cancelled == ["one"]


async def test_a_text_that_does_not_go_on_keeps_no_session(
    autojump_clock: MockClock, nursery: trio.Nursery, session: Session, transport: Transport
) -> None:
    """Although its request runs."""

    async def wait(_: str) -> None:
        await trio.sleep_forever()

    turns = Turns[str](session, 8, wait)
    start(nursery, session, turns)
    turns.add("one")
    await trio.sleep(100)
    assert transport.closed is None
    session.text_waits(True)
    await trio.sleep(1)
    assert transport.closed == (1000, "idle")
