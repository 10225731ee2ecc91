"""The native protocol's messages."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_provider import errors
from tts_provider import messages as wire


def parse(**fields: Any) -> wire.Request:
    return wire.parse_request(json.dumps(fields))


def refused(message: str) -> errors.RequestError:
    with pytest.raises(errors.RequestError) as caught:
        wire.parse_request(message)
    return caught.value


def test_a_legacy_request_has_the_replaced_server_s_defaults() -> None:
    """Text alone means speaker 0, 24 kHz, English and the default model, in one WAV."""
    assert parse(text="Hi") == wire.Speak("Hi", wire.SpeechParameters())
    parameters = wire.SpeechParameters()
    assert (parameters.speaker, parameters.sample_rate, parameters.lang, parameters.stream) == (0, 24_000, "en-US", False)


def test_response_mode_changes_nothing() -> None:
    """Old clients always send response_mode "stream"; it does not switch on the streaming dialect."""
    assert parse(text="Hi", response_mode="stream") == parse(text="Hi")


def test_both_names_of_the_model_are_read() -> None:
    """The published client says model_type where the server's own documentation says model."""
    assert parse(text="Hi", model_type="sesame") == parse(text="Hi", model="sesame")


def test_model_wins_over_model_type_with_a_warning() -> None:
    request = parse(text="Hi", model="edge", model_type="zonos")
    assert isinstance(request, wire.Speak)
    assert request.parameters.model == "edge"
    assert request.parameters.warnings == ("'model' and 'model_type' disagree; 'model' was taken.",)


def test_rate_volume_and_pitch_are_ignored_with_a_warning() -> None:
    """They were documented as ignored; the client is told so."""
    request = parse(text="Hi", rate="+10%", volume=1, pitch="2Hz")
    assert isinstance(request, wire.Speak)
    assert "rate, volume, pitch" in request.parameters.warnings[0]


def test_unknown_fields_are_ignored() -> None:
    assert parse(text="Hi", max_audio_length_ms=1, nonsense={"a": [1]}) == parse(text="Hi")


def test_null_is_the_same_as_absent() -> None:
    assert parse(text="Hi", sample_rate=None, voice=None, speaker=None, speed=None) == parse(text="Hi")


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("", "invalid_json"),
        ("{", "invalid_json"),
        ("\ufeff{}", "invalid_json"),
        ('{"text": NaN}', "invalid_json"),
        ('{"a":' * 1000, "invalid_json"),
        ('{"a":' * 1000 + "1" + "}" * 1000, "invalid_json"),
        ("[" * 32_768, "invalid_json"),
        ("[1,", "invalid_json"),
        ("null", "invalid_request"),
        ('"hi"', "invalid_request"),
        ("42", "invalid_request"),
        ("[]", "invalid_request"),
        ("{}", "invalid_request"),
        ('{"text": "a", "text": "b"}', "invalid_request"),
        (json.dumps({"text": "a"} | {f"k{i}": 1 for i in range(32)}), "invalid_request"),
        ('{"text": "\\ud800"}', "invalid_text"),
        ('{"command": "shutdown"}', "unknown_command"),
        ('{"command": "INFO"}', "unknown_command"),
        ('{"command": " info"}', "unknown_command"),
        ('{"command": ["info"]}', "invalid_request"),
        ('{"command": "hello", "version": 3}', "invalid_request"),
        ('{"command": "append"}', "invalid_request"),
    ],
)
def test_a_message_that_is_no_request_is_refused(message: str, code: str) -> None:
    """Each kind of nonsense has its code, and none of them its way into the server."""
    assert refused(message).code == code


@pytest.mark.parametrize(
    ("field", "values", "code"),
    [
        ("text", [None, 42, ["a"], {}, True], "invalid_request"),
        ("speaker", [-1, 10_000, 1.5, True, {}, [], 10**30], "invalid_speaker"),
        ("speaker", ["٣", "²", " 1", "1_0", "0x1", "../../etc/passwd", "0\0.wav", "x" * 5000], "unknown_speaker"),
        ("sample_rate", [24000.5, "24000", True, {}], "invalid_sample_rate"),
        ("model", ["", 5, [], "x" * 1000], "unknown_model"),
        ("voice", ["", 5, "x" * 1000], "unknown_speaker"),
        ("lang", ["", 5, "x" * 1000], "unsupported_language"),
        ("format", ["", 5], "unsupported_format"),
        ("speed", [0, 0.1, 5, "fast", True], "invalid_request"),
        ("stream", ["true", 1], "invalid_request"),
        ("timestamps", ["yes"], "invalid_request"),
        ("request_id", ["", " a", "a\n", "ü", "x" * 65, 5], "invalid_request"),
        ("extra_params", [5, []], "invalid_request"),
    ],
)
def test_a_wrong_field_is_named(field: str, values: list[Any], code: str) -> None:
    """The error carries the field's name and the code of its kind, and never the value."""
    for value in values:
        error = refused(json.dumps({"text": "Hi"} | {field: value}))
        assert (error.code, error.field) == (code, field), value
        assert "etc/passwd" not in error.message


@pytest.mark.parametrize(("value", "speaker"), [(3, 3), ("1", 1), ("0007", 7), (9999, 9999)])
def test_a_speaker_is_a_number_or_its_digits(value: Any, speaker: int) -> None:
    request = parse(text="Hi", speaker=value)
    assert isinstance(request, wire.Speak)
    assert request.parameters.speaker == speaker


def test_a_whole_float_is_a_sample_rate() -> None:
    assert parse(text="Hi", sample_rate=24000.0) == parse(text="Hi")


@pytest.mark.parametrize("number", ["1e400", "NaN", "9" * 10_000])
def test_numbers_beyond_reason_are_refused(number: str) -> None:
    for field in ("speaker", "sample_rate", "speed"):
        assert refused(f'{{"text": "Hi", "{field}": {number}}}').code in {
            "invalid_json",
            "invalid_speaker",
            "invalid_sample_rate",
            "invalid_request",
        }


def test_info_wins_over_text() -> None:
    assert parse(command="info", text="Hi") == wire.Info()


def test_each_command_is_read() -> None:
    assert parse(command="append", text=" x", request_id="r") == wire.Append(" x", "r")
    assert parse(command="flush") == wire.Flush()
    assert parse(command="end", request_id="r") == wire.End("r")
    assert parse(command="cancel") == wire.Cancel()
    assert parse(command="hello", version=2) == wire.Hello(2)
    assert parse(command="voices", lang="de") == wire.Voices(None, "de")
    assert parse(command="preload", model="csm") == wire.Preload("csm")
    begin = parse(command="begin", stream=True, voice="v")
    assert begin == wire.Begin(wire.SpeechParameters(stream=True, voice="v"))


@given(st.text())
def test_no_text_gets_an_exception_out_of_the_parser(message: str) -> None:
    """Whatever is sent, the answer is a request or an error of ours."""
    with contextlib.suppress(errors.RequestError):
        wire.parse_request(message)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_no_json_gets_an_exception_out_of_the_parser(value: Any) -> None:
    with contextlib.suppress(errors.RequestError):
        wire.parse_request(json.dumps({"text": value, "speaker": value, "extra_params": value}))


def test_a_failure_says_all_that_is_known() -> None:
    error = errors.Overloaded("Too much.", retry_after_ms=500)
    reply = json.loads(wire.encode(wire.Failure.of(error, "r1")))
    assert reply == {
        "status": "error",
        "message": "Too much.",
        "code": "overloaded",
        "retryable": True,
        "request_id": "r1",
        "retry_after_ms": 500,
    }


def test_the_id_of_a_broken_request_is_found_where_it_can_be() -> None:
    assert wire.request_id_of('{"text": 5, "request_id": "r1"}') == "r1"
    assert wire.request_id_of("{") is None
