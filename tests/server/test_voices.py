"""Voices by names that hold across engines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from tests.fake_engine import VOICES, FakeEngine, entry
from tts_provider.engines.base import Capabilities, Voice
from tts_provider.engines.catalog import Catalog, Entry
from tts_provider.errors import EngineUnavailable, InvalidSpeaker, UnknownModel
from tts_provider.messages import SpeechParameters
from tts_provider.server.voices import Described, Voices, speaker_or_voice


def other() -> Entry:
    engine = FakeEngine(name="other", capabilities=Capabilities(sample_rate=22_050))
    return replace(entry(engine, "another"), light=False, speakers={"0": "Low", "1": "High"})


@asynccontextmanager
async def running(*entries: Entry, idle_unload_s: float = 1000.0) -> AsyncIterator[Catalog]:
    catalog = Catalog(entries, default=entries[0].name, idle_unload_s=idle_unload_s)
    async with trio.open_nursery() as nursery:
        await nursery.start(catalog.run)
        yield catalog
        nursery.cancel_scope.cancel()


def names(voices: Sequence[Voice]) -> list[str]:
    return [voice.id for voice in voices]


TONES = names(VOICES)


# --- Names ---


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", SpeechParameters(model="fake", sample_rate=24_000)),
        ("FAKE", SpeechParameters(model="fake", sample_rate=24_000)),
        ("another", SpeechParameters(model="other", sample_rate=22_050)),
        ("other:", SpeechParameters(model="other", sample_rate=22_050)),
        ("other:1", SpeechParameters(model="other", speaker=1, sample_rate=22_050)),
        ("fake:tone-c", SpeechParameters(model="fake", voice="tone-c", lang="ja-JP", sample_rate=24_000)),
        ("tone-b", SpeechParameters(model="fake", voice="tone-b", lang="en-GB", sample_rate=24_000)),
        ("nobody", SpeechParameters(model="fake", voice="nobody", sample_rate=24_000)),
        ("a:b:c", None),
        ("gpt:tone-a", None),
        ("a" * 101, None),
    ],
)
async def test_a_name_means_an_engine_a_voice_or_a_speaker(
    autojump_clock: MockClock, name: str, expected: SpeechParameters | None
) -> None:
    """A voice with its language, once its engine was loaded."""
    async with running(entry(FakeEngine()), other()) as catalog:
        await catalog.preload("fake")
        voices = Voices(catalog)
        if expected is None:
            with pytest.raises(UnknownModel):
                voices.named(name)
        else:
            assert voices.named(name) == expected


async def test_a_speaker_and_a_language_can_be_named_besides(autojump_clock: MockClock) -> None:
    async with running(entry(FakeEngine())) as catalog:
        voices = Voices(catalog)
        named = voices.named("fake", lang="ja", speaker="2")
        assert (named.lang, named.speaker) == ("ja", 2)
        for wrong in ("", "me", "-1", "12345", "1\n", "٣"):
            with pytest.raises(InvalidSpeaker):
                voices.named("fake", speaker=wrong)


def test_a_number_is_a_speaker() -> None:
    assert [speaker_or_voice(name) for name in ("3", "nova", "", "12345")] == [(3, None), (0, "nova"), (0, None), (0, "12345")]


async def test_a_bare_name_that_means_nothing_becomes_the_default_voice(autojump_clock: MockClock) -> None:
    """With a sentence. One that is there stays, and so does one that was named with its engine."""
    async with running(entry(FakeEngine())) as catalog:
        voices = Voices(catalog)
        settled = {name: await voices.settle(name, voices.named(name)) for name in ("", "tone-b", "fake:nobody", "nobody", "7")}
        assert [parameters.voice for parameters, _ in settled.values()] == [None, "tone-b", "nobody", None, None]
        warnings = {name: warning for name, (_, warning) in settled.items() if warning}
        assert warnings == {
            name: f"There is no voice '{name}' here; the default voice of 'fake' speaks." for name in ("nobody", "7")
        }
        assert settled["7"][0].speaker == 0


# --- Lists ---


async def test_what_is_known_waits_for_nothing_and_is_remembered(autojump_clock: MockClock) -> None:
    """Speakers before an engine was loaded, and its voices after, though it is unloaded; nothing of one that cannot work."""
    broken = entry(FakeEngine(name="broken"), unavailable=lambda: "pip install it")
    async with running(entry(FakeEngine()), other(), broken, idle_unload_s=10.0) as catalog:
        voices = Voices(catalog)
        assert {engine: names(known) for engine, known in voices.all_known().items()} == {"fake": ["0"], "other": ["0", "1"]}
        await catalog.preload("other")
        assert names(voices.known("other")) == TONES
        await trio.sleep(30)
        assert catalog.loaded("other") is None
        assert names(voices.known("other")) == TONES


async def test_a_list_loads_light_engines_only(autojump_clock: MockClock) -> None:
    """One that fails is left out of the list of all, and told when it is asked for by name."""
    async with running(entry(FakeEngine()), other(), entry(FakeEngine(name="fails", load_error=True))) as catalog:
        voices = Voices(catalog)
        assert [(engine, voice.id) for engine, voice in await voices.all_listed()] == [("fake", name) for name in TONES]
        assert await voices.listed("other") == ()
        with pytest.raises(EngineUnavailable):
            await voices.listed("fails")


async def test_warming_up_ends_in_time(autojump_clock: MockClock) -> None:
    """With an engine that takes for ever."""
    async with running(entry(FakeEngine()), entry(FakeEngine(name="slow", load_s=60))) as catalog:
        voices = Voices(catalog)
        begun = trio.current_time()
        await voices.warm_up()
        assert voices.warm.is_set()
        assert trio.current_time() - begun == pytest.approx(3)
        assert names(voices.known("fake")) == TONES


async def test_a_description_is_made_anew_only_when_voices_change(autojump_clock: MockClock) -> None:
    made = 0

    def describe(voices: Mapping[str, Sequence[Voice]]) -> str:
        nonlocal made
        made += 1
        return " ".join(f"{engine}:{voice.id}" for engine, own in voices.items() for voice in own)

    async with running(entry(FakeEngine()), idle_unload_s=10.0) as catalog:
        described = Described(Voices(catalog), describe)
        made = 0
        assert [described.get() for _ in range(3)] == ["fake:0"] * 3
        await catalog.preload("fake")
        assert [described.get() for _ in range(3)] == ["fake:tone-a fake:tone-b fake:tone-c"] * 3
        await trio.sleep(30)
        assert described.get() == "fake:tone-a fake:tone-b fake:tone-c"
        assert made == 2
