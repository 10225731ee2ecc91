"""Frames counted and measured on their way: the same frames that wsproto sees, however they are cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import CloseConnection

from tests.server.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame
from tts_provider.server.frame_meter import Breach, FrameLimits, FrameMeter, ends_with_close

LIMITS = FrameLimits(message_bytes=1000, fragments=4, frames_per_s=10, control_frames_per_s=3)
FREE = FrameLimits(message_bytes=2**40, fragments=2**40, frames_per_s=0, control_frames_per_s=0)


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def meter(limits: FrameLimits = LIMITS) -> FrameMeter:
    return FrameMeter(limits, Clock())


def code(breach: Breach | None) -> int | None:
    return breach.code if breach is not None else None


def test_ordinary_frames_pass() -> None:
    frames = frame(TEXT, b"a" * 200) + frame(PING) + frame(BINARY, b"b" * 900) + frame(TEXT, fin=False) + frame(CONTINUATION)
    assert meter().feed(frames) is None


@pytest.mark.parametrize(
    "bad",
    [
        frame(0x3),
        frame(0xB),
        frame(TEXT, reserved=4),
        frame(PING, reserved=1),
        frame(TEXT, b"x", masked=False),
        frame(PING, fin=False),
        frame(PING, b"x" * 126),
        frame(CONTINUATION, b"x"),
        frame(TEXT, fin=False) + frame(TEXT),
        frame(TEXT, b"x", length_bytes=2),
        frame(TEXT, b"x" * 200, length_bytes=8),
        frame(TEXT, length=2**63, length_bytes=8),
    ],
)
def test_what_is_no_frame_is_a_protocol_error(bad: bytes) -> None:
    assert code(meter().feed(frame(TEXT, b"good") + bad)) == 1002


def test_a_message_is_measured_over_all_its_frames_before_they_come() -> None:
    """The header's claim is enough; the bytes need not come."""
    half = frame(BINARY, b"x" * 500, fin=False)
    assert meter().feed(half + frame(CONTINUATION, b"x" * 500)) is None
    assert code(meter().feed(half + frame(CONTINUATION, length=501)[:8])) == 1009
    assert code(meter().feed(frame(TEXT, length=2**62, length_bytes=8))) == 1009
    # Each message has all of it.
    assert meter().feed(frame(TEXT, b"x" * 1000) * 3) is None


def test_fragments_are_counted_even_if_they_are_empty() -> None:
    """Control frames between them are none, and the next message begins anew."""
    beginning = frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * 2 + frame(PING)
    assert meter().feed(beginning + frame(CONTINUATION) + beginning) is None
    assert code(meter().feed(beginning + frame(CONTINUATION, fin=False) * 2)) == 1008


def test_two_seconds_of_frames_may_come_at_once_and_then_the_rate() -> None:
    clock = Clock()
    metered = FrameMeter(LIMITS, clock)
    assert metered.feed(frame(TEXT) * 20) is None
    for _ in range(30):
        clock.now += 0.1001
        assert metered.feed(frame(TEXT)) is None
    assert code(metered.feed(frame(TEXT))) == 1008


@pytest.mark.parametrize("opcode", [PING, PONG])
def test_pings_have_a_rate_of_their_own(opcode: int) -> None:
    clock = Clock()
    metered = FrameMeter(LIMITS, clock)
    assert metered.feed(frame(opcode) * 6 + frame(TEXT) * 5) is None
    clock.now += 0.34
    assert metered.feed(frame(opcode)) is None
    assert code(metered.feed(frame(opcode))) == 1008


def test_after_a_close_frame_nothing_is_read() -> None:
    assert meter().feed(frame(CLOSE, b"\x03\xe8") + b"anything at all" * 1000) is None


def test_a_close_frame_is_known_at_the_end() -> None:
    for close in (frame(CLOSE), frame(CLOSE, b"\x03\xe8bye"), frame(CLOSE, b"\x03\xe8" + b"x" * 123)):
        assert ends_with_close(close)
        assert ends_with_close(b"x" * 1000 + close)
    assert not ends_with_close(frame(CLOSE) + b"x")
    assert not ends_with_close(frame(TEXT, b"\x03\xe8"))
    assert not ends_with_close(b"\x88")
    assert not ends_with_close(b"")


# --- Against wsproto ---

GOOD = st.builds(
    frame,
    st.sampled_from([TEXT, BINARY, CONTINUATION, PING, PONG]),
    st.sampled_from([0, 1, 5, 125, 126, 300, 65_535, 65_536]).map(bytes),
    fin=st.booleans(),
)
BAD = st.builds(
    frame,
    st.integers(0, 15),
    st.sampled_from([0, 1, 125, 126, 300]).map(bytes),
    fin=st.booleans(),
    reserved=st.sampled_from([0, 0, 0, 1, 2, 4, 7]),
    masked=st.sampled_from([True, True, True, False]),
    length_bytes=st.sampled_from([None, None, 2, 8]),
)
STREAMS = st.lists(st.one_of(GOOD, GOOD, BAD), max_size=8).map(b"".join)


def fails_in_wsproto(stream: bytes) -> bool:
    """Whether wsproto refuses the headers of `stream`; what it finds in payloads is not the meter's matter."""
    server = Connection(ConnectionType.SERVER)
    server.receive_data(stream)
    for event in server.events():
        if isinstance(event, CloseConnection):
            return event.code == 1002 and not (event.reason or "").startswith(("CLOSE", "remote CLOSE"))
    return False


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    """`stream` cut at `cuts`."""
    bounds = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[start:end] for start, end in itertools.pairwise(bounds)]


@settings(derandomize=True, deadline=None, max_examples=300)
@given(STREAMS, st.lists(st.integers(0, 200_000), max_size=40))
def test_the_meter_refuses_what_wsproto_refuses(stream: bytes, cuts: list[int]) -> None:
    """Bad headers are breaches, good ones are not, and where the stream is cut does not matter."""
    whole = code(meter(FREE).feed(stream))
    cut = meter(FREE)
    verdicts = [code(verdict) for piece in pieces(stream, cuts) if (verdict := cut.feed(piece)) is not None]
    assert (whole == 1002) == fails_in_wsproto(stream)
    assert verdicts == ([whole] if whole is not None else [])


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(GOOD, max_size=8).map(b"".join))
def test_byte_by_byte_is_the_same_as_at_once(stream: bytes) -> None:
    at_once = meter().feed(stream[:1000])
    one_by_one = meter()
    verdicts = [verdict for byte in stream[:1000] if (verdict := one_by_one.feed(bytes([byte]))) is not None]
    assert verdicts == ([at_once] if at_once is not None else [])
