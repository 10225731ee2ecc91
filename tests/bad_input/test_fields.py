"""Rows 25 to 52: speakers, sample rates, models, languages, and fields that nobody knows."""

from __future__ import annotations

import io
import json
import wave
from pathlib import Path

import pytest

from tests.bad_input.rows import assert_usable, refused, row
from tests.conftest import Json, StartServer
from tests.fake_engine import FakeEngine, entry
from tts_provider.engines.sesame.voices import find_voices
from tts_provider.engines.zonos.speakers import SpeakerFolder

PATHS = ("../../etc/passwd", "/etc/passwd", "..\\..\\x", "%2e%2e")


@pytest.mark.parametrize(
    ("speaker", "code"),
    [
        row(25, "negative", "-1", "invalid_speaker"),
        row(25, "10000", "10000", "invalid_speaker"),
        row(25, "1e3", "1e3", "invalid_speaker"),
        row(25, "fraction", "1.5", "invalid_speaker"),
        row(25, "nan-is-not-json", "NaN", "invalid_json"),
        row(26, "true", "true", "invalid_speaker"),
        row(27, "arabic-digit", '"٣"', "unknown_speaker"),
        row(27, "superscript", '"²"', "unknown_speaker"),
        row(27, "space", '" 1"', "unknown_speaker"),
        row(27, "underscore", '"1_0"', "unknown_speaker"),
        row(27, "hexadecimal", '"0x1"', "unknown_speaker"),
        *(row(28, f"path-{number}", json.dumps(path), "unknown_speaker") for number, path in enumerate(PATHS)),
        row(29, "nul", '"0\\u0000.wav"', "unknown_speaker"),
        row(30, "5000-characters", f'"{"x" * 5_000}"', "unknown_speaker"),
        row(31, "object", "{}", "invalid_speaker"),
        row(31, "array", "[]", "invalid_speaker"),
        row(33, "ssml", "\"en-US-GuyNeural' /><voice name='x\"", "unknown_speaker"),
    ],
)
async def test_a_speaker_that_is_none_is_refused(start_server: StartServer, speaker: str, code: str) -> None:
    """By what it is, and without repeating it."""
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        field = None if code == "invalid_json" else "speaker"
        reply = await refused(client, f'{{"text":"Hi.","speaker":{speaker}}}', code, field)
    assert "passwd" not in reply["message"]
    assert "Neural" not in reply["message"]


@pytest.mark.row(27)
async def test_row_27_the_digits_of_a_speaker_are_accepted(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        await client.legacy({"text": "Hi.", "speaker": "1"})


@pytest.mark.row(32)
async def test_row_32_a_speaker_that_the_engine_lacks_is_refused_with_those_it_has(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        await refused(client, {"text": "Hi.", "speaker": 9}, "unknown_speaker", "speaker", "0, 1, 2, 3")


@pytest.mark.row(33)
@pytest.mark.parametrize("voice", ["en-US-GuyNeural' /></voice><voice name='xNeural", "tone-a\n", *PATHS])
async def test_row_33_a_voice_that_is_no_name_is_refused(start_server: StartServer, voice: str) -> None:
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        await refused(client, {"text": "Hi.", "voice": voice}, "unknown_speaker", "voice", "tone-a")


@pytest.mark.row(34)
def test_row_34_a_link_that_leads_out_of_the_folder_of_voices_is_nobody(tmp_path: Path) -> None:
    """Of Zonos' references as of CSM's prompts; a link inside is as good as a file."""
    outside = tmp_path / "outside.wav"
    outside.write_bytes(b"RIFF")
    folder = tmp_path / "voices"
    folder.mkdir()
    (folder / "1.wav").write_bytes(b"RIFF")
    (folder / "1.txt").write_text("Hello.")
    (folder / "2.wav").symlink_to(outside)
    (folder / "2.txt").write_text("Hello.")
    (folder / "3.wav").symlink_to("1.wav")
    (folder / "3.txt").write_text("Hello.")
    assert list(SpeakerFolder(folder).files()) == [1, 3]
    assert list(find_voices(folder)) == ["male", "female", "1", "3"]


@pytest.mark.parametrize(
    ("rate", "code"),
    [
        row(35, "0", "0", "invalid_sample_rate"),
        row(35, "negative", "-1", "invalid_sample_rate"),
        row(35, "1", "1", "invalid_sample_rate"),
        row(35, "7999", "7999", "invalid_sample_rate"),
        row(35, "192001", "192001", "invalid_sample_rate"),
        row(35, "10-to-the-12", str(10**12), "invalid_sample_rate"),
        row(36, "infinity", "1e400", "invalid_sample_rate"),
        row(36, "nan-is-not-json", "NaN", "invalid_json"),
        row(37, "half", "24000.5", "invalid_sample_rate"),
        row(38, "string-is-refused", '"24000"', "invalid_sample_rate"),
        row(39, "true", "true", "invalid_sample_rate"),
    ],
)
async def test_a_sample_rate_that_is_none_is_refused(start_server: StartServer, rate: str, code: str) -> None:
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        if code == "invalid_json":
            await refused(client, f'{{"text":"Hi.","sample_rate":{rate}}}', code)
        else:
            await refused(client, f'{{"text":"Hi.","sample_rate":{rate}}}', code, "sample_rate", "24000")


@pytest.mark.parametrize(
    ("value", "rate"),
    [
        row(37, "whole-float", 24000.0, 24_000),
        row(39, "null-is-the-default", None, 24_000),
        row(40, "44100", 44_100, 44_100),
        row(40, "48000", 48_000, 48_000),
    ],
)
async def test_the_header_of_a_file_tells_its_true_rate(start_server: StartServer, value: float | None, rate: int) -> None:
    """Resampled, not relabelled: the text lasts as long as at the engine's own rate."""
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        reference, _ = await client.legacy({"text": "Hello there."})
        success, data = await client.legacy({"text": "Hello there.", "sample_rate": value})
    with wave.open(io.BytesIO(data)) as file:
        assert file.getframerate() == success["sample_rate"] == rate
        assert file.getnframes() / rate == pytest.approx(reference["duration_ms"] / 1000, abs=0.001)


@pytest.mark.parametrize(
    ("fields", "code", "field", "hint"),
    [
        row(41, "gpt", {"model": "gpt"}, "unknown_model", "model", "fake"),
        row(42, "empty", {"model": ""}, "unknown_model", "model", "1 to 100"),
        row(43, "number", {"model": 5}, "unknown_model", "model", "string"),
        row(43, "array", {"model": []}, "unknown_model", "model", "string"),
        row(46, "not-installed", {"model": "absent"}, "engine_unavailable", "model", "pip install absent"),
        row(48, "xx-YY", {"lang": "xx-YY"}, "unsupported_language", "lang", "en-GB, en-US, ja-JP"),
        row(49, "ssml", {"lang": "en-US'/><x"}, "unsupported_language", "lang", "IETF"),
        row(49, "1000-characters", {"lang": "x" * 1_000}, "unsupported_language", "lang", "1 to 100"),
        row(49, "number", {"lang": 5}, "unsupported_language", "lang", "string"),
        row(51, "33-keys", {f"k{number}": 1 for number in range(32)}, "invalid_request", None, "32"),
    ],
)
async def test_what_is_not_to_be_had_is_refused_with_what_is(
    start_server: StartServer, fields: Json, code: str, field: str | None, hint: str
) -> None:
    absent = entry(FakeEngine(name="absent"), unavailable=lambda: "Install it: pip install absent")
    server = await start_server(FakeEngine(), absent)
    async with server.connect() as client:
        await refused(client, {"text": "Hi."} | fields, code, field, hint)


@pytest.mark.row(47)
async def test_row_47_an_engine_that_failed_to_load_may_be_tried_again(start_server: StartServer) -> None:
    engine = FakeEngine(load_error=True)
    server = await start_server(engine)
    async with server.connect() as client:
        error = await client.ask({"text": "Hi."})
        assert (error["code"], error["retryable"]) == ("engine_unavailable", True)
        engine.load_error = False
        await assert_usable(client)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        row(44, "capitals", {"model": "EDGE"}, {"model": "edge"}),
        row(44, "edge-tts", {"model": "edge-tts"}, {"model": "edge"}),
        row(44, "csm", {"model": "csm"}, {"model": "sesame"}),
        row(45, "both-names", {"model": "edge", "model_type": "csm"}, {"model": "edge"}),
        row(50, "EN_us", {"lang": "EN_us"}, {"lang": "en-US"}),
        row(51, "unknown-keys", {f"k{number}": {"a": [1]} for number in range(31)}, {"model": "edge"}),
        row(52, "old-clients", {"max_audio_length_ms": 90_000, "response_mode": "stream"}, {"format": "wav"}),
    ],
)
async def test_what_old_clients_send_is_accepted(start_server: StartServer, fields: Json, expected: Json) -> None:
    """By all names of the engines that there are, and without a word about what is ignored by contract."""
    edge, sesame = entry(FakeEngine(name="edge"), "edge-tts"), entry(FakeEngine(name="sesame"), "csm", "csm-1b")
    server = await start_server(edge, sesame, default_model="edge")
    async with server.connect() as client:
        success, _ = await client.legacy({"text": "Hi."} | fields)
    assert {name: success[name] for name in expected} == expected
    warnings = ["'model' and 'model_type' disagree; 'model' was taken."] if "model_type" in fields else []
    assert success.get("warnings", []) == warnings
