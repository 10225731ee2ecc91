"""IETF tags and the 109 codes of the checkpoint."""

from __future__ import annotations

import hashlib

import pytest

from tts_provider.engines.zonos.languages import CODES, code_of, spoken_tag, supported_tags
from tts_provider.errors import UnsupportedLanguage

EXPECTED = {
    "en": "en-us",
    "english": "en-us",
    "en-US": "en-us",
    "en_us": "en-us",
    "en-GB": "en-gb",
    "en-GB-scotland": "en-gb-scotland",
    "en-gb-x-rp": "en-gb-x-rp",
    "ja": "ja",
    "japanese": "ja",
    "ja-JP": "ja",
    "zh": "cmn",
    "zh-CN": "cmn",
    "zh-TW": "cmn",
    "zh-Hant-HK": "yue",
    "zh-HK": "yue",
    "cmn": "cmn",
    "fr": "fr-fr",
    "french": "fr-fr",
    "fr-FR": "fr-fr",
    "fr-CA": "fr-fr",
    "fr-BE": "fr-be",
    "fr-CH": "fr-ch",
    "de": "de",
    "de-AT": "de",
    "german": "de",
    "es": "es",
    "es-ES": "es",
    "es-MX": "es-419",
    "es-AR": "es-419",
    "es-419": "es-419",
    "pt": "pt",
    "pt-PT": "pt",
    "pt-BR": "pt-br",
    "ko-KR": "ko",
    "ru-RU": "ru",
    "it-IT": "it",
    "hi-IN": "hi",
    "nl-BE": "nl",
    "pl-PL": "pl",
    "tr-TR": "tr",
    "ar-EG": "ar",
    "vi-VN": "vi-vn-x-south",
    "vi": "vi-vn-x-south",
    "no": "nb",
    "nb-NO": "nb",
    "fa-IR": "fa",
    "fa-Latn": "fa-latn",
    "sr-Latn": "sr",
}


def test_the_codes_are_frozen() -> None:
    """109 of them in the checkpoint's order; a place in the list is a row of the checkpoint."""
    assert len(CODES) == len(set(CODES)) == 109
    assert (CODES.index("en-us"), CODES.index("ja"), CODES.index("yue")) == (24, 52, 108)
    assert (
        hashlib.sha256(" ".join(CODES).encode()).hexdigest()
        == "80ba30dbff052a5279e1c1494feb1955a05745e6f44c44ac466636057cc87ca6"
    )


@pytest.mark.parametrize("tag", EXPECTED)
def test_a_tag_leads_to_its_code(tag: str) -> None:
    """As clients write them, those of the replaced server included."""
    assert code_of(spoken_tag(tag)[0]) == EXPECTED[tag]


def test_every_supported_tag_is_spoken_as_itself() -> None:
    """The list that an error shows holds nothing that would fail."""
    for tag in supported_tags():
        assert spoken_tag(tag) == (tag, None)
        assert code_of(tag) in CODES


@pytest.mark.parametrize("tag", ["uk", "he", "th", "en-ZZ", "fr-ZZ", "nn", "klingon"])
def test_what_is_not_spoken_is_refused_with_the_list(tag: str) -> None:
    """Rather than spoken as something else."""
    with pytest.raises(UnsupportedLanguage, match=r"Supported languages: .*en-GB.*fr-FR"):
        spoken_tag(tag)


@pytest.mark.parametrize("tag", ["en-AU", "fr-CA", "es-AR"])
def test_a_neighbours_accent_is_told(tag: str) -> None:
    """The warning names both."""
    spoken, warning = spoken_tag(tag)
    assert warning is not None
    assert tag in warning
    assert spoken in warning
