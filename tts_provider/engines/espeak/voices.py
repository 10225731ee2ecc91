"""Who speaks: espeak-ng's voices by name, by language tag and by unified speaker.

The library is not asked to find a voice: for many tags (``en-gb``, ``zh``) it reports failure and goes on in the voice of the
text before, and what it does not know after a ``+`` it ignores. So everything is matched here, against the list that the
library gives, and only names made from that list reach it.

A voice's name may be followed by a variant, as espeak-ng itself writes it: ``gmw/en-US+f3``. Every voice is a man's; the
variants are how women and other men speak.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tts_provider.engines.base import Gender, Voice, VoiceChoice, VoiceRequest
from tts_provider.engines.languages import canonical_tag, closest_tag, primary_language, unsupported
from tts_provider.errors import UnknownSpeaker, UnsupportedLanguage

__all__ = ["ENGINE", "VoiceList"]

ENGINE: Final = "espeak"

_SPEAKERS: Final = {0: "", 1: "f2", 2: "m3", 3: "f4"}
"""The unified speakers, as variants of a language's voice."""

_BRITISH_SPEAKER: Final = 3
"""The unified speaker who is British where the others are American."""

_AMERICAN: Final = "en-US"
_BRITISH: Final = "en-GB"

_GENDERS: Final[dict[str, Gender]] = {"1": "male", "2": "female"}

_ALIASES: Final = {
    # The unified speakers are American unless a client says otherwise; espeak-ng's own "en" is British.
    "en": "en-US",
    # Regions that the library's tags leave out although the voice is theirs.
    "ca-ES": "ca", "chr-US": "chr-US-Qaaa-x-west", "es-ES": "es", "hy-AM": "hy", "ru-RU": "ru", "vi-VN": "vi",
    # What is written as Chinese there is Cantonese when it is spoken.
    "zh-HK": "yue", "zh-MO": "yue", "zh-Hant-HK": "yue", "zh-Hant-MO": "yue",
    # Withdrawn codes, and single languages of those that ISO 639 calls macrolanguages.
    "arb": "ar", "ekk": "et", "in": "id", "iw": "he", "lvs": "lv", "mo": "ro", "npi": "ne", "ory": "or", "pes": "fa",
    "swh": "sw", "tlh": "piqd", "zsm": "ms",
}  # fmt: skip
"""Tags that are served as if the library had them, by the tag that it has."""

_NEIGHBOURS: Final = {
    "en-GB": "AU BW GH HK IE IN KE MT MY NG NZ PK SG TZ ZA ZW",
    "es-419": "AR BO CL CO CR CU DO EC GT HN NI PA PE PR PY SV US UY VE",
}
"""Regions without a voice, by the tag of the voice that comes closer to how they speak than their language's main one."""

_MAX_ECHO: Final = 64
"""Characters of a client's voice name that a message repeats, and that are compared with the list."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A voice, or a variant of voices, as the library lists it."""

    identifier: str
    name: str
    gender: Gender | None
    languages: tuple[tuple[int, str], ...]
    """Priority (lower is better) and tag; the first is the voice's own."""

    @property
    def voice(self) -> Voice:
        return Voice(self.identifier, self.name, self.languages[0][1], self.gender)


class VoiceList:
    """The voices of one loaded library."""

    def __init__(self, listing: bytes) -> None:
        """Read `listing`, the payload of a worker's `VOICES` frame."""
        lines = listing.decode(errors="replace").splitlines()
        self._variants = {name.lower(): (name, gender) for name, gender in map(_variant, lines) if name}
        entries = [entry for entry in map(_entry, lines) if entry is not None]
        self._voices = {entry.identifier: entry.voice for entry in entries}
        self._by_name = {voice.name.lower(): voice for voice in self._voices.values()}
        self._by_name |= {voice.id.lower(): voice for voice in self._voices.values()}
        self._by_tag = _by_tag(entries)
        self._regional = {primary_language(tag) for tag in self._by_tag if _region(tag)}
        self._by_tag |= {alias: self._by_tag[tag] for alias, tag in _ALIASES.items() if tag in self._by_tag}
        self._neighbours = {
            f"{primary_language(tag)}-{region}": self._by_tag[tag]
            for tag, regions in _NEIGHBOURS.items()
            for region in regions.split()
            if tag in self._by_tag
        }

    @property
    def voices(self) -> Sequence[Voice]:
        """All voices, without their variants, in the library's order."""
        return tuple(self._voices.values())

    def resolve(self, request: VoiceRequest) -> VoiceChoice:
        """Decide who speaks; see `Engine.resolve`.

        A language that the library speaks is spoken for every region: by that region's voice, else by another's with a warning.
        """
        tag = canonical_tag(request.lang)
        if request.voice is not None:
            voice = self._named(request.voice)
            return VoiceChoice(voice, voice.language, request.speaker, self._conflict(voice, tag))
        if request.speaker not in _SPEAKERS:
            raise UnknownSpeaker(
                f"Engine '{ENGINE}' has no speaker {request.speaker}. Speakers: 0 (male), 1 (female), 2 (another male), "
                "3 (British female in English, another female in other languages).",
                field="speaker",
            )
        voice, warnings = self._speaking(tag)
        if request.speaker == _BRITISH_SPEAKER and voice.language == _AMERICAN:
            voice = self._by_tag.get(_BRITISH, voice)
        return VoiceChoice(self._vary(voice, _SPEAKERS[request.speaker]), voice.language, request.speaker, warnings)

    def __contains__(self, identifier: str) -> bool:
        """Whether a voice is called so, with or without a variant."""
        base, plus, variant = identifier.partition("+")
        return base in self._voices and (not plus or variant.lower() in self._variants)

    def _speaking(self, tag: str) -> tuple[Voice, tuple[str, ...]]:
        """The voice for `tag`, and what to tell the client about it."""
        language = primary_language(tag)
        exact = self._by_tag.get(tag)
        if exact is not None:
            return exact, ()
        voice = self._neighbours.get(tag)
        if voice is None:
            found = closest_tag(tag, self._by_tag) or closest_tag(language, self._by_tag)
            if found is None:
                raise unsupported(tag, ENGINE, (voice.language for voice in self._voices.values()))
            voice = self._by_tag[found]
            if _region(tag) in {"", _region(found)} or language not in self._regional:
                return voice, ()
        return voice, (f"There is no voice for '{tag}'; '{voice.name}' ({voice.language}) speaks.",)

    def _named(self, name: str) -> Voice:
        base, plus, variant = name.lower().partition("+")
        voice = self._by_name.get(base)
        if voice is not None and (not plus or variant in self._variants):
            return self._vary(voice, variant)
        if voice is not None:
            known = [f"{voice.id}+{variant}" for variant, _ in self._variants.values()]
        else:
            known = [name for voice in self._voices.values() for name in (voice.id, voice.name)]
        by_lower_case = {spelling.lower(): spelling for spelling in known}
        close = difflib.get_close_matches(name.lower()[:_MAX_ECHO], by_lower_case, n=5)
        hint = f"Close to it: {', '.join(by_lower_case[match] for match in close)}." if close else "Ask for the list of voices."
        raise UnknownSpeaker(f"Engine '{ENGINE}' has no voice {name[:_MAX_ECHO]!r}. {hint}", field="voice")

    def _vary(self, voice: Voice, variant: str) -> Voice:
        listed = self._variants.get(variant.lower())
        if listed is None:
            return voice
        name, gender = listed
        return Voice(f"{voice.id}+{name}", f"{voice.name}, {name}", voice.language, gender)

    def _conflict(self, voice: Voice, tag: str) -> tuple[str, ...]:
        if tag == _AMERICAN:  # what a request has that says nothing
            return ()
        try:
            spoken = self._speaking(tag)[0].language
        except UnsupportedLanguage:
            spoken = tag
        if primary_language(spoken) == primary_language(voice.language):
            return ()
        return (f"The voice '{voice.id}' speaks {voice.language}, not '{tag}'.",)


def _entry(line: str) -> _Entry | None:
    """The voice that a line of the listing describes; None for a variant."""
    identifier, name, gender, *pairs = line.split("\t")
    if identifier.startswith("!v/"):
        return None
    languages = []
    for pair in pairs:
        priority, _, tag = pair.partition(":")
        try:
            languages.append((int(priority), canonical_tag(tag)))
        except UnsupportedLanguage:
            continue
    return _Entry(identifier, name.strip(), _GENDERS.get(gender), tuple(languages)) if languages else None


def _variant(line: str) -> tuple[str, Gender | None]:
    """Name and gender of the variant that a line of the listing describes; no name for a voice."""
    identifier, _, gender, *_ = line.split("\t")
    return identifier.removeprefix("!v/") if identifier.startswith("!v/") else "", _GENDERS.get(gender)


def _by_tag(entries: Sequence[_Entry]) -> dict[str, Voice]:
    """The best voice for each tag: the lowest priority number, then the shorter name (`sit/cmn`, not its Latin one)."""
    claims = [
        (tag, (priority, len(entry.identifier), entry.identifier), entry)
        for entry in entries
        for priority, tag in entry.languages
    ]
    claims.sort(key=lambda claim: claim[1])
    best: dict[str, Voice] = {}
    for tag, _, entry in claims:
        best.setdefault(tag, entry.voice)
    return best


def _region(tag: str) -> str:
    """The tag's region (``AU``, ``419``), or nothing."""
    for subtag in tag.split("-")[1:]:
        if (len(subtag) == 2 and subtag.isalpha()) or (len(subtag) == 3 and subtag.isdigit()):
            return subtag
    return ""
