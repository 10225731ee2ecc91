"""Everything that Microsoft changes now and then, taken from edge-tts; and the messages that the engine sends.

Importing this module imports edge-tts and with it aiohttp (half a second), so only `EdgeEngine.run` does. Nothing of edge-tts
is copied: when the service changes its address, its token or its headers, upgrading that package is the repair. What is
imported is pinned by a test.
"""

from __future__ import annotations

import time
from typing import Final
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

from edge_tts.communicate import (
    connect_id,
    date_to_string,
    mkssml,
    remove_incompatible_characters,
    ssml_headers_plus_data,
)
from edge_tts.constants import SEC_MS_GEC_VERSION, VOICE_HEADERS, VOICE_LIST, WSS_HEADERS, WSS_URL
from edge_tts.data_classes import TTSConfig
from edge_tts.drm import DRM
from edge_tts.version import __version__ as EDGE_TTS_VERSION

__all__ = [
    "EDGE_TTS_VERSION",
    "HOST",
    "cleaned",
    "config_message",
    "correct_clock",
    "escaped",
    "socket_headers",
    "socket_target",
    "speech_message",
    "voices_headers",
    "voices_target",
]

Headers = list[tuple[bytes, bytes]]

HOST: Final = urlsplit(WSS_URL).netloc
"""Host of the service, with its port where that is not 443."""

_OUTPUT_FORMAT: Final = "audio-24khz-48kbitrate-mono-mp3"
"""The one format that Edge itself asks for, and that the service gives everyone."""
_SLOWEST_PERCENT: Final = -50
_FASTEST_PERCENT: Final = 200
"""Rates beyond these change nothing at the service, by reports of others; some see the end already at +100."""


def socket_target() -> str:
    """Path and query of a WebSocket handshake that starts now; the token in it ages in about five minutes."""
    return _target(f"{WSS_URL}&ConnectionId={connect_id()}")


def voices_target() -> str:
    """Path and query of the list of voices."""
    return _target(VOICE_LIST)


def _target(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}&Sec-MS-GEC={DRM.generate_sec_ms_gec()}&Sec-MS-GEC-Version={SEC_MS_GEC_VERSION}"


def socket_headers() -> Headers:
    """Headers of a handshake, without those that the WebSocket library sends itself."""
    return _headers(WSS_HEADERS, without="sec-websocket-version")


def voices_headers() -> Headers:
    """Headers of the request for the list of voices; asks for it uncompressed."""
    return [*_headers(VOICE_HEADERS, without="accept-encoding"), (b"Accept-Encoding", b"identity")]


def _headers(headers: dict[str, str], *, without: str) -> Headers:
    with_muid = DRM.headers_with_muid(headers)
    return [(name.encode(), value.encode()) for name, value in with_muid.items() if name.lower() != without]


def config_message() -> str:
    """The first message of a turn: which audio, and that words shall be marked."""
    return (
        f"X-Timestamp:{date_to_string()}\r\n"
        "Content-Type:application/json; charset=utf-8\r\n"
        "Path:speech.config\r\n\r\n"
        '{"context":{"synthesis":{"audio":{"metadataoptions":'
        '{"sentenceBoundaryEnabled":"false","wordBoundaryEnabled":"true"},'
        f'"outputFormat":"{_OUTPUT_FORMAT}"}}}}}}}}\r\n'
    )


def speech_message(voice: str, speed: float, text: str) -> str:
    """The second message of a turn: who says what.

    Args:
        voice: the full name of a listed voice. It goes into the SSML as it is.
        speed: 1.0 is the voice's own rate; held within what the service honours.
        text: escaped by `escaped`.
    """
    percent = min(max(round((speed - 1) * 100), _SLOWEST_PERCENT), _FASTEST_PERCENT)
    config = TTSConfig(voice, f"{percent:+d}%", "+0%", "+0Hz", "WordBoundary")
    return ssml_headers_plus_data(connect_id(), date_to_string(), mkssml(config, text))


def cleaned(text: str) -> str:
    """`text` with the characters that the service cannot take replaced by spaces, one for one."""
    return remove_incompatible_characters(text)


def escaped(text: str) -> str:
    """`text` as XML content."""
    return escape(text)


def correct_clock(date: str | None) -> bool:
    """Take the time from a Date header of the service for the tokens to come; returns whether it could be read."""
    told = None if date is None else DRM.parse_rfc2616_date(date)
    if told is None:
        return False
    DRM.adj_clock_skew_seconds(told - DRM.get_unix_timestamp())
    return True


def seconds_until(date: str) -> float | None:
    """Seconds from now to an HTTP date; None when it cannot be read."""
    told = DRM.parse_rfc2616_date(date)
    return None if told is None else told - time.time()
