"""The languages that Zonos speaks: its 109 espeak-ng codes, frozen, and the IETF tags that lead to them.

A code's place in `CODES` is its row in the checkpoint, so the list must never change. All of them are voices of espeak-ng 1.52.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from tts_provider.engines.languages import canonical_tag, closest_tag, unsupported

__all__ = ["CODES", "code_of", "spoken_tag", "supported_tags"]

_CODE_TABLE: Final = """
af am an ar as az ba bg bn bpy bs ca cmn cs cy da de el en-029 en-gb en-gb-scotland en-gb-x-gbclan en-gb-x-gbcwmd en-gb-x-rp
en-us eo es es-419 et eu fa fa-latn fi fr-be fr-ch fr-fr ga gd gn grc gu hak hi hr ht hu hy hyw ia id is it ja jbo ka kk kl kn
ko kok ku ky la lfn lt lv mi mk ml mr ms mt my nb nci ne nl om or pa pap pl pt pt-br py quc ro ru ru-lv sd shn si sk sl sq sr
sv sw ta te tn tr tt ur uz vi vi-vn-x-central vi-vn-x-south yue
"""

CODES: Final[Sequence[str]] = tuple(_CODE_TABLE.split())

_TAGS: Final[Mapping[str, str]] = {
    **{canonical_tag(code): code for code in CODES},
    "en": "en-us",
    "es-MX": "es-419",
    "es-US": "es-419",
    "fr": "fr-fr",
    "no": "nb",
    "pt-PT": "pt",
    # The southern voice, as in the replaced server; "vi-VN-x-central" names the other one.
    "vi": "vi-vn-x-south",
    "vi-VN": "vi-vn-x-south",
    "zh": "cmn",
    "zh-HK": "yue",
    "zh-Hant-HK": "yue",
    "zh-MO": "yue",
    "zh-yue": "yue",
}
"""Tags to codes. A tag with a region that is not here falls back to its language's, if that has no region of its own."""

_NEIGHBOURS: Final[Mapping[str, str]] = {
    "en-AU": "en-GB",
    "en-CA": "en-US",
    "en-IE": "en-GB",
    "en-IN": "en-GB",
    "en-NZ": "en-GB",
    "en-ZA": "en-GB",
    "es-AR": "es-419",
    "es-CL": "es-419",
    "es-CO": "es-419",
    "es-PE": "es-419",
    "es-VE": "es-419",
    "fr-CA": "fr-FR",
    "fr-LU": "fr-FR",
}
"""Regions spoken with a neighbour's accent, with a warning; the replaced server did so in silence."""

_REGIONAL: Final = frozenset({"en", "fr"})
"""Languages whose accents are told apart: one that is not listed is refused, rather than spoken with another."""


def spoken_tag(tag: str) -> tuple[str, str | None]:
    """The tag that will be spoken for `tag`, and a sentence for the client if that is another accent.

    Raises:
        UnsupportedLanguage: the message lists what is supported.
    """
    asked = canonical_tag(tag)
    neighbour = _NEIGHBOURS.get(asked)
    if neighbour is not None:
        return neighbour, f"Zonos does not speak '{asked}'; '{neighbour}' is spoken instead."
    tags = [known for known in _TAGS if not ("-" in asked and known in _REGIONAL)]
    spoken = closest_tag(asked, tags)
    if spoken is None:
        raise unsupported(asked, "zonos", supported_tags())
    return spoken, None


def code_of(tag: str) -> str:
    """The espeak-ng code of a tag that `spoken_tag` gave."""
    return _TAGS[tag]


def supported_tags() -> Sequence[str]:
    """All tags, in order."""
    return sorted(_TAGS)
