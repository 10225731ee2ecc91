"""The core: look-ahead, order, bounds, and positions, over an engine that is real and makes tones."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.fake_engine import SECONDS_PER_CHARACTER, VOICES, FakeEngine
from tts_provider.engines.base import Capabilities, QueueReport, Session, Sink, SpeechChunk, SpeechOptions, VoiceChoice
from tts_provider.errors import EmptyText, InvalidRequest, NoAudio, Overloaded, SynthesisFailed, SynthesisTimeout, TextTooLong
from tts_provider.streaming.events import AudioFrame, Event, SentenceStart
from tts_provider.streaming.text import TextSource, is_speakable
from tts_provider.streaming.utterance import Output, Summary, Utterance

FOUR = "The first sentence. The second sentence. The third sentence. The fourth sentence."


def source(text: str) -> TextSource:
    text_source = TextSource(1_000_000)
    text_source.append(text)
    text_source.end()
    return text_source


def utterance(engine: FakeEngine, text: str | TextSource, format: str = "pcm", **options: Any) -> Utterance:
    return Utterance(
        engine,
        VoiceChoice(VOICES[0], "en-US"),
        SpeechOptions(**options),
        Output(format, engine.capabilities.sample_rate),
        source(text) if isinstance(text, str) else text,
    )


async def speak(spoken: Utterance, pace: float = 0.0) -> tuple[list[Event], Summary]:
    """All events of an utterance; the listener takes audio at `pace` seconds for each frame."""
    events: list[Event] = []

    async def deliver(event: Event) -> None:
        events.append(event)
        if isinstance(event, AudioFrame):
            await trio.sleep(pace)

    return events, await spoken.run(deliver)


def pcm(events: list[Event]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, AudioFrame))


async def test_calls_that_overtake_each_other_are_heard_in_order(autojump_clock: MockClock) -> None:
    """Two chunks are made at once, the later one sooner; the listener hears what one after the other would give."""

    class Uneven(FakeEngine):
        @asynccontextmanager
        async def session(
            self, choice: VoiceChoice, options: SpeechOptions, queued: QueueReport | None = None
        ) -> AsyncIterator[Session]:
            async with super().session(choice, options, queued) as session:

                class Slow:
                    async def say(self, chunk: SpeechChunk, sink: Sink) -> None:
                        await trio.sleep(0 if chunk.index % 2 else 3)
                        await session.say(chunk, sink)

                yield Slow()

    abilities = Capabilities(sample_rate=24_000, parallel_chunks=2)
    events, _ = await speak(utterance(Uneven(capabilities=abilities), FOUR))
    reference, _ = await speak(utterance(FakeEngine(), FOUR))
    assert pcm(events) == pcm(reference)
    assert trio.current_time() < 3 * 4


async def test_the_engine_is_never_far_ahead_of_the_listener(autojump_clock: MockClock) -> None:
    """A listener in real time finds the engine some seconds ahead, whatever the length of the text."""
    engine = FakeEngine()
    ahead = []

    async def watch() -> None:
        begun = trio.current_time()
        while True:
            await trio.sleep(1)
            ahead.append(engine.blocks * 0.05 - (trio.current_time() - begun))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await speak(utterance(engine, "A sentence of some length to be spoken here. " * 60), pace=0.1)
        nursery.cancel_scope.cancel()
    assert len(ahead) > 100
    # 10 s may wait before the last call is made, and its lane takes 5 s more; trimmed silence counts as made.
    assert max(ahead[:100]) < 45
    assert max(ahead[:10]) < 25


async def test_the_next_sentence_is_made_while_this_one_plays(autojump_clock: MockClock) -> None:
    """A listener in real time hears an engine that is hardly faster without a gap."""
    engine = FakeEngine(block_delay_s=0.04)
    begun = trio.current_time()
    _, summary = await speak(utterance(engine, FOUR), pace=0.1)
    # Made at 1.25 times real time: between sentences the listener never waited for a whole one.
    assert trio.current_time() - begun < summary.duration_ms / 1000 + 1.0


async def test_a_text_of_many_sentences_is_taken_bit_by_bit(autojump_clock: MockClock) -> None:
    """Text waits in the source, not in the engine: its place is free again as it is spoken."""
    text = TextSource(100)
    text.append("A sentence of fifty characters, more or less so. " * 2)
    with pytest.raises(TextTooLong):
        text.append("Too much.")
    engine = FakeEngine(block_delay_s=0.05)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(speak, utterance(engine, text))
        await trio.sleep(1)
        text.append("Now it fits again, in part.")
        text.end()
    assert engine.said[-1] == "Now it fits again, in part."


async def test_an_engine_s_own_encoding_is_passed_on_untouched() -> None:
    """Where the engine makes the asked format at the asked rate, its bytes arrive as they were made."""

    class Encoding(FakeEngine):
        @asynccontextmanager
        async def session(
            self, choice: VoiceChoice, options: SpeechOptions, queued: QueueReport | None = None
        ) -> AsyncIterator[Session]:
            self.options.append(options)

            class Encoded:
                async def say(self, chunk: SpeechChunk, sink: Sink) -> None:
                    for part in range(3):
                        await sink.encoded(b"<%d.%d>" % (chunk.index, part), 0.5)

            yield Encoded()

    abilities = Capabilities(sample_rate=24_000, encodings=frozenset({"mp3"}))
    engine = Encoding(capabilities=abilities)
    events, summary = await speak(utterance(engine, "One here. Two here.", "mp3"))
    assert engine.options[0].encoding == "mp3"
    assert pcm(events) == b"<0.0><0.1><0.2><1.0><1.1><1.2>"
    assert (summary.length_bytes, summary.duration_ms, summary.sentences) == (30, 3000, 2)
    starts = [event for event in events if isinstance(event, SentenceStart)]
    assert [(event.text, event.start_ms) for event in starts] == [("One here.", 0), ("Two here.", 1500)]


@pytest.mark.parametrize(("format", "in_a_thread"), [("mp3", True), ("opus", True), ("pcm", False)])
async def test_encoding_is_done_off_the_event_loop(format: str, in_a_thread: bool) -> None:
    """What costs much is done in threads, what costs little where it is."""
    threads = set()
    output = Output(format, 24_000, tap=lambda _: threads.add(threading.get_ident()), encoders=trio.CapacityLimiter(1))
    await speak(Utterance(FakeEngine(), VoiceChoice(VOICES[0], "en-US"), SpeechOptions(), output, source(FOUR)))
    assert (threading.get_ident() not in threads) is in_a_thread


class _Nobody:
    async def say(self, chunk: SpeechChunk, sink: Sink) -> None:
        raise AssertionError("nobody opened this session")


@pytest.mark.parametrize(("format", "rate"), [("pcm", 24_000), ("mp3", 48_000)])
async def test_another_format_or_rate_is_encoded_here(format: str, rate: int) -> None:
    abilities = Capabilities(sample_rate=24_000, encodings=frozenset({"mp3"}))
    engine = FakeEngine(capabilities=abilities)
    spoken = Utterance(engine, VoiceChoice(VOICES[0], "en-US"), SpeechOptions(), Output(format, rate), source("One."))
    await speak(spoken)
    assert engine.options[0].encoding is None


async def test_a_failure_ahead_is_told_in_its_place(autojump_clock: MockClock) -> None:
    """A later sentence that failed early does not cut off those before it."""
    abilities = Capabilities(sample_rate=24_000, parallel_chunks=2)
    engine = FakeEngine(capabilities=abilities, faults={"second": "before"}, block_delay_s=0.05)
    events: list[Event] = []

    async def deliver(event: Event) -> None:
        events.append(event)

    with pytest.raises(SynthesisFailed, match="before the audio"):
        await utterance(engine, FOUR).run(deliver)
    assert len(pcm(events)) / 48_000 >= SECONDS_PER_CHARACTER * len("The first sentence.")
    assert (engine.saying, engine.sessions) == (0, 0)


async def test_an_engine_that_hangs_is_timed_out_and_stopped(autojump_clock: MockClock) -> None:
    engine = FakeEngine(faults={"first": "hang"})
    with pytest.raises(SynthesisTimeout):
        await speak(utterance(engine, FOUR))
    assert (engine.saying, engine.sessions, engine.cancelled) == (0, 0, 1)


async def test_blocks_delivered_in_the_engine_s_own_task_are_the_same_and_count_as_signs_of_life(
    autojump_clock: MockClock,
) -> None:
    """An engine may take its time between blocks, but not for ever; how the blocks reach the client changes no byte."""
    reference, _ = await speak(utterance(FakeEngine(), "One sentence here."))
    events: list[Event] = []

    def take_all(new: list[Event]) -> int:
        events.extend(new)
        return len(new)

    def take_one(new: list[Event]) -> int:
        events.append(new[0])
        return 1

    async def deliver(event: Event) -> None:
        events.append(event)

    for now in (take_all, take_one, lambda new: 0):
        events.clear()
        summary = await utterance(FakeEngine(block_delay_s=15.0), "One sentence here.").run(deliver, now=now)
        assert events == reference
        assert summary.duration_ms > 0
    with pytest.raises(SynthesisTimeout):
        await utterance(FakeEngine(block_delay_s=25.0), "One sentence here.").run(deliver, now=take_all)


@pytest.mark.parametrize("most", [0, 1, 2, 100])
async def test_what_cannot_go_at_once_goes_in_order_a_part_at_a_time(most: int) -> None:
    """One event that waits for the client, then as many as can go with it: together, all of them and each once."""
    engine = FakeEngine(capabilities=Capabilities(sample_rate=24_000, word_timings="exact"))
    reference, _ = await speak(utterance(engine, FOUR, words=True))
    events: list[Event] = []
    waited = 0

    def now(new: list[Event]) -> int:
        if waited % 2 == 0:  # the client takes nothing, until it has taken what waits
            return 0
        events.extend(new[:most])
        return min(most, len(new))

    async def deliver(event: Event) -> None:
        nonlocal waited
        waited += 1
        events.append(event)
        await trio.lowlevel.checkpoint()

    await utterance(engine, FOUR, words=True).run(deliver, now=now)
    assert events == reference
    assert (waited < len(events)) == (most > 0)


async def test_an_error_while_opening_the_session_is_raised_as_it_is() -> None:
    class Full(FakeEngine):
        @asynccontextmanager
        async def session(
            self, choice: VoiceChoice, options: SpeechOptions, queued: QueueReport | None = None
        ) -> AsyncIterator[Session]:
            if not self.saying:
                raise Overloaded("Full.", retry_after_ms=100)
            yield _Nobody()

    with pytest.raises(Overloaded):
        await speak(utterance(Full(), FOUR))


async def test_no_session_is_opened_before_there_is_something_to_say(autojump_clock: MockClock) -> None:
    """A text that is being written takes no place of the engine until its first piece is complete."""
    engine, text = FakeEngine(), TextSource(1_000)
    summaries: list[Summary] = []

    async def run() -> None:
        summaries.append((await speak(utterance(engine, text)))[1])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.sleep(5)
        text.append("A sentence that is not")
        await trio.sleep(5)
        assert engine.sessions == 0
        text.append(" complete. And one")
        text.flush()
        await wait_all_tasks_blocked()
        assert engine.sessions == 1
        text.end()
    assert summaries[0].session_at == summaries[0].asked_at == pytest.approx(trio.current_time())
    assert summaries[0].sentences == 2


async def test_a_text_that_nobody_goes_on_writing_ends(autojump_clock: MockClock) -> None:
    """After two minutes: what was written is spoken, the place of the engine is free, and more text is refused."""
    engine, text = FakeEngine(), TextSource(1_000)
    text.append("A sentence that is complete. And one that")
    _, summary = await speak(utterance(engine, text))
    assert 115 < trio.current_time() < 130
    assert summary.sentences == 2
    assert engine.sessions == 0
    with pytest.raises(InvalidRequest):
        text.append(" is not.")


async def test_a_text_without_sound_opens_no_session() -> None:
    engine = FakeEngine()
    with pytest.raises(EmptyText):
        await speak(utterance(engine, "... !?"))
    assert engine.options == []


async def test_a_text_without_sound_is_an_error() -> None:
    with pytest.raises(EmptyText):
        await speak(utterance(FakeEngine(), " ... "))
    with pytest.raises(NoAudio):
        await speak(utterance(FakeEngine(faults={"x": "nothing"}), "x"))


async def test_what_has_no_sound_is_skipped_between_sentences() -> None:
    engine = FakeEngine()
    events, _ = await speak(utterance(engine, "One here.\n\n***\n\nTwo here."))
    assert [text.strip() for text in engine.said] == ["One here.", "Two here."]
    assert [event.text for event in events if isinstance(event, SentenceStart)] == ["One here.", "Two here."]


async def test_samples_are_counted_exactly() -> None:
    events, summary = await speak(utterance(FakeEngine(), FOUR))
    assert summary.samples == len(pcm(events)) // 2
    assert summary.length_bytes == len(pcm(events))
    assert summary.duration_ms == pytest.approx(1000 * summary.samples / 24_000)


async def test_there_is_no_click_where_sentences_meet() -> None:
    """At each known join the signal bends no more than inside the tones."""
    events, _ = await speak(utterance(FakeEngine(), FOUR))
    audio = np.frombuffer(pcm(events), "<i2").astype(np.float64) / 32767
    bend = np.abs(np.diff(audio, 2))
    position = 0
    joins = []
    for event in events:
        if isinstance(event, AudioFrame):
            position += len(event.data) // 2
        elif isinstance(event, SentenceStart):
            joins.append(position)
    inside = np.percentile(bend[bend > 1e-4], 99)
    assert len(joins) == 4
    for join in joins[1:]:
        assert bend[join - 240 : join + 240].max() <= inside


@pytest.mark.parametrize(("text", "speakable"), [("a", True), ("7", True), ("你", True), (" …!?😀*", False), ("", False)])
def test_speakable_is_what_has_a_letter_or_a_digit(text: str, speakable: bool) -> None:
    assert is_speakable(text) is speakable
