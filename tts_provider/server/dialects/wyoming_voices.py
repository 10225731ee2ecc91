"""The voices as Wyoming's clients are told of them, and what their names mean when they come back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wyoming.info import Attribution, Info, TtsProgram, TtsVoice

from tts_provider import __version__
from tts_provider.engines.base import Voice
from tts_provider.engines.catalog import Catalog, EngineState, Entry
from tts_provider.errors import InvalidRequest, InvalidSpeaker
from tts_provider.messages import DEFAULT_LANG, MAX_NAME, SpeechParameters

__all__ = ["Voices"]


class Voices:
    """The voices of all engines, without loading any: those of an engine that was ready once are remembered."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._remembered: dict[str, Sequence[Voice]] = {}

    def describe(self) -> Info:
        """The server as one program, as Home Assistant uses only the first. Waits for nothing."""
        program = TtsProgram(
            name="tts-provider",
            attribution=Attribution("tts-provider", ""),
            installed=True,
            description="Self-hosted text-to-speech",
            version=__version__,
            voices=[
                TtsVoice(
                    name=f"{entry.name}:{voice.id}",
                    attribution=Attribution(entry.name, ""),
                    installed=True,
                    description=f"{voice.name} ({entry.name})",
                    version=None,
                    languages=[voice.language],
                )
                for entry in self._catalog.entries
                if self._catalog.state(entry.name) is not EngineState.UNAVAILABLE
                for voice in self._known(entry)
            ],
            supports_synthesize_streaming=True,
        )
        return Info(tts=[program])

    def _known(self, entry: Entry) -> Sequence[Voice]:
        """The engine's voices; of a model that was never loaded, its speakers."""
        if (engine := self._catalog.loaded(entry.name)) is not None:
            self._remembered[entry.name] = engine.voices()
        remembered = self._remembered.get(entry.name)
        if remembered is not None:
            return remembered
        return [Voice(number, meaning, DEFAULT_LANG) for number, meaning in entry.speakers.items()]

    def parameters(self, voice: object) -> SpeechParameters:
        """What the ``voice`` of a request means: a name from `describe` or the default engine's own, a language, a speaker.

        The audio has the engine's own rate: known beforehand, and nothing is resampled.

        Raises:
            RequestError: it means nothing here.
        """
        if not isinstance(voice, Mapping):
            raise InvalidRequest("'voice' must be an object.", field="voice")
        name, language, speaker = (_read(voice, key) for key in ("name", "language", "speaker"))
        model, separator, own_name = (name or "").partition(":")
        if not separator:
            model, own_name = self._catalog.default, model
        entry = self._catalog.find(model)
        known = {voice.id: voice for voice in self._known(entry)}.get(own_name)
        if own_name in entry.speakers:
            speaker, own_name = speaker or own_name, ""
        if speaker is not None and not (speaker.isascii() and speaker.isdecimal() and len(speaker) <= 4):
            raise InvalidSpeaker("'speaker' must be a number such as '0'.", field="speaker")
        return SpeechParameters(
            model=entry.name,
            voice=own_name or None,
            speaker=int(speaker or 0),
            lang=language or (known.language if known else DEFAULT_LANG),
            sample_rate=entry.sample_rate,
        )


def _read(fields: Mapping[str, object], key: str) -> str | None:
    value = fields.get(key)
    if value is None or (isinstance(value, str) and 0 < len(value) <= MAX_NAME):
        return value
    raise InvalidRequest(f"The voice's '{key}' must be a string of 1 to {MAX_NAME} characters.", field="voice")
