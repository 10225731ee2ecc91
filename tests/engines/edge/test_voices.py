"""Who speaks."""

from __future__ import annotations

import pytest
from edge_tts.data_classes import TTSConfig

from tts_provider.engines.base import VoiceChoice, VoiceRequest
from tts_provider.engines.edge.snapshot import SUBSTITUTES, snapshot
from tts_provider.engines.edge.voices import Catalogue, ListedVoice, listed
from tts_provider.errors import UnknownSpeaker, UnsupportedLanguage

CATALOGUE = Catalogue()


def without(*names: str) -> Catalogue:
    """The catalogue after some voices were withdrawn."""
    voices = [listed(id_, full(id_, locale), locale, gender) for locale, id_, gender in snapshot() if id_ not in names]
    return Catalogue([voice for voice in voices if voice is not None])


def full(id_: str, locale: str) -> str:
    return f"Microsoft Server Speech Text to Speech Voice ({locale}, {id_.removeprefix(locale + '-')})"


def resolve(lang: str = "en-US", speaker: int = 0, voice: str | None = None) -> VoiceChoice:
    return CATALOGUE.resolve(VoiceRequest(lang, speaker, voice))


def test_the_snapshot_has_every_voice_and_locale() -> None:
    voices = CATALOGUE.voices
    assert len(voices) == len({voice.id for voice in voices}) == 322
    assert len({voice.language for voice in voices}) == 142
    assert len({voice.language.partition("-")[0] for voice in voices}) == 75
    assert {voice.gender for voice in voices} == {"female", "male"}


def test_the_seventeen_american_voices() -> None:
    names = {voice.id.removeprefix("en-US-").removesuffix("Neural") for voice in CATALOGUE.voices if voice.language == "en-US"}
    plain = "Ana Andrew Aria Ava Brian Christopher Emma Eric Guy Jenny Michelle Roger Steffan"
    assert names == set(plain.split()) | {f"{name}Multilingual" for name in ("Andrew", "Ava", "Brian", "Emma")}


def test_full_names_are_those_that_edge_tts_would_send() -> None:
    for voice in CATALOGUE.voices:
        name = CATALOGUE.full_name(voice)
        if voice.language.startswith("iu-"):  # edge-tts refuses these four by their short names
            assert name == full(voice.id, voice.language)
        else:
            assert name == TTSConfig(voice.id, "+0%", "+0%", "+0Hz", "WordBoundary").voice
        assert TTSConfig(name, "+0%", "+0%", "+0Hz", "WordBoundary").voice == name


def test_voices_have_names_for_people() -> None:
    names = {voice.id: voice.name for voice in CATALOGUE.voices}
    assert names["en-US-AndrewMultilingualNeural"] == "Andrew Multilingual"
    assert names["en-IN-NeerjaExpressiveNeural"] == "Neerja Expressive"
    assert names["vi-VN-HoaiMyNeural"] == "HoaiMy"
    assert names["zh-CN-liaoning-XiaobeiNeural"] == "Xiaobei"


@pytest.mark.parametrize(
    ("lang", "speaker", "voice"),
    [
        ("en-US", 0, "en-US-GuyNeural"),
        ("en-US", 1, "en-US-JennyNeural"),
        ("en-US", 2, "en-US-ChristopherNeural"),
        ("en-US", 3, "en-GB-SoniaNeural"),
        ("en", 0, "en-US-GuyNeural"),
        ("english", 1, "en-US-JennyNeural"),
        ("EN_us", 0, "en-US-GuyNeural"),
        ("en-US-posix", 0, "en-US-GuyNeural"),
        ("en-GB", 0, "en-GB-RyanNeural"),
        ("en-GB", 1, "en-GB-LibbyNeural"),
        ("en-GB", 2, "en-GB-ThomasNeural"),
        ("en-GB", 3, "en-GB-SoniaNeural"),
        ("en-UK", 3, "en-GB-SoniaNeural"),
        ("en-AU", 0, "en-AU-WilliamMultilingualNeural"),
        ("en-IN", 1, "en-IN-NeerjaNeural"),
        ("en-IN", 3, "en-IN-NeerjaExpressiveNeural"),
        ("ja", 0, "ja-JP-KeitaNeural"),
        ("ja-JP", 1, "ja-JP-NanamiNeural"),
        ("ja-JP", 2, "ja-JP-KeitaNeural"),
        ("ja-JP", 3, "ja-JP-NanamiNeural"),
        ("de", 2, "de-DE-KillianNeural"),
        ("fr", 1, "fr-FR-DeniseNeural"),
        ("pt", 0, "pt-BR-AntonioNeural"),
        ("pt-PT", 0, "pt-PT-DuarteNeural"),
        ("zh", 1, "zh-CN-XiaoxiaoNeural"),
        ("zh-CN-liaoning", 1, "zh-CN-liaoning-XiaobeiNeural"),
        ("zh-Hans", 0, "zh-CN-YunxiNeural"),
        ("zh-Hant", 1, "zh-TW-HsiaoChenNeural"),
        ("zh-Hant-TW", 0, "zh-TW-YunJheNeural"),
        ("zh-Hant-HK", 0, "zh-HK-WanLungNeural"),
        ("yue", 1, "zh-HK-HiuMaanNeural"),
        ("yue-Hant-HK", 1, "zh-HK-HiuMaanNeural"),
        ("Mandarin", 1, "zh-CN-XiaoxiaoNeural"),
        ("es", 0, "es-ES-AlvaroNeural"),
        ("es-419", 0, "es-MX-JorgeNeural"),
        ("ar", 0, "ar-EG-ShakirNeural"),
        ("no", 0, "nb-NO-FinnNeural"),
        ("no-NO", 1, "nb-NO-PernilleNeural"),
        ("tl", 1, "fil-PH-BlessicaNeural"),
        ("sr-Latn-RS", 1, "sr-RS-SophieNeural"),
        ("iu", 0, "iu-Cans-CA-TaqqiqNeural"),
        ("iu-Latn-CA", 1, "iu-Latn-CA-SiqiniqNeural"),
        ("cy", 1, "cy-GB-NiaNeural"),
    ],
)
def test_speakers(lang: str, speaker: int, voice: str) -> None:
    choice = resolve(lang, speaker)
    assert choice.voice.id == voice
    assert choice.lang == choice.voice.language
    assert choice.speaker == speaker
    assert not choice.warnings or (lang, speaker) == ("en-US", 2)


def test_every_locale_has_four_speakers_of_the_right_gender_or_says_so() -> None:
    for locale in {voice.language for voice in CATALOGUE.voices}:
        for speaker in range(4):
            choice = resolve(locale, speaker)
            right = choice.voice.gender == ("female" if speaker % 2 else "male")
            assert right or "speaks instead" in choice.warnings[0]
            assert choice.voice.language == locale or (locale, speaker) == ("en-US", 3)
            assert not choice.voice.id.endswith(("-AnaNeural", "-MaisieNeural", "-EloiseNeural")), "a child"


def test_a_locale_without_men_says_so() -> None:
    choice = resolve("zh-CN-shaanxi", 0)
    assert choice.voice.id == "zh-CN-shaanxi-XiaoniNeural"
    assert choice.warnings == ("Edge has no male voice for zh-CN-shaanxi; 'zh-CN-shaanxi-XiaoniNeural' speaks instead.",)


def test_davis_is_withdrawn_and_an_american_man_speaks_instead() -> None:
    choice = resolve("en-US", 2)
    assert (choice.voice.gender, choice.voice.language) == ("male", "en-US")
    assert choice.voice.id != resolve("en-US", 0).voice.id
    assert choice.warnings == (
        "Edge does not have the voice 'en-US-DavisNeural' any more; 'en-US-ChristopherNeural' speaks instead.",
    )


def test_davis_speaks_again_should_he_come_back() -> None:
    davis = listed("en-US-DavisNeural", full("en-US-DavisNeural", "en-US"), "en-US", "male")
    assert davis is not None
    catalogue = Catalogue([*(ListedVoice(voice, CATALOGUE.full_name(voice)) for voice in CATALOGUE.voices), davis])
    choice = catalogue.resolve(VoiceRequest("en-US", 2))
    assert (choice.voice.id, choice.warnings) == ("en-US-DavisNeural", ())


@pytest.mark.parametrize(("withdrawn", "substitute"), SUBSTITUTES.items())
def test_substitutes_are_on_the_list_and_of_the_same_locale_and_gender(withdrawn: str, substitute: str) -> None:
    choice = resolve(voice=withdrawn)
    assert choice.voice.id == substitute
    assert choice.voice.language == withdrawn.rpartition("-")[0]
    assert withdrawn in choice.warnings[0]
    assert substitute in choice.warnings[0]


def test_a_voice_withdrawn_since_the_snapshot_is_replaced_in_its_locale_and_gender() -> None:
    catalogue = without("en-US-GuyNeural", "ko-KR-SunHiNeural", "zh-CN-shaanxi-XiaoniNeural")
    choice = catalogue.resolve(VoiceRequest("en-US", 0))
    assert choice.voice.id == "en-US-ChristopherNeural"
    assert "'en-US-GuyNeural' any more" in choice.warnings[0]
    with pytest.raises(UnknownSpeaker):
        catalogue.resolve(VoiceRequest(voice="ko-KR-SunHiNeural"))
    assert catalogue.resolve(VoiceRequest("zh-CN-shaanxi", 1)).lang == "zh-CN", "its dialect went with its only voice"


def test_a_substitute_that_was_withdrawn_too_is_replaced_in_turn() -> None:
    choice = without("en-US-ChristopherNeural").resolve(VoiceRequest("en-US", 2))
    assert choice.voice.id == "en-US-GuyNeural"
    assert "en-US-DavisNeural" in choice.warnings[0]


def test_new_voices_come_after_those_that_are_known() -> None:
    new = listed("ja-JP-AoiNeural", full("ja-JP-AoiNeural", "ja-JP"), "ja-JP", "female")
    assert new is not None
    catalogue = Catalogue([new, *(ListedVoice(voice, CATALOGUE.full_name(voice)) for voice in CATALOGUE.voices)])
    assert catalogue.resolve(VoiceRequest("ja", 1)).voice.id == "ja-JP-NanamiNeural"
    assert catalogue.resolve(VoiceRequest("ja", 3)).voice.id == "ja-JP-AoiNeural"


# ------------------------------------------------------------------------------------------------------------ by name


def test_a_voice_is_found_by_its_short_name_in_any_capitals() -> None:
    assert resolve(voice="DE-de-katjaNEURAL").voice.id == "de-DE-KatjaNeural"


def test_a_voice_wins_over_speaker_and_language() -> None:
    choice = resolve("fr-FR", 0, "de-DE-KatjaNeural")
    assert (choice.voice.id, choice.lang) == ("de-DE-KatjaNeural", "de-DE")
    assert choice.warnings == ("Voice 'de-DE-KatjaNeural' speaks de-DE, not fr-FR.",)


def test_nothing_is_said_about_a_language_that_nobody_asked_for() -> None:
    assert resolve(voice="de-DE-KatjaNeural").warnings == ()
    assert resolve("de-AT", voice="de-DE-KatjaNeural").warnings == ()


def test_a_multilingual_voice_speaks_what_is_asked_for() -> None:
    choice = resolve("fr", voice="de-DE-SeraphinaMultilingualNeural")
    assert (choice.voice.id, choice.lang, choice.warnings) == ("de-DE-SeraphinaMultilingualNeural", "fr", ())
    with pytest.raises(UnsupportedLanguage):
        resolve("xx-YY", voice="de-DE-SeraphinaMultilingualNeural")


@pytest.mark.parametrize("voice", ["iu-Cans-CA-SiqiniqNeural", "iu-Latn-CA-TaqqiqNeural", "zh-CN-liaoning-XiaobeiNeural"])
def test_voices_with_unusual_names(voice: str) -> None:
    assert resolve(voice=voice).voice.id == voice


@pytest.mark.parametrize(
    ("voice", "matches"),
    [
        ("Guy", ["en-US-GuyNeural"]),
        ("en-US-GuyNeurl", ["en-US-GuyNeural"]),
        ("sonia", ["en-GB-SoniaNeural"]),
        ("ja-JP-Nanami", ["ja-JP-NanamiNeural"]),
        ("en-US-Jeny", ["en-US-JennyNeural"]),
    ],
)
def test_an_unknown_voice_is_answered_with_those_that_are_close(voice: str, matches: list[str]) -> None:
    with pytest.raises(UnknownSpeaker) as caught:
        resolve(voice=voice)
    assert caught.value.field == "voice"
    assert f"'{voice}'" in caught.value.message
    assert all(match in caught.value.message for match in matches)


@pytest.mark.parametrize(
    "voice",
    [
        "",
        "alloy",
        "en-US-GuyNeural' /><voice name='x",
        "en-US-GuyNeural' /></voice><voice name='xNeural",
        "en-US-GuyNeural\n",
        "Microsoft Server Speech Text to Speech Voice (a, b)'><x y='(c,d)",
        "../../etc/passwd",
        "x" * 5000,
        "en-US-Guy\u212aNeural",
    ],
)
def test_what_is_no_voice_is_unknown_and_not_repeated_unless_harmless(voice: str) -> None:
    with pytest.raises(UnknownSpeaker) as caught:
        resolve(voice=voice)
    assert "en-US-GuyNeural'" in caught.value.message
    for fragment in ("<", "etc", "xxxxx", "\n", "\u212a"):
        assert fragment not in caught.value.message


@pytest.mark.parametrize("speaker", [-1, 4, 10_000])
def test_other_speakers_are_unknown(speaker: int) -> None:
    with pytest.raises(UnknownSpeaker, match=r"0 \(US male\)") as caught:
        resolve(speaker=speaker)
    assert caught.value.field == "speaker"


@pytest.mark.parametrize("lang", ["xx", "xx-YY", "en-ZZ", "la", "zh-MO"])
def test_other_languages_are_not_supported_and_the_answer_lists_those_that_are(lang: str) -> None:
    with pytest.raises(UnsupportedLanguage, match="cy-GB") as caught:
        resolve(lang)
    assert f"'{lang}'" in caught.value.message


@pytest.mark.parametrize("lang", ["", "en-US'/><x", "x" * 1000, "e"])
@pytest.mark.parametrize("voice", [None, "en-US-GuyNeural"])
def test_what_is_no_language_at_all_is_refused(lang: str, voice: str | None) -> None:
    with pytest.raises(UnsupportedLanguage):
        resolve(lang, voice=voice)


@pytest.mark.parametrize(
    ("short_name", "full_name"),
    [
        ("en-US-XNeural", "Microsoft Server Speech Text to Speech Voice (a, b)'><x y='(c,d)"),
        ("en-US-XNeural", "Microsoft Server Speech Text to Speech Voice (en-US, XNeural)\n"),
        ("en-US-X'Neural", "Microsoft Server Speech Text to Speech Voice (en-US, XNeural)"),
        ("", ""),
    ],
)
def test_a_list_cannot_bring_a_name_that_is_no_name(short_name: str, full_name: str) -> None:
    assert listed(short_name, full_name, "en-US", "male") is None


def test_a_choice_made_before_its_voice_was_withdrawn_is_told_so() -> None:
    choice = resolve("ja", 0)
    with pytest.raises(UnknownSpeaker, match="any more"):
        without("ja-JP-KeitaNeural").full_name(choice.voice)
