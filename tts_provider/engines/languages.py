"""IETF language tags: read as clients write them, and matched against what an engine speaks (BCP 47, RFC 4647)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from tts_provider.errors import UnsupportedLanguage

__all__ = ["canonical_tag", "closest_tag", "primary_language", "unsupported"]

MAX_TAG_LENGTH: Final = 35
"""Characters; RFC 5646 section 4.4.1 asks for at least 35."""

_SUBTAGS: Final = re.compile(r"[A-Za-z]{2,8}(?:-[A-Za-z0-9]{1,8})*", re.ASCII)

_NAMES: Final = {
    "arabic": "ar",
    "cantonese": "yue",
    "chinese": "zh",
    "dutch": "nl",
    "english": "en",
    "french": "fr",
    "german": "de",
    "hindi": "hi",
    "italian": "it",
    "japanese": "ja",
    "korean": "ko",
    "mandarin": "zh",
    "polish": "pl",
    "portuguese": "pt",
    "russian": "ru",
    "spanish": "es",
    "turkish": "tr",
    "vietnamese": "vi",
}
"""Names that the replaced server accepted beside tags."""


def canonical_tag(tag: str) -> str:
    """The tag in its usual capitals: ``EN_us`` → ``en-US``, ``zh-hant-tw`` → ``zh-Hant-TW``, ``english`` → ``en``.

    Raises:
        UnsupportedLanguage: it is no language tag at all.
    """
    plain = _NAMES.get(tag.lower(), tag.replace("_", "-"))
    if len(plain) > MAX_TAG_LENGTH or not _SUBTAGS.fullmatch(plain):
        raise UnsupportedLanguage("'lang' is not a language tag. Send an IETF tag such as 'en-US' or 'ja-JP'.", field="lang")
    language, *rest = plain.lower().split("-")
    private = rest.index("x") if "x" in rest else len(rest)
    return "-".join([language, *map(_capitals, rest[:private]), *rest[private:]])


def _capitals(subtag: str) -> str:
    if len(subtag) == 2 and subtag.isalpha():
        return subtag.upper()  # a region
    if len(subtag) == 4 and subtag.isalpha():
        return subtag.title()  # a script
    return subtag


def primary_language(tag: str) -> str:
    """The first subtag: ``en`` of ``en-US``."""
    return tag.partition("-")[0]


def closest_tag(tag: str, available: Iterable[str], preferred: Mapping[str, str] | None = None) -> str | None:
    """The available tag that serves `tag` (canonical), or None.

    In this order: the tag itself; the tag shortened from its end (RFC 4647 lookup: ``en-US-posix`` is served by ``en-US``,
    then by ``en``); when `tag` names no region, `preferred` for its language, else the first available tag of that language.
    A tag that names a region is never served by another region: ``en-ZZ`` is not ``en-US``.
    """
    tags = {known.lower(): known for known in available}
    subtags = tag.lower().split("-")
    for length in range(len(subtags), 0, -1):
        found = tags.get("-".join(subtags[:length]))
        if found is not None:
            return found
    if any(_is_region(subtag) for subtag in subtags[1:]):
        return None
    wanted = (preferred or {}).get(subtags[0])
    if wanted is not None and wanted.lower() in tags:
        return tags[wanted.lower()]
    return next((known for lower, known in tags.items() if primary_language(lower) == subtags[0]), None)


def _is_region(subtag: str) -> bool:
    return (len(subtag) == 2 and subtag.isalpha()) or (len(subtag) == 3 and subtag.isdigit())


def unsupported(tag: str, engine: str, available: Iterable[str]) -> UnsupportedLanguage:
    """The error for a well-formed tag that `engine` does not speak, listing what it does."""
    return UnsupportedLanguage(
        f"Engine '{engine}' does not speak '{tag}'. Supported languages: {', '.join(sorted(set(available)))}.", field="lang"
    )
