"""Who speaks: the voices that the service has, and which of them a request means."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from tts_provider.engines.base import Gender, Voice, VoiceChoice, VoiceRequest
from tts_provider.engines.edge.snapshot import SUBSTITUTES, snapshot
from tts_provider.engines.languages import canonical_tag, closest_tag, primary_language, unsupported
from tts_provider.errors import UnknownSpeaker

__all__ = ["Catalogue", "ListedVoice", "listed"]

FULL_NAME: Final = re.compile(r"Microsoft Server Speech Text to Speech Voice \([A-Za-z]{2,3}(?:-[A-Za-z]+)+, [A-Za-z]+\)")
"""The only form of name that goes into SSML, into which it goes unescaped."""
SHORT_NAME: Final = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z]+)+-[A-Za-z]+Neural")
MAX_MATCHES: Final = 5
_PLAUSIBLE: Final = re.compile(r"[\w -]{1,60}", re.ASCII)
"""Names that an error message may repeat."""

_MAIN_LOCALES: Final = {
    "ar": "ar-EG",
    "bn": "bn-BD",
    "de": "de-DE",
    "en": "en-US",
    "es": "es-ES",
    "fr": "fr-FR",
    "nl": "nl-NL",
    "pt": "pt-BR",
    "sw": "sw-KE",
    "ta": "ta-IN",
    "ur": "ur-PK",
    "zh": "zh-CN",
}
"""Where a language without a region is spoken, for those that have several."""
_OTHER_NAMES: Final = {
    "cmn": ("zh", "zh-CN"),
    "in": ("id", "id-ID"),
    "iw": ("he", "he-IL"),
    "no": ("nb", "nb-NO"),
    "tl": ("fil", "fil-PH"),
    "yue": ("zh", "zh-HK"),
}
"""Languages that Edge files under another one: that one, and the locale where no region is named."""
_OTHER_TAGS: Final = {"en-UK": "en-GB", "es-419": "es-MX", "zh-Hans": "zh-CN", "zh-Hant": "zh-TW"}

_SPEAKERS: Final = {
    "en-US": ("en-US-GuyNeural", "en-US-JennyNeural", "en-US-DavisNeural", "en-GB-SoniaNeural"),
    "en-GB": ("en-GB-RyanNeural", "en-GB-LibbyNeural", "en-GB-ThomasNeural", "en-GB-SoniaNeural"),
}
"""The unified speakers where they are certain voices. Elsewhere 0 and 2 are the first and second man of the locale and 1 and 3
its first and second woman; where there is only one, both numbers mean the same voice."""
_SPEAKER_COUNT: Final = 4
_ANYBODYS_LANG: Final = VoiceRequest().lang
"""What a request that says nothing says."""


@dataclass(frozen=True, slots=True)
class ListedVoice:
    """A voice on the service's list."""

    voice: Voice
    full_name: str
    """As SSML needs it."""


def listed(short_name: str, full_name: str, locale: str, gender: Gender) -> ListedVoice | None:
    """A voice of the list; None when its names are not what names of voices look like."""
    if not SHORT_NAME.fullmatch(short_name) or not FULL_NAME.fullmatch(full_name):
        return None
    plain = short_name.rpartition("-")[2].removesuffix("Neural")
    name = re.sub(r"(?<=[a-z])(?=Multilingual|Expressive)", " ", plain)
    return ListedVoice(Voice(short_name, name, locale, gender), full_name)


def _from_snapshot() -> list[ListedVoice]:
    voices = []
    for locale, short_name, gender in snapshot():
        full_name = f"Microsoft Server Speech Text to Speech Voice ({locale}, {short_name.removeprefix(f'{locale}-')})"
        voice = listed(short_name, full_name, locale, gender)
        assert voice is not None
        voices.append(voice)
    return voices


class Catalogue:
    """The voices at some time. Immutable; a newer list makes a newer catalogue."""

    def __init__(self, voices: Iterable[ListedVoice] | None = None) -> None:
        """Take `voices`, or those of the snapshot."""
        known = {voice.voice.id: (rank, voice) for rank, voice in enumerate(_from_snapshot())}
        chosen = [voice for _, voice in known.values()] if voices is None else list(voices)
        # In the snapshot's order, for that tells which of a locale's voices are the ordinary ones; new voices after them.
        chosen.sort(key=lambda voice: (voice.voice.language, known.get(voice.voice.id, (len(known),))[0], voice.voice.id))
        self._listed = {voice.voice.id.lower(): voice for voice in chosen}
        self._withdrawn = {id_.lower(): voice.voice for id_, (_, voice) in known.items() if id_.lower() not in self._listed}
        self._voices = tuple(voice.voice for voice in chosen)
        self._locales = tuple(dict.fromkeys(voice.language for voice in self._voices))

    @property
    def voices(self) -> Sequence[Voice]:
        """All voices, by locale."""
        return self._voices

    def full_name(self, voice: Voice) -> str:
        """The name that SSML needs.

        Raises:
            UnknownSpeaker: the voice is not on the list, or not any more.
        """
        found = self._listed.get(voice.id.lower())
        if found is None:
            raise UnknownSpeaker(f"Edge does not have the voice '{voice.id}' any more.", field="voice")
        return found.full_name

    def resolve(self, request: VoiceRequest) -> VoiceChoice:
        """Decide who speaks; see `Engine.resolve`."""
        tag = canonical_tag(request.lang)
        if request.voice is not None:
            return self._by_name(request.voice, tag, request.speaker)
        return self._by_speaker(request.speaker, tag)

    # ------------------------------------------------------------------------------------------------------ by name

    def _by_name(self, name: str, tag: str, speaker: int) -> VoiceChoice:
        found, warnings = self._named(name)
        if found is None:
            raise self._unknown(name)
        lang = found.language
        if "Multilingual" in found.id:
            if self._locale(tag) is None:
                raise unsupported(tag, "edge", self._locales)
            lang = tag
        elif primary_language(tag) != primary_language(lang) and tag != _ANYBODYS_LANG:
            warnings.append(f"Voice '{found.id}' speaks {lang}, not {tag}.")
        return VoiceChoice(found, lang, speaker, tuple(warnings))

    def _named(self, name: str) -> tuple[Voice | None, list[str]]:
        """The voice of that name, or who stands in for it, and what to say about it."""
        found = self._listed.get(name.lower())
        if found is not None:
            return found.voice, []
        substitutes = {withdrawn.lower(): (withdrawn, substitute) for withdrawn, substitute in SUBSTITUTES.items()}
        withdrawn, substitute = substitutes.get(name.lower(), (None, None))
        if substitute is not None:
            found = self._listed.get(substitute.lower())
        known = self._withdrawn.get((substitute or name).lower())
        if found is None and known is not None:
            withdrawn = withdrawn or known.id
            others = [other for other in self._voices if (other.language, other.gender) == (known.language, known.gender)]
            found = self._listed[others[0].id.lower()] if others else None
        if found is None:
            return None, []
        return found.voice, [f"Edge does not have the voice '{withdrawn}' any more; '{found.voice.id}' speaks instead."]

    def _unknown(self, name: str) -> UnknownSpeaker:
        if not _PLAUSIBLE.fullmatch(name):
            return UnknownSpeaker("Edge has no such voice. Its voices have names such as 'en-US-GuyNeural'.", field="voice")
        wanted = name.lower()
        matches = [voice.id for voice in self._voices if wanted in voice.id.lower()]
        if not matches:
            close = difflib.get_close_matches(wanted, self._listed, MAX_MATCHES, cutoff=0.7)
            matches = [self._listed[match].voice.id for match in close]
        hint = (
            f" Did you mean {' or '.join(matches[:MAX_MATCHES])}?"
            if matches
            else " Its voices have names such as 'en-US-GuyNeural'."
        )
        return UnknownSpeaker(f"Edge has no voice '{name}'.{hint}", field="voice")

    # --------------------------------------------------------------------------------------------------- by speaker

    def _by_speaker(self, speaker: int, tag: str) -> VoiceChoice:
        if not 0 <= speaker < _SPEAKER_COUNT:
            known = "0 (US male), 1 (US female), 2 (US male), 3 (UK female)"
            raise UnknownSpeaker(f"Edge has no speaker {speaker}. Speakers: {known}; or name a voice.", field="speaker")
        locale = self._locale(tag)
        if locale is None:
            raise unsupported(tag, "edge", self._locales)
        if locale in _SPEAKERS:
            found, warnings = self._named(_SPEAKERS[locale][speaker])
            if found is not None:
                return VoiceChoice(found, found.language, speaker, tuple(warnings))
        gender: Gender = "female" if speaker % 2 else "male"
        there = [voice for voice in self._voices if voice.language == locale]
        fitting = [voice for voice in there if voice.gender == gender]
        chosen = fitting or there
        voice = chosen[min(speaker // 2, len(chosen) - 1)]
        none = () if fitting else (f"Edge has no {gender} voice for {locale}; '{voice.id}' speaks instead.",)
        return VoiceChoice(voice, locale, speaker, none)

    def _locale(self, tag: str) -> str | None:
        """The locale on the list that serves `tag`."""
        tag = _OTHER_TAGS.get(tag, tag)
        language, _, rest = tag.partition("-")
        if language in _OTHER_NAMES:
            other, main = _OTHER_NAMES[language]
            tag = f"{other}-{rest}" if rest else main
        found = closest_tag(tag, self._locales, _MAIN_LOCALES)
        if found is None:  # a script that goes without saying, as in zh-Hant-TW or sr-Latn-RS
            subtags = [subtag for subtag in tag.split("-") if not (len(subtag) == 4 and subtag.isalpha())]
            found = closest_tag("-".join(subtags), self._locales, _MAIN_LOCALES)
        return found
