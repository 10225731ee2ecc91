"""Secrets in text: what is hidden, what is not, and that a long text costs no time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tts_provider.redaction import HIDDEN, is_secret_name, redact, redactor, secrets_of

SECRET = "s3cr3t-Value_of.ours"


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer SECRET",
        "authorization: Token SECRET",
        "{'authorization': 'Bearer SECRET'}",
        "[(b'host', b'x'), (b'authorization', b'Bearer SECRET')]",
        "Illegal header value b'Bearer SECRET'",
        "Proxy-Authorization: Basic SECRET",
        "HF_TOKEN=SECRET",
        "environ({'HF_TOKEN': 'SECRET', 'HOME': '/root'})",
        "HUGGING_FACE_HUB_TOKEN = SECRET",
        "TTS_API_KEYS=SECRET,other",
        '{"api_key": "SECRET"}',
        "Settings(api_key='SECRET')",
        "aws_secret_access_key: SECRET",
        "password=SECRET",
        "Sec-WebSocket-Protocol: tts, tts.key.SECRET",
        "wss://speech/edge/v1?TrustedClientToken=SECRET&Sec-MS-GEC-Version=1-143",
        "wss://speech/edge/v1?Sec-MS-GEC=SECRET&ConnectionId=1",
        "GET /v1?ConnectionId=SECRET HTTP/1.1",
        "https://hub/model?token=SECRET",
        "http://user:SECRET@proxy:3128",
        "http://SECRET@proxy",
        "BEARER   SECRET",
    ],
)
def test_a_secret_is_hidden_where_it_usually_stands(text: str) -> None:
    shown = redact(text.replace("SECRET", SECRET))
    assert SECRET not in shown
    assert HIDDEN in shown
    assert redact(shown) == shown


@pytest.mark.parametrize("token", ["hf_" + "aB3" * 11, "sk-proj-" + "x" * 20, "sk-" + "a1" * 12])
def test_tokens_are_known_by_their_looks(token: str) -> None:
    assert token not in redact(f"The hub says that {token} is no good.")


@pytest.mark.parametrize(
    "text",
    [
        "KeyError: 'voice'",
        "The token expired.",
        "monkey: banana, keyboard=qwerty",
        "https://example.org/a@b",
        "There is no such model. Models: edge, espeak.",
        "key",
        "tokens are cheap",
        "host=127.0.0.1 port=9000",
        "2026-01-31T12:00:00Z",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("HF_TOKEN", True), ("api_keys", True), ("TTS_API_KEYS", True), ("Authorization", True), ("key", True),
        ("AWS_SECRET_ACCESS_KEY", True), ("DB_PASSWORD", True), ("Sec-MS-GEC", True), ("accessToken", True),
        ("text_hash", False), ("monkey", False), ("PATH", False), ("host", False), ("keyboard", False),
        ("TTS_API_KEYS_FILE", False),
    ],
)  # fmt: skip
def test_names_of_secrets(name: str, secret: bool) -> None:
    assert is_secret_name(name) is secret


def test_the_environments_secrets_are_hidden_in_whatever_form() -> None:
    environment = {"TTS_API_KEYS": "first-key, second|key", "HF_TOKEN": "a.b+c(d", "HOME": "/home/somebody", "KEY": "x"}
    assert sorted(secrets_of(environment)) == ["a.b+c(d", "first-key", "second|key", "x"]
    hide = redactor(secrets_of(environment))
    assert (
        hide("It is first-keysecond|key, a.b+c(d in /home/somebody; x")
        == f"It is {HIDDEN}{HIDDEN}, {HIDDEN} in /home/somebody; x"
    )


@settings(deadline=None)
@given(st.text(min_size=6, max_size=40), st.text(), st.text())
def test_a_known_secret_never_gets_through(secret: str, before: str, after: str) -> None:
    shown = redactor([secret])(before + secret + after)
    assert HIDDEN in shown
    assert not any(secret in part for part in shown.split(HIDDEN))


WORDS = [
    "authorization",
    "bearer",
    "basic",
    "token",
    "key",
    "api_",
    "tts.key.",
    "hf_",
    "sk-",
    "://",
    "@",
    ":",
    "=",
    " ",
    '"',
    "abcdef123456",
]


@settings(deadline=None)
@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=3)))
def test_hiding_twice_hides_nothing_more(words: list[str]) -> None:
    once = redact("".join(words))
    assert redact(once) == once


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "1",
        "a_",
        "a-1_",
        "key",
        "key ",
        "token=",
        "://",
        "bearer ",
        "authorization:",
        "tts.key.",
        "hf_",
        "sk-",
        "=",
        '"',
        " ",
    ],
)
def test_long_texts_take_time_in_proportion(piece: str) -> None:
    """A pattern that looks back and forth would take minutes: clients choose what is in a log."""
    text = piece * (200_000 // len(piece))
    began = time.perf_counter()
    redact(text)
    assert time.perf_counter() - began < 5
