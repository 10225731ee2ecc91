"""Cutting WebSocket frames."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode

from tts_provider.engines.edge.frames import MAX_FRAGMENTS, MAX_MESSAGE_BYTES, BrokenFrames, FrameSplitter


def frame(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """A server's frame, made here by the book (RFC 6455, 5.2)."""
    head = bytes([(0x80 if final else 0) | opcode])
    if len(payload) < 126:
        return head + bytes([len(payload)]) + payload
    if len(payload) < 65_536:
        return head + bytes([126]) + len(payload).to_bytes(2, "big") + payload
    return head + bytes([127]) + len(payload).to_bytes(8, "big") + payload


def feed_all(data: bytes, cuts: list[int]) -> tuple[list[bytes | str], bytes]:
    splitter = FrameSplitter()
    messages: list[bytes | str] = []
    control = b""
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in pairwise(edges):
        more, others = splitter.feed(data[start:end])
        messages += more
        control += others
    return messages, control


@settings(deadline=None)
@given(
    messages=st.lists(st.one_of(st.binary(max_size=200), st.text(max_size=100), st.just(bytes(70_000)))),
    cuts=st.lists(st.integers(0, 300_000)),
)
def test_messages_come_out_whole_however_the_bytes_are_cut(messages: list[bytes | str], cuts: list[int]) -> None:
    server = FrameProtocol(client=False, extensions=[])
    data = b"".join(server.send_data(message, fin=True) for message in messages)
    assert feed_all(data, cuts) == (messages, b"")


@settings(deadline=None)
@given(parts=st.lists(st.text(max_size=20), min_size=2, max_size=5), cuts=st.lists(st.integers(0, 200)))
def test_fragments_are_put_together_with_control_frames_between_them(parts: list[str], cuts: list[int]) -> None:
    pieces = [part.encode() for part in parts]
    ping = frame(Opcode.PING, b"hello")
    data = frame(1, pieces[0], final=False)
    data += b"".join(ping + frame(0, piece, final=False) for piece in pieces[1:-1])
    data += ping + frame(0, pieces[-1])
    assert feed_all(data, cuts) == (["".join(parts)], ping * (len(parts) - 1))


def test_pings_and_goodbyes_are_passed_on_untouched() -> None:
    server = FrameProtocol(client=False, extensions=[])
    ping = bytes(server.ping(b"are you there"))
    goodbye = bytes(server.close(CloseReason.INTERNAL_ERROR, "so long"))
    splitter = FrameSplitter()
    assert splitter.feed(ping) == ([], ping)
    assert splitter.close_code is None
    assert splitter.feed(frame(1, b"last words") + goodbye) == (["last words"], goodbye)
    assert splitter.close_code == 1011


def test_a_goodbye_without_a_reason_has_the_code_for_that() -> None:
    splitter = FrameSplitter()
    splitter.feed(frame(8, b""))
    assert splitter.close_code == 1005


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x82\x81\x00\x00\x00\x00\x01", id="masked"),
        pytest.param(b"\xc2\x01\x00", id="reserved bit"),
        pytest.param(b"\x83\x01\x00", id="unknown opcode"),
        pytest.param(frame(0, b"x"), id="continuation of nothing"),
        pytest.param(frame(1, b"x", final=False) + frame(2, b"y"), id="message within a message"),
        pytest.param(frame(1, b"\xff"), id="text that is not UTF-8"),
        pytest.param(frame(1, b"\xff", final=False) + frame(0, b""), id="fragmented text that is not UTF-8"),
        pytest.param(b"\x82\x7f" + (1 << 62).to_bytes(8, "big"), id="endless"),
        pytest.param(frame(2, bytes(MAX_MESSAGE_BYTES + 1)), id="too long"),
        pytest.param(frame(2, bytes(MAX_MESSAGE_BYTES), final=False) + frame(0, b"12"), id="too long in parts"),
        pytest.param(b"\x02\x00" + b"\x00\x00" * MAX_FRAGMENTS, id="endless empty parts"),
    ],
)
def test_what_breaks_the_rules_is_an_error(data: bytes) -> None:
    with pytest.raises(BrokenFrames):
        FrameSplitter().feed(data)


def test_the_longest_message_is_taken() -> None:
    messages, _ = FrameSplitter().feed(frame(2, bytes(MAX_MESSAGE_BYTES)))
    assert [len(message) for message in messages] == [MAX_MESSAGE_BYTES]
