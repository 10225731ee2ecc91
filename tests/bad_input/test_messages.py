"""Rows 1 to 13: messages that are no requests, and too many of them."""

from __future__ import annotations

import pytest
from trio.testing import MockClock
from trio_websocket import ConnectionClosed

from tests.bad_input.rows import BINARY, TEXT, assert_clean, assert_serves, raw_client, refused, row
from tests.conftest import Json, StartServer, replies_of
from tests.fake_engine import FakeEngine


@pytest.mark.parametrize(
    ("message", "code", "hint"),
    [
        row(1, "empty", "", "invalid_json", "expected JSON"),
        row(2, "cut-off", "{", "invalid_json", "expected JSON"),
        row(3, "null", "null", "invalid_request", "expected a JSON object"),
        row(3, "string", '"hi"', "invalid_request", "expected a JSON object"),
        row(3, "number", "42", "invalid_request", "expected a JSON object"),
        row(3, "array", "[]", "invalid_request", "expected a JSON object"),
        row(4, "byte-order-mark", "\ufeff{}", "invalid_json", "expected JSON"),
        row(5, "32768-brackets", "[" * 32_768, "invalid_json", "expected JSON"),
        row(5, "32768-brackets-closed", "[" * 32_768 + "]" * 32_768, "invalid_json", "expected JSON"),
        row(5, "32768-brackets-in-a-field", f'{{"text":"a","a":{"[" * 32_000 + "]" * 32_000}}}', "invalid_json", ""),
        row(6, "1000-objects", '{"a":' * 1_000, "invalid_json", "expected JSON"),
        row(8, "10000-digits", f'{{"speaker":{"9" * 10_000}}}', "invalid_json", "expected JSON"),
        row(8, "10000-digits-and-text", f'{{"text":"Hi.","speaker":{"9" * 10_000}}}', "invalid_json", "expected JSON"),
        row(9, "text-twice", '{"text":"One.","text":"Two."}', "invalid_request", "twice"),
    ],
)
async def test_what_is_no_request_is_refused(start_server: StartServer, message: str, code: str, hint: str) -> None:
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        await refused(client, message, code, hint=hint)


@pytest.mark.row(7)
async def test_row_7_a_message_over_1_mib_closes_with_1009(start_server: StartServer) -> None:
    """One character more than the limit, which here is 1 MiB; one less is read, and refused for what is in it."""
    server = await start_server(FakeEngine())
    async with raw_client(server) as client:
        await client.frame(TEXT, b" " * 1_048_576)
        opcode, payload = await client.receive() or (None, b"")
        assert opcode == TEXT
        assert b"invalid_json" in payload
        await client.frame(TEXT, b" " * 1_048_577)
        assert await client.close_code() == 1009
    await assert_serves(server)


@pytest.mark.row(10)
async def test_row_10_binary_messages_are_refused_and_the_fourth_closes_with_1003(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    async with raw_client(server) as client:
        for _ in range(3):
            await client.frame(BINARY, b"\0")
            opcode, payload = await client.receive() or (None, b"")
            assert opcode == TEXT
            assert b"unsupported_message" in payload
        await client.frame(BINARY, b"\0")
        assert await client.close_code() == 1003
    async with server.connect() as other:
        await refused(other, b"\0", "unsupported_message")


@pytest.mark.row(11)
@pytest.mark.parametrize("payload", [b"\xff", b'{"text":"\xc3"}', b'{"text":"\xed\xa0\x80"}'])
async def test_row_11_text_that_is_not_utf_8_ends_the_connection(start_server: StartServer, payload: bytes) -> None:
    """With 1007 or, as trio-websocket does today, without a word."""
    server = await start_server(FakeEngine())
    async with raw_client(server) as client:
        await client.frame(TEXT, payload)
        assert await client.close_code() in {1007, None}
    await assert_serves(server)


@pytest.mark.row(13)
async def test_row_13_of_40_requests_at_once_33_are_taken(start_server: StartServer, autojump_clock: MockClock) -> None:
    """One is spoken, 32 wait, and the others are told at once that it is too much; then it goes on."""
    server = await start_server(FakeEngine(block_delay_s=0.05))
    async with server.connect() as client:
        for number in range(40):
            await client.send({"text": "Hi.", "stream": True, "final_wav": False, "request_id": str(number)})
        messages: list[Json | bytes] = []
        while len(replies_of(messages, "success")) < 33:
            messages += await client.until("success")
        await client.legacy({"text": "Hi."})
    errors = replies_of(messages, "error")
    assert [error["request_id"] for error in errors] == [str(number) for number in range(33, 40)]
    for error in errors:
        assert (error["code"], error["retryable"]) == ("busy", True)
        assert_clean(error)
    assert [reply["request_id"] for reply in replies_of(messages, "success")] == [str(number) for number in range(33)]


async def test_a_megabyte_of_nested_objects_is_refused_unread(start_server: StartServer) -> None:
    """To look for fields that occur twice in it would hold everybody's audio up."""
    server = await start_server(FakeEngine())
    async with server.connect() as client:
        await refused(client, f'{{"text":"Hi.","x":[{"{}," * 300_000}{{}}]}}', "invalid_request", hint="beside the text")


async def test_a_closed_connection_is_told_to_the_client(start_server: StartServer) -> None:
    """A client of the library sees the code too, not only one that reads frames."""
    server = await start_server(FakeEngine(), max_message_bytes=100)
    async with server.connect() as client:
        await client.send("x" * 101)
        with pytest.raises(ConnectionClosed) as closed:
            await client.reply()
    assert closed.value.reason is not None
    assert closed.value.reason.code == 1009
