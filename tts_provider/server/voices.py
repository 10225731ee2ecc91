"""Voices by names that hold across engines, for dialects whose clients know one list of voices and no engines.

edge                       an engine; its default voice
edge:en-GB-SoniaNeural     a voice of an engine
edge:3                     a unified speaker of an engine
en-GB-SoniaNeural          a voice of the default engine
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Generic, TypeVar

import structlog
import trio

from tts_provider.engines.base import Voice, VoiceRequest
from tts_provider.engines.catalog import Catalog, EngineState
from tts_provider.errors import EngineError, InvalidSpeaker, UnknownModel, UnknownSpeaker
from tts_provider.messages import DEFAULT_LANG, MAX_NAME, SpeechParameters

__all__ = ["Described", "Voices", "speaker_or_voice", "substitution"]

SPEAKER: Final = re.compile("[0-9]{1,4}")

WARM_UP_S: Final = 3.0
"""For the light engines to load before those who wait for them go on."""

Description = TypeVar("Description")

log = structlog.get_logger(__name__)


def speaker_or_voice(name: str) -> tuple[int, str | None]:
    """The unified speaker that `name` is the number of, or speaker 0 and the voice of that name; no voice for no name."""
    return (int(name), None) if SPEAKER.fullmatch(name) else (0, name or None)


def substitution(voice: str, engine: str) -> str:
    """The sentence for a client whose `voice` is not there, and who hears another."""
    return f"There is no voice '{voice}' here; the default voice of '{engine}' speaks."


class Voices:
    """The voices of all engines of a catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._remembered: dict[str, Sequence[Voice]] = {}
        self.warm = trio.Event()
        """Set when `warm_up` has done what it could."""

    async def warm_up(self) -> None:
        """Load the engines that load in no time, so that their voices are known to clients that ask once."""
        try:
            with trio.move_on_after(WARM_UP_S):
                await self.all_listed()
        finally:
            self.warm.set()

    def known(self, engine: str) -> Sequence[Voice]:
        """The engine's voices without loading it: as they were when it was ready last; before that, its speakers."""
        if (loaded := self._catalog.loaded(engine)) is not None:
            self._remembered[engine] = loaded.voices()
        remembered = self._remembered.get(engine)
        if remembered is not None:
            return remembered
        return [Voice(number, meaning, DEFAULT_LANG) for number, meaning in self._catalog.find(engine).speakers.items()]

    def all_known(self) -> Mapping[str, Sequence[Voice]]:
        """The same for each engine that can work here. Waits for nothing."""
        states = {entry.name: self._catalog.state(entry.name) for entry in self._catalog.entries}
        return {engine: self.known(engine) for engine, state in states.items() if state is not EngineState.UNAVAILABLE}

    async def listed(self, engine: str) -> Sequence[Voice]:
        """The engine's voices, with a light engine loaded for that; none while it would take loading a large model.

        Raises:
            EngineUnavailable: the engine cannot be loaded.
        """
        if self._catalog.loaded(engine) is None and not self._catalog.find(engine).light:
            return ()
        async with self._catalog.use(engine) as loaded:
            return loaded.voices()

    async def all_listed(self) -> list[tuple[str, Voice]]:
        """The same for all engines, each voice with its engine. One that cannot be loaded has none: better a short list."""
        found: list[tuple[str, Voice]] = []
        for entry in self._catalog.entries:
            if self._catalog.state(entry.name) is not EngineState.UNAVAILABLE:
                try:
                    found += [(entry.name, voice) for voice in await self.listed(entry.name)]
                except EngineError as error:
                    log.warning("voices.unavailable", engine=entry.name, error=error.message)
        return found

    def named(self, name: str, *, lang: str | None = None, speaker: str | None = None) -> SpeechParameters:
        """Who `name` means: an engine, a voice and its language as far as that is known, a speaker. "" is the default engine.

        The sample rate is the engine's own.

        Args:
            lang: instead of the voice's.
            speaker: number of a unified speaker, for an engine.

        Raises:
            UnknownModel: it names an engine that is not there, or is too long for a name.
            InvalidSpeaker: `speaker` is no number.
        """
        if len(name) > MAX_NAME:
            raise UnknownModel(f"'{name[:MAX_NAME]}...' has more than {MAX_NAME} characters.", field="model")
        engine, colon, own_name = (name or self._catalog.default).partition(":")
        try:
            entry = self._catalog.find(engine)
        except UnknownModel:
            if colon:
                raise
            entry, own_name = self._catalog.find(None), engine
        number, voice = speaker_or_voice(own_name)
        if speaker is not None:
            if not SPEAKER.fullmatch(speaker):
                raise InvalidSpeaker("'speaker' must be a number such as '0'.", field="speaker")
            number = int(speaker)
        if lang is None:
            lang = next((known.language for known in self.known(entry.name) if known.id == voice), DEFAULT_LANG)
        return SpeechParameters(model=entry.name, voice=voice, speaker=number, lang=lang, sample_rate=entry.sample_rate)

    async def settle(self, name: str, parameters: SpeechParameters) -> tuple[SpeechParameters, str | None]:
        """`parameters` with a voice that there is, and a sentence for the client where that is another than `name` meant.

        A bare name that means nothing to the default engine may be one of another service, and becomes that engine's default
        voice. The engine is loaded to find that out. A voice named with its engine is what the client means.

        Raises:
            EngineUnavailable: the engine cannot be loaded.
        """
        if ":" in name or (parameters.voice is None and parameters.speaker == 0):
            return parameters, None
        async with self._catalog.use(self._catalog.find(parameters.model).name) as engine:
            try:
                engine.resolve(VoiceRequest(parameters.lang, parameters.speaker, parameters.voice))
            except UnknownSpeaker:
                return replace(parameters, voice=None, speaker=0), substitution(name, engine.name)
        return parameters, None


class Described(Generic[Description]):
    """All voices in a dialect's form, made anew only when they are others: hundreds take milliseconds."""

    def __init__(self, voices: Voices, describe: Callable[[Mapping[str, Sequence[Voice]]], Description]) -> None:
        """`describe`: gets each engine's voices."""
        self._voices = voices
        self._describe = describe
        self._seen: Mapping[str, Sequence[Voice]] = {}
        self._description = describe(self._seen)

    def get(self) -> Description:
        """The description of what `Voices.all_known` has now. Waits for nothing."""
        now = self._voices.all_known()
        if now != self._seen:
            self._seen, self._description = now, self._describe(now)
        return self._description
