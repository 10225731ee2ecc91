"""Word marks: from the library's raw events, and of real speech."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.engines.espeak.listening import SAMPLE_RATE, Listener, loaded, say
from tts_provider.engines.base import SpeechOptions, VoiceRequest, WordMark
from tts_provider.engines.espeak import EspeakEngine
from tts_provider.engines.espeak.words import WordTracker
from tts_provider.engines.espeak.worker import EVENT, PAUSE, SPEECH, WORD

Event = tuple[int, int, int, int]


def word(position: int, length: int, sample: int) -> Event:
    return WORD, position, length, sample


def silence(sample: int) -> Event:
    return PAUSE, 0, 0, sample


def sound(sample: int) -> Event:
    return SPEECH, 0, 0, sample


def track(text: str, *events: Event, samples: int = 1000) -> list[tuple[str, float, float]]:
    """Each word with its first and last sample; a sample rate of 1 makes seconds of samples."""
    tracker = WordTracker(text, 1)
    marks: list[WordMark] = []
    for event in events:
        marks += tracker.feed(EVENT.pack(*event))
    marks += tracker.finish(samples)
    return [(text[mark.start : mark.end], mark.start_s, mark.end_s) for mark in marks]


def test_a_word_ends_where_the_next_begins() -> None:
    assert track("one two", word(1, 3, 0), word(5, 3, 400)) == [("one", 0, 400), ("two", 400, 1000)]


def test_a_word_ends_where_silence_begins() -> None:
    events = word(1, 3, 0), silence(300), word(6, 3, 400), silence(950)
    assert track("one, two.", *events) == [("one", 0, 300), ("two", 400, 950)]


def test_a_pause_inside_a_word_does_not_end_it() -> None:
    assert track("one two", word(1, 3, 0), silence(100), sound(200), word(5, 3, 400)) == [("one", 0, 400), ("two", 400, 1000)]


def test_the_spoken_words_of_a_number_are_one_word() -> None:
    events = word(1, 4, 0), word(2, 4, 100), word(2, 4, 200), word(6, 2, 300)
    assert track("5.50 in", *events) == [("5.50", 0, 300), ("in", 300, 1000)]


def test_an_event_on_a_space_or_behind_the_text_belongs_to_the_word_before() -> None:
    assert track("½ no", word(1, 1, 0), word(2, 1, 100), word(3, 2, 200)) == [("½", 0, 200), ("no", 200, 1000)]
    assert track("😀", word(1, 1, 0), word(2, 1, 100)) == [("😀", 0, 1000)]


def test_a_first_event_on_a_space_is_for_the_word_behind_it() -> None:
    assert track("  no", word(1, 1, 0)) == [("no", 0, 1000)]


def test_events_of_no_word_make_no_mark() -> None:
    assert track("...", silence(0)) == []
    assert track("   ", word(1, 1, 0)) == []
    assert track("ab", word(3, 1, 0)) == []


def test_a_word_covers_what_the_library_leaves_out() -> None:
    assert track("z.B. das", word(1, 1, 0), word(6, 3, 400))[0][0] == "z.B"
    assert track("of the box", word(1, 2, 0), word(8, 3, 400))[0][0] == "of the"
    assert track("don't, no", word(1, 3, 0), word(8, 2, 400))[0][0] == "don't"


def test_a_symbol_that_is_read_out_is_a_word() -> None:
    assert track("$5", word(1, 1, 0), word(2, 1, 400)) == [("$", 0, 400), ("5", 400, 1000)]


def test_a_repeated_phrase_is_one_word() -> None:
    assert track("你好", word(1, 2, 0), word(1, 2, 400)) == [("你好", 0, 1000)]


def test_figures_that_contradict_each_other_make_no_overlap() -> None:
    """As they come above 450 words a minute."""
    assert track("one two", word(1, 3, 0), silence(420), word(5, 3, 400)) == [("one", 0, 400), ("two", 400, 1000)]
    assert track("one two", word(1, 3, 100), word(5, 3, 90)) == [("one", 90, 90), ("two", 90, 1000)]
    assert track("one two", word(1, 3, 0), word(5, 3, 900), silence(1020)) == [("one", 0, 900), ("two", 900, 1000)]
    assert track("one", word(1, 3, 1010), silence(1020)) == [("one", 1000, 1000)]


def test_audio_after_a_word_is_held_back_until_its_mark_is_known() -> None:
    tracker = WordTracker("one two", 1)
    held = []
    for event in (silence(0), word(1, 3, 100), silence(300), word(5, 3, 400)):  # the first silence is no word's end
        tracker.feed(EVENT.pack(*event))
        held.append(tracker.undecided)
    assert held == [False, False, True, False]


TEXTS = {
    "plain": ("en-US", "Hello out of the box, of the house in the woods would have been."),
    "numbers": ("en-US", "It costs $5.50, 3.5% of 1,234,567 on 12/05/2024 at 10:30pm (NASA, U.S.A.)."),
    "addresses": ("en-US", "Write to joe@example.org or see http://example.org/a?b=1, it's well-known."),
    "emoji": ("en-US", "Good 😀 morning 👩🏽‍🚀 from ❤️ us 🎉!"),
    "combining": ("fr", "L'e\u0301te\u0301 a\u0300 l'e\u0301cole, c'est fini."),
    "composed": ("fr", "L'été à l'école, c'est fini."),
    "german": ("de", "Die Straße ist z.B. 30 km lang, d.h. sehr lang."),
    "mandarin": ("zh-CN", "你好世界，再见。我们走吧"),
    "japanese": ("ja-JP", "こんにちは、さようなら"),
    "hindi": ("hi", "नमस्ते दुनिया, आप कैसे हैं?"),
    "hebrew": ("he", "שלום עולם, מה שלומך?"),
    "russian": ("ru", "Привет, мир! Как дела?"),
    "markup": ("en-US", "Say <b>this</b> and [[that]] **twice**."),
    "blanks": ("en-US", "  one\n\n two\tthree  "),
}


@pytest.mark.parametrize("speed", [0.25, 1, 4])
@pytest.mark.parametrize(("lang", "text"), TEXTS.values(), ids=TEXTS)
async def test_marks_lie_in_order_inside_the_text_and_the_audio_and_miss_no_word(
    engine: EspeakEngine, lang: str, text: str, speed: float
) -> None:
    heard = await say(engine, text, VoiceRequest(lang=lang), SpeechOptions(words=True, speed=speed))
    assert heard.marks_in_time
    assert all(0 <= mark.start < mark.end <= len(text) for mark in heard.marks)
    assert all(0 <= mark.start_s <= mark.end_s <= heard.seconds for mark in heard.marks)
    assert speed == 4 or all(mark.start_s < mark.end_s for mark in heard.marks)
    assert all(before.end <= after.start and before.end_s <= after.start_s for before, after in pairwise(heard.marks))
    assert all(text[mark.start : mark.end].strip() == text[mark.start : mark.end] for mark in heard.marks)
    covered = {offset for mark in heard.marks for offset in range(mark.start, mark.end)}
    assert [character for offset, character in enumerate(text) if character.isalnum() and offset not in covered] == []


async def test_offsets_count_code_points(engine: EspeakEngine) -> None:
    text = "😀 naïve e\u0301tude 世界 end"
    heard = await say(engine, text, options=SpeechOptions(words=True))
    assert [text[mark.start : mark.end] for mark in heard.marks] == ["😀", "naïve", "e\u0301tude", "世界", "end"]


async def test_a_mark_begins_with_sound_and_ends_with_silence(engine: EspeakEngine) -> None:
    """After each pause there is sound within 60 ms of the mark's start, and none after its end."""
    heard = await say(engine, "One, two, three, four.", options=SpeechOptions(words=True))
    assert len(heard.marks) == 4

    def loudness(begin_s: float, end_s: float) -> float:
        return float(abs(heard.samples[round(begin_s * SAMPLE_RATE) : round(end_s * SAMPLE_RATE)]).max())

    for mark, following in pairwise(heard.marks):
        assert loudness(mark.start_s, mark.start_s + 0.06) > 0.02
        assert following.start_s - mark.end_s > 0.1
        assert loudness(mark.end_s + 0.06, following.start_s) < 0.02


async def test_nobody_gets_marks_who_did_not_ask(engine: EspeakEngine) -> None:
    assert (await say(engine, "One, two.")).marks == []


async def test_asking_for_marks_changes_no_sample() -> None:
    """Two fresh workers, the same text, with and without marks."""
    takes: list[Listener] = []
    for words in (False, True):
        async with loaded(EspeakEngine()) as engine:
            takes.append(await say(engine, "One, two, three. Four!", options=SpeechOptions(words=words)))
    assert takes[0].samples.tobytes() == takes[1].samples.tobytes()
