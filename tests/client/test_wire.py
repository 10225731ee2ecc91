"""Requests as the client writes them are requests as the server reads them."""

from __future__ import annotations

import string

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_provider.client import TTSServerError, UnexpectedReply
from tts_provider.client.wire import INFO, SPEECH, decode
from tts_provider.messages import (
    Append,
    Begin,
    Cancel,
    End,
    Failure,
    Flush,
    Hello,
    Info,
    Preload,
    Queued,
    Request,
    Speak,
    SpeechParameters,
    Voices,
    encode,
    encode_request,
    parse_request,
)

texts = st.text(st.characters(exclude_categories=["Cs"]))
names = st.none() | st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=20)
parameters = st.builds(
    SpeechParameters,
    model=names,
    voice=names,
    speaker=st.integers(0, 9999),
    lang=st.sampled_from(["en-US", "ja-JP"]),
    sample_rate=st.integers(8000, 192_000),
    format=names,
    stream=st.booleans(),
    final_wav=st.booleans(),
    speed=st.floats(0.25, 4),
    timestamps=st.booleans(),
    request_id=names,
    extra=st.dictionaries(st.sampled_from(["seed", "emotion", "top_k"]), st.integers(-100, 100) | texts),
    warnings=st.just(()),
)
requests: st.SearchStrategy[Request] = st.one_of(
    st.builds(Speak, texts, parameters),
    st.builds(Begin, parameters),
    st.builds(Append, texts, names),
    st.builds(Flush, names),
    st.builds(End, names),
    st.builds(Cancel, names),
    st.just(Hello()),
    st.just(Info()),
    st.builds(Voices, names, names),
    st.builds(Preload, names),
)


@given(requests)
def test_the_server_reads_what_the_client_wrote(request: Request) -> None:
    assert parse_request(encode_request(request)) == request


def test_what_is_at_its_default_is_not_sent() -> None:
    assert msgspec.json.decode(encode_request(Speak("Hi.", SpeechParameters()))) == {"text": "Hi."}


def test_replies_are_told_apart() -> None:
    reply = Queued(message="Wait.", queue_position=2)
    assert decode(encode(reply), SPEECH) == reply
    failure = Failure(message="No.", code="overloaded", retryable=True, field="model", retry_after_ms=5, request_id="a")
    with pytest.raises(TTSServerError, match=r"No\.") as caught:
        decode(encode(failure), INFO)
    error = caught.value
    assert (error.code, error.retryable, error.field, error.retry_after_ms, error.request_id) == (
        "overloaded",
        True,
        "model",
        5,
        "a",
    )


@pytest.mark.parametrize("message", [b"audio", "", "{", "[]", '{"status": "queued"}', '{"status": "error"}', "[" * 100_000])
def test_what_is_no_reply_is_unexpected(message: str | bytes) -> None:
    with pytest.raises(UnexpectedReply):
        decode(message, SPEECH)
