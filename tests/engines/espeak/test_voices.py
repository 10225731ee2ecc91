"""Who speaks, decided on a short list of voices as the library writes it, and on the real one."""

from __future__ import annotations

import pytest

from tests.engines.espeak.listening import loaded
from tts_provider.engines.base import Voice, VoiceRequest
from tts_provider.engines.espeak import EspeakEngine
from tts_provider.engines.espeak.voices import VoiceList
from tts_provider.errors import UnknownSpeaker, UnsupportedLanguage

LISTING = """\
gmw/de\tGerman\t1\t5:de
gmw/en-029\tEnglish (Caribbean)\t1\t5:en-029\t10:en
gmw/en\tEnglish (Great Britain)\t1\t2:en-gb\t2:en
gmw/en-GB-x-rp\tEnglish (Received Pronunciation)\t1\t5:en-gb-x-rp\t4:en-gb\t5:en
gmw/en-US\tEnglish (America)\t1\t2:en-us\t3:en
roa/es\tSpanish (Spain)\t1\t5:es
roa/es-419\tSpanish (Latin America)\t1\t5:es-419\t6:es-mx
roa/fr-BE\tFrench (Belgium)\t1\t5:fr-be\t8:fr
roa/fr\tFrench (France)\t1\t5:fr-fr\t5:fr
sem/he\tHebrew\t1\t5:he
gmq/nb\tNorwegian Bokmål\t1\t5:nb\t5:no
roa/pt\tPortuguese (Portugal)\t1\t5:pt\t5:pt-pt
roa/pt-BR\tPortuguese (Brazil)\t1\t5:pt-br\t6:pt
sit/cmn-Latn-pinyin\tChinese (Mandarin, latin as Pinyin)\t1\t5:cmn-latn-pinyin\t5:zh-cmn\t5:zh
sit/cmn\tChinese (Mandarin, latin as English)\t1\t5:cmn\t5:zh-cmn\t5:zh
sit/yue\tChinese (Cantonese)\t1\t5:yue\t5:zh-yue\t8:zh
!v/f2\tfemale2\t2\t5:variant
!v/f4\tfemale4\t2\t5:variant
!v/m3\tmale3\t1\t5:variant
!v/Mr serious\tMr serious\t1\t5:variant
"""


@pytest.fixture
def voices() -> VoiceList:
    return VoiceList(LISTING.encode())


def test_the_list_holds_voices_and_not_their_variants(voices: VoiceList) -> None:
    assert len(voices.voices) == 16
    assert voices.voices[0] == Voice("gmw/de", "German", "de", "male")
    assert voices.voices[4].language == "en-US"


@pytest.mark.parametrize(
    ("tag", "voice"),
    [
        ("en-US", "gmw/en-US"),
        ("EN_us", "gmw/en-US"),
        ("en-US-posix", "gmw/en-US"),
        ("en", "gmw/en-US"),
        ("english", "gmw/en-US"),
        ("en-GB", "gmw/en"),
        ("en-GB-x-rp", "gmw/en-GB-x-rp"),
        ("en-029", "gmw/en-029"),
        ("de", "gmw/de"),
        ("de-DE", "gmw/de"),
        ("de-AT", "gmw/de"),
        ("de-Latn-CH-1996", "gmw/de"),
        ("es", "roa/es"),
        ("es-ES", "roa/es"),
        ("es-MX", "roa/es-419"),
        ("es-419", "roa/es-419"),
        ("fr", "roa/fr"),
        ("fr-FR", "roa/fr"),
        ("fr-BE", "roa/fr-BE"),
        ("iw", "sem/he"),
        ("he-IL", "sem/he"),
        ("no", "gmq/nb"),
        ("nb-NO", "gmq/nb"),
        ("pt", "roa/pt"),
        ("pt-PT", "roa/pt"),
        ("pt-BR", "roa/pt-BR"),
        ("zh", "sit/cmn"),
        ("cmn", "sit/cmn"),
        ("zh-CN", "sit/cmn"),
        ("zh-Hans-CN", "sit/cmn"),
        ("zh-TW", "sit/cmn"),
        ("zh-HK", "sit/yue"),
        ("zh-Hant-HK", "sit/yue"),
        ("yue", "sit/yue"),
        ("zh-yue", "sit/yue"),
        ("cmn-Latn-pinyin", "sit/cmn-Latn-pinyin"),
    ],
)
def test_a_tag_finds_its_voice(voices: VoiceList, tag: str, voice: str) -> None:
    choice = voices.resolve(VoiceRequest(lang=tag))
    assert choice.voice.id == voice
    assert choice.lang == choice.voice.language
    assert choice.warnings == ()


@pytest.mark.parametrize(
    ("tag", "voice"),
    [
        ("en-AU", "gmw/en"),
        ("en-IN", "gmw/en"),
        ("en-CA", "gmw/en-US"),
        ("en-ZZ", "gmw/en-US"),
        ("es-AR", "roa/es-419"),
        ("fr-CA", "roa/fr"),
        ("pt-AO", "roa/pt"),
    ],
)
def test_a_region_without_a_voice_is_spoken_with_another_accent_and_a_warning(voices: VoiceList, tag: str, voice: str) -> None:
    choice = voices.resolve(VoiceRequest(lang=tag))
    assert choice.voice.id == voice
    [warning] = choice.warnings
    assert tag in warning
    assert choice.voice.name in warning


@pytest.mark.parametrize("tag", ["xx-YY", "ja", "tl-PH"])
def test_a_language_without_a_voice_is_refused_with_the_list(voices: VoiceList, tag: str) -> None:
    with pytest.raises(UnsupportedLanguage, match=r"'espeak' does not speak .*cmn, cmn-Latn-pinyin, de, en-029") as caught:
        voices.resolve(VoiceRequest(lang=tag))
    assert caught.value.field == "lang"


@pytest.mark.parametrize("tag", ["", "e", "en-US'/><x", "en us", "x" * 1000])
def test_what_is_no_tag_is_refused(voices: VoiceList, tag: str) -> None:
    with pytest.raises(UnsupportedLanguage, match="not a language tag"):
        voices.resolve(VoiceRequest(lang=tag))


@pytest.mark.parametrize(
    ("tag", "speakers"),
    [
        ("en-US", ["gmw/en-US", "gmw/en-US+f2", "gmw/en-US+m3", "gmw/en+f4"]),
        ("en-GB", ["gmw/en", "gmw/en+f2", "gmw/en+m3", "gmw/en+f4"]),
        ("de", ["gmw/de", "gmw/de+f2", "gmw/de+m3", "gmw/de+f4"]),
    ],
)
def test_unified_speakers_are_variants_of_the_languages_voice(voices: VoiceList, tag: str, speakers: list[str]) -> None:
    choices = [voices.resolve(VoiceRequest(lang=tag, speaker=speaker)) for speaker in range(4)]
    assert [choice.voice.id for choice in choices] == speakers
    assert [choice.voice.gender for choice in choices] == ["male", "female", "male", "female"]
    assert [choice.speaker for choice in choices] == [0, 1, 2, 3]
    assert choices[3].lang == ("en-GB" if tag.startswith("en") else tag)


@pytest.mark.parametrize("speaker", [-1, 4, 9999])
def test_other_speakers_are_refused_with_the_list(voices: VoiceList, speaker: int) -> None:
    with pytest.raises(UnknownSpeaker, match=r"0 \(male\), 1 \(female\)") as caught:
        voices.resolve(VoiceRequest(speaker=speaker))
    assert caught.value.field == "speaker"


@pytest.mark.parametrize(
    ("name", "voice"),
    [
        ("gmw/de", "gmw/de"),
        ("GMW/DE", "gmw/de"),
        ("German", "gmw/de"),
        ("english (america)", "gmw/en-US"),
        ("gmw/en-us+F2", "gmw/en-US+f2"),
        ("German+mr serious", "gmw/de+Mr serious"),
    ],
)
def test_a_voice_is_found_by_identifier_or_name_with_or_without_a_variant(voices: VoiceList, name: str, voice: str) -> None:
    choice = voices.resolve(VoiceRequest(voice=name, speaker=2))
    assert choice.voice.id == voice
    assert choice.lang == choice.voice.language
    assert voice in voices


@pytest.mark.parametrize(
    "name",
    [
        "",
        "xyz",
        "gmw/en-US+f9",
        "gmw/en-US+",
        "en",
        "../../etc/passwd",
        "gmw/de+../../x",
        "gmw/de\x00",
        "!v/f2",
        "de'/><x",
        "x" * 5000,
    ],
)
def test_only_what_is_listed_is_a_voice(voices: VoiceList, name: str) -> None:
    with pytest.raises(UnknownSpeaker) as caught:
        voices.resolve(VoiceRequest(voice=name))
    assert caught.value.field == "voice"
    assert len(caught.value.message) < 300
    assert caught.value.message.isprintable()
    assert name not in voices


@pytest.mark.parametrize(("name", "close"), [("en-us", "gmw/en-US"), ("Germn", "German"), ("gmw/de+f3", "gmw/de+f2")])
def test_a_misspelt_voice_is_answered_with_close_ones(voices: VoiceList, name: str, close: str) -> None:
    with pytest.raises(UnknownSpeaker, match=close.replace("+", r"\+")):
        voices.resolve(VoiceRequest(voice=name))


@pytest.mark.parametrize(
    ("name", "tag", "warned"),
    [
        ("gmw/de", "de", False),
        ("gmw/de", "de-AT", False),
        ("gmw/de", "en-US", False),  # what a request has that says nothing
        ("gmw/de", "en-GB", True),
        ("gmw/de", "xx", True),
        ("sit/cmn", "zh-CN", False),
        ("sit/cmn", "yue", True),
        ("gmw/en-US", "en-AU", False),
    ],
)
def test_a_voice_wins_over_a_tag(voices: VoiceList, name: str, tag: str, warned: bool) -> None:
    choice = voices.resolve(VoiceRequest(lang=tag, voice=name))
    assert choice.voice.id == name
    assert bool(choice.warnings) is warned


def test_a_speaker_without_its_variant_is_the_plain_voice() -> None:
    voices = VoiceList(b"gmw/de\tGerman\t1\t5:de")
    assert voices.resolve(VoiceRequest(lang="de", speaker=1)).voice.id == "gmw/de"


async def test_the_librarys_own_list_is_understood() -> None:
    async with loaded(EspeakEngine()) as engine:
        voices = engine.voices()
        by_id = {voice.id: voice for voice in voices}
        assert len(by_id) == len(voices) > 100
        assert by_id["gmw/en-US"] == Voice("gmw/en-US", "English (America)", "en-US", "male")
        tags = {voice.language for voice in voices}
        assert len(tags) > 100
        for tag in tags:
            assert engine.resolve(VoiceRequest(lang=tag)).lang == tag
        for speaker in range(4):
            assert "+" in engine.resolve(VoiceRequest(speaker=speaker)).voice.id or speaker == 0
