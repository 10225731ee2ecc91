"""Rows 14 to 24: texts that cannot be spoken, and texts that only look as if they could do harm."""

from __future__ import annotations

import json
import time
from collections.abc import MutableMapping
from typing import Any

import pytest

from tests.bad_input.rows import exchange, refused, row
from tests.conftest import Json, StartServer, replies_of
from tests.fake_engine import FakeEngine

EMPTY = "Failed to generate speech: Text cannot be empty"
"""What the replaced server said."""

SPOKEN_CPU_S = 3.0
"""For a text of a thousand odd characters, which takes some hundredths of a second."""


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        row(14, "missing", {"speaker": 0}, "invalid_request"),
        row(14, "null", {"text": None}, "invalid_request"),
        row(14, "number", {"text": 42}, "invalid_request"),
        row(14, "array", {"text": ["a"]}, "invalid_request"),
        row(15, "nothing", {"text": ""}, "empty_text"),
        row(15, "spaces", {"text": " \t\n\u3000"}, "empty_text"),
        row(15, "punctuation", {"text": "?!... --"}, "empty_text"),
        row(15, "emoji", {"text": "😀👍🏽"}, "empty_text"),
        row(17, "nul", {"text": "\0\0"}, "empty_text"),
        row(17, "controls", {"text": "".join(map(chr, range(32)))}, "empty_text"),
        row(17, "no-characters", {"text": "\ufffe\uffff"}, "empty_text"),
        row(18, "100001-characters", {"text": "a" * 100_001}, "text_too_long"),
    ],
)
async def test_a_text_that_cannot_be_spoken_is_refused(start_server: StartServer, fields: Json, code: str) -> None:
    """In the words that old clients know, and with the limit, which here is 100,000 code points."""
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        reply = await refused(client, fields, code, "text", "100000" if code == "text_too_long" else "")
        if code == "empty_text":
            assert reply["message"] == EMPTY


@pytest.mark.parametrize(
    "message",
    [
        row(16, "high", '{"text":"\\ud800"}'),
        row(16, "low", '{"text":"a \\udc00 b"}'),
        row(16, "swapped", '{"text":"\\udc00\\ud800"}'),
    ],
)
async def test_half_a_surrogate_pair_is_refused(start_server: StartServer, message: str) -> None:
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        await refused(client, message, "invalid_text", "text")


@pytest.mark.row(18)
async def test_row_18_100000_characters_are_taken(start_server: StartServer) -> None:
    """Also where each of them is four bytes."""
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        for text in ("a " * 50_000, "𝒶" * 100_000):
            assert (await client.ask({"text": text, "stream": True, "final_wav": False}))["status"] == "streaming"
            await client.send({"command": "cancel"})
            await client.until("cancelled")


@pytest.mark.parametrize(
    "text",
    [
        row(20, "ssml-fragments", 'Mind the </prosody></voice><break time="10m"/>&amp; gap.'),
        row(21, "ssml-document", '<speak version="1.0"><voice name="x">Hello there.</voice></speak>'),
        row(22, "1000-combining-marks", "e" + "\u0301" * 1_000 + " is one letter."),
        row(22, "1000-joiners", "a" + "\u200d" * 1_000 + "b"),
        row(22, "1000-overrides", "\u202e" * 1_000 + "abc" + "\u202c"),
        row(23, "templates", "%s %n {0} {0.__class__} ${HOME} $(id) ../../ `id`"),
        row(24, "header", "a\r\nX: y"),
        row(24, "log-line", 'a\n2026-01-01 INFO admin\r\n{"event":"admin"}'),
    ],
)
async def test_a_text_is_spoken_as_it_stands(start_server: StartServer, log: list[MutableMapping[str, Any]], text: str) -> None:
    """Every character reaches the engine, nothing is obeyed, nothing of it is logged, and it takes no time."""
    engine = FakeEngine()
    server = await start_server(engine)
    async with server.connect() as client:
        begun = time.process_time()
        success, audio = await client.legacy({"text": text})
        assert time.process_time() - begun < SPOKEN_CPU_S
        assert success["length_bytes"] == len(audio) > 4_000
        said = "".join(engine.said)
        await client.send({"text": text, "stream": True, "final_wav": False})
        sentences = replies_of(await client.until("success"), "sentence")
    # What has no sound may be left out where a text is cut: marks that have lost their letter.
    assert said.strip() == text.strip() or len(text) > 1_000
    for spoken in (said, "".join(sentence["text"] for sentence in sentences)):
        assert [char for char in spoken if char.isalnum()] == [char for char in text if char.isalnum()]
    for record in log:
        assert "\n" not in record["event"]
        assert text not in json.dumps(record, default=str, ensure_ascii=False)


@pytest.mark.row(17)
async def test_row_17_controls_within_a_text_never_reach_an_engine(start_server: StartServer) -> None:
    """They become spaces, so that offsets stay: a NUL would end the text for a library in C."""
    engine = FakeEngine()
    server = await start_server(engine)
    text = "Hello\0 my\x1b[31m good\ufffe friend\x7f.\tYes\nindeed."
    async with server.connect() as client:
        await client.send({"text": text, "stream": True, "final_wav": False, "timestamps": True})
        messages = await client.until("success")
        await client.send({"command": "begin", "stream": True, "final_wav": False})
        await client.send({"command": "append", "text": "So\0 it is."})
        await client.send({"command": "end"})
        await client.until("success")
    said = "".join(engine.said)
    assert said == "Hello  my [31m good  friend .\tYes\nindeed.So  it is."
    for word in (word for reply in replies_of(messages, "words") for word in reply["words"]):
        assert text[word["offset"] :].startswith(word["text"])


@pytest.mark.row(19)
@pytest.mark.parametrize("text", ["x" * 5_000, "漢" * 5_000, "e\u0301" * 2_500])
async def test_row_19_5000_characters_without_a_stop_are_cut_hard(start_server: StartServer, text: str) -> None:
    engine = FakeEngine()
    server = await start_server(engine)
    async with server.connect() as client:
        await client.send({"text": text, "stream": True, "final_wav": False, "sample_rate": 8_000, "speed": 4})
        await client.until("success")
    assert "".join(engine.said) == text
    assert max(map(len, engine.said)) <= engine.capabilities.max_chunk_weight


@pytest.mark.row(24)
async def test_row_24_no_line_of_a_text_becomes_a_header(start_server: StartServer) -> None:
    """Nor does any other field of an HTTP request."""
    server = await start_server(FakeEngine())
    evil = "Hello.\r\nX-Evil: yes\r\n\r\nHTTP/1.1 200 OK"
    for fields in ({"input": evil}, {"input": "Hi.", "voice": evil}, {"input": "Hi.", "model": evil}):
        body = json.dumps(fields).encode()
        head = b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        answer = await exchange(server, head + body)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"x-evil" not in answer.partition(b"\r\n\r\n")[0].lower()
