"""IETF language tags."""

from __future__ import annotations

import pytest

from tts_provider.engines.languages import canonical_tag, closest_tag, unsupported
from tts_provider.errors import UnsupportedLanguage


@pytest.mark.parametrize(
    ("tag", "canonical"),
    [
        ("en-US", "en-US"),
        ("EN_us", "en-US"),
        ("zh-hant-tw", "zh-Hant-TW"),
        ("es-419", "es-419"),
        ("english", "en"),
        ("Japanese", "ja"),
        ("Portuguese", "pt"),
        ("EN-gb-X-rp", "en-GB-x-rp"),
        ("iu-cans-ca", "iu-Cans-CA"),
        ("zh-CN-LIAONING", "zh-CN-liaoning"),
    ],
)
def test_tags_are_brought_to_their_usual_capitals(tag: str, canonical: str) -> None:
    assert canonical_tag(tag) == canonical


@pytest.mark.parametrize(
    "tag", ["", "e", "en-", "-en", "en US", "en-US'/><x", "12", "ёё", "a" * 9, "en" + "-us" * 20, "en-US\n"]
)
def test_what_is_no_tag_is_refused(tag: str) -> None:
    with pytest.raises(UnsupportedLanguage) as caught:
        canonical_tag(tag)
    assert caught.value.field == "lang"


@pytest.mark.parametrize(
    ("tag", "available", "served_by"),
    [
        ("en-US", ["en-GB", "en-US"], "en-US"),
        ("en-US-posix", ["en-US"], "en-US"),
        ("en-AU", ["en"], "en"),
        ("en", ["fr-FR", "en-GB", "en-US"], "en-US"),
        ("en-ZZ", ["en-US"], None),
        ("es-419", ["es-ES"], None),
        ("pt", ["pt-PT", "pt-BR"], "pt-PT"),
        ("zh-Hant", ["zh-TW"], "zh-TW"),
        ("xx", ["en-US"], None),
    ],
)
def test_the_closest_tag_never_crosses_a_region(tag: str, available: list[str], served_by: str | None) -> None:
    assert closest_tag(tag, available, {"en": "en-US"}) == served_by


def test_the_error_lists_what_is_supported() -> None:
    error = unsupported("xx-YY", "fake", ["ja-JP", "en-US", "en-US"])
    assert "'xx-YY'" in error.message
    assert "en-US, ja-JP." in error.message
