"""What is taken from edge-tts, pinned; and the messages made of it."""

from __future__ import annotations

import inspect
import re
from urllib.parse import parse_qs, urlsplit

import pytest
from edge_tts import communicate, constants, data_classes, drm, version

from tests.edge_service.wire import parse_config, parse_ssml
from tts_provider.engines.edge import service

GUY = "Microsoft Server Speech Text to Speech Voice (en-US, GuyNeural)"


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (communicate.connect_id, []),
        (communicate.date_to_string, []),
        (communicate.mkssml, ["tc", "escaped_text"]),
        (communicate.remove_incompatible_characters, ["string"]),
        (communicate.ssml_headers_plus_data, ["request_id", "timestamp", "ssml"]),
        (data_classes.TTSConfig, ["voice", "rate", "volume", "pitch", "boundary"]),
        (drm.DRM.generate_sec_ms_gec, []),
        (drm.DRM.headers_with_muid, ["headers"]),
        (drm.DRM.parse_rfc2616_date, ["date"]),
        (drm.DRM.adj_clock_skew_seconds, ["skew_seconds"]),
        (drm.DRM.get_unix_timestamp, []),
    ],
)
def test_the_functions_that_are_used_are_still_there(function: object, parameters: list[str]) -> None:
    assert callable(function)
    assert list(inspect.signature(function).parameters) == parameters


def test_the_constants_that_are_used_are_still_there() -> None:
    assert urlsplit(constants.WSS_URL).scheme == "wss"
    assert urlsplit(constants.VOICE_LIST).scheme == "https"
    assert urlsplit(constants.VOICE_LIST).netloc == urlsplit(constants.WSS_URL).netloc == service.HOST
    assert re.fullmatch(r"\d+-[\d.]+", constants.SEC_MS_GEC_VERSION)
    assert {"Origin", "User-Agent", "Sec-WebSocket-Version"} <= set(constants.WSS_HEADERS)
    assert "User-Agent" in constants.VOICE_HEADERS
    assert version.__version__ == service.EDGE_TTS_VERSION


def test_edge_tts_still_sends_what_is_sent_here() -> None:
    # The two things that stand in the middle of a function there, and so can only be repeated here.
    source = inspect.getsource(communicate.Communicate)
    assert '"Path:speech.config\\r\\n\\r\\n"' in source
    assert '"outputFormat":"audio-24khz-48kbitrate-mono-mp3"' in source
    assert "&ConnectionId={connect_id()}" in source
    assert "&Sec-MS-GEC={DRM.generate_sec_ms_gec()}" in source
    assert "&Sec-MS-GEC-Version={SEC_MS_GEC_VERSION}" in source
    assert "headers=DRM.headers_with_muid(WSS_HEADERS)" in source
    assert "4096" in source


def test_the_handshake_carries_token_version_and_a_new_id_each_time() -> None:
    parts = urlsplit(service.socket_target())
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    assert parts.path == urlsplit(constants.WSS_URL).path
    assert query["TrustedClientToken"] == constants.TRUSTED_CLIENT_TOKEN
    assert query["Sec-MS-GEC"] == drm.DRM.generate_sec_ms_gec()
    assert query["Sec-MS-GEC-Version"] == constants.SEC_MS_GEC_VERSION
    assert re.fullmatch("[0-9a-f]{32}", query["ConnectionId"])
    assert service.socket_target() != service.socket_target()


def test_headers_of_the_handshake() -> None:
    headers = dict(service.socket_headers())
    assert b"Sec-WebSocket-Version" not in headers, "wsproto sends its own"
    assert re.fullmatch(rb"muid=[0-9A-F]{32};", headers[b"Cookie"])
    assert headers[b"Origin"].startswith(b"chrome-extension://")


def test_headers_of_the_voice_list_ask_for_no_compression() -> None:
    headers = service.voices_headers()
    assert [value for name, value in headers if name.lower() == b"accept-encoding"] == [b"identity"]


def test_the_config_asks_for_words() -> None:
    config = parse_config(service.config_message())
    assert (config.words, config.sentences) == (True, False)


def test_the_speech_message_is_the_one_that_edge_sends() -> None:
    message = service.speech_message(GUY, 1.0, service.escaped("Tom & <Jerry>"))
    head, _, body = message.partition("\r\n\r\n")
    assert body == (
        "<speak version='1.0' xmlns='http://www.w3.org/2001/10/synthesis' xml:lang='en-US'>"
        f"<voice name='{GUY}'><prosody pitch='+0Hz' rate='+0%' volume='+0%'>Tom &amp; &lt;Jerry&gt;</prosody></voice></speak>"
    )
    assert [line.partition(":")[0] for line in head.split("\r\n")] == ["X-RequestId", "Content-Type", "X-Timestamp", "Path"]
    assert parse_ssml(message).text == "Tom & <Jerry>"


@pytest.mark.parametrize(
    ("speed", "rate"),
    [(1, "+0%"), (1.25, "+25%"), (2, "+100%"), (3, "+200%"), (4, "+200%"), (0.5, "-50%"), (0.25, "-50%"), (0.999, "+0%")],
)
def test_speed_becomes_a_rate_that_the_service_honours(speed: float, rate: str) -> None:
    assert f"rate='{rate}'" in service.speech_message(GUY, speed, "Hello")


def test_cleaning_replaces_one_for_one() -> None:
    everything = "".join(map(chr, range(0x250))) + "你🎉"
    cleaned = service.cleaned(everything)
    assert len(cleaned) == len(everything)
    assert cleaned[0x20:] == everything[0x20:]
    assert cleaned[0x0B] == " ", "the vertical tab of scanned books"


def test_the_clock_is_corrected_once_however_often_it_is_told() -> None:
    before = drm.DRM.get_unix_timestamp()
    date = "Fri, 01 Jan 2100 00:00:00 GMT"
    assert service.correct_clock(date)
    assert service.correct_clock(date)
    assert drm.DRM.get_unix_timestamp() == pytest.approx(4102444800, abs=2)
    assert before < 4102444800


@pytest.mark.parametrize("date", [None, "", "yesterday", "Fri, 99 Jan 2100 00:00:00 GMT"])
def test_no_date_corrects_nothing(date: str | None) -> None:
    assert not service.correct_clock(date)
    assert drm.DRM.clock_skew_seconds == 0


def test_seconds_until_a_date() -> None:
    distant = service.seconds_until("Fri, 01 Jan 2100 00:00:00 GMT")
    assert distant is not None
    assert distant > 1e9
    assert service.seconds_until("soon") is None
