"""The list of voices in the service's own form."""

from __future__ import annotations

from functools import cache
from typing import Any

from tts_provider.engines.edge.snapshot import snapshot

__all__ = ["full_name", "voice_list", "voice_names"]


def full_name(short_name: str, locale: str) -> str:
    """The name that SSML needs: ``Microsoft Server Speech Text to Speech Voice (en-US, GuyNeural)``."""
    return f"Microsoft Server Speech Text to Speech Voice ({locale}, {short_name.removeprefix(locale + '-')})"


def voice_list(withdrawn: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
    """What ``voices/list`` answers, without the `withdrawn` short names; sorted by name as the service sorts it."""
    return [
        {
            "Name": full_name(short_name, locale),
            "ShortName": short_name,
            "Gender": gender.title(),
            "Locale": locale,
            "SuggestedCodec": "audio-24khz-48kbitrate-mono-mp3",
            "FriendlyName": f"Microsoft {short_name.removeprefix(locale + '-').removesuffix('Neural')} Online (Natural)",
            "Status": "GA",
            "VoiceTag": {"ContentCategories": ["General"], "VoicePersonalities": ["Friendly", "Positive"]},
        }
        for locale, short_name, gender in sorted(snapshot(), key=lambda voice: voice[1])
        if short_name not in withdrawn
    ]


@cache
def voice_names(withdrawn: frozenset[str]) -> frozenset[str]:
    """The full names on the list."""
    return frozenset(voice["Name"] for voice in voice_list(withdrawn))
