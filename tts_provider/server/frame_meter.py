"""What a client's frames look like from outside: counted, measured, and cut off where they are too many or none at all.

trio-websocket hides frames: it shows whole messages, after it has kept every fragment of them. A million fragments of one byte
take 35 times the memory of the message, endless empty ones a whole core, and pings are answered as fast as they come. And it
drops a client that breaks the protocol without the close code that would tell why. So the headers are read here, on the way.

Payloads are skipped, never looked at. A chunk within one payload costs a comparison, a frame about a microsecond.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tts_provider.server.rate import TokenBucket

__all__ = ["Breach", "FrameLimits", "FrameMeter", "ends_with_close"]

PROTOCOL_ERROR: Final = 1002
POLICY: Final = 1008
TOO_BIG: Final = 1009
"""Close codes of RFC 6455 section 7.4.1."""

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN: Final = 0x80
RESERVED: Final = 0x70
OPCODE: Final = 0x0F
MASKED: Final = 0x80
LENGTH: Final = 0x7F
MASK_BYTES: Final = 4
MAX_CONTROL_BYTES: Final = 125


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameLimits:
    """What one client's frames are held to. A rate of 0 is without limit; two seconds of a rate may come at once."""

    message_bytes: int
    """All payloads of one message together."""
    fragments: int
    """Frames of one message."""
    frames_per_s: int
    control_frames_per_s: int
    """Pings and pongs."""


@dataclass(frozen=True, slots=True)
class Breach:
    """Why a connection must be closed."""

    code: int
    reason: str
    """Goes into the close frame: 123 bytes of UTF-8 at most."""


class FrameMeter:
    """Reads the headers of the frames that a client sends, however they are cut into chunks.

    Reading starts at the first byte after the upgrade request. After a breach, or the client's own close frame, nothing more is
    read.
    """

    def __init__(self, limits: FrameLimits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._frames = TokenBucket(limits.frames_per_s, clock())
        self._controls = TokenBucket(limits.control_frames_per_s, clock())
        self._skip = 0
        """Bytes of payload that are still to come."""
        self._partial = b""
        """The beginning of a header."""
        self._fragments = 0
        """Of the message that is open; 0 when none is."""
        self._message_bytes = 0
        self._ended = False

    def feed(self, data: bytes | bytearray) -> Breach | None:
        """Read the client's next bytes; the breach with which they must not be passed on, if there is one."""
        size = len(data)
        if size <= self._skip:
            self._skip -= size
            return None
        if self._ended:
            return None
        now = self._clock()
        self._frames.refill(now)
        self._controls.refill(now)
        if self._partial:
            data = self._partial + data
            self._partial = b""
            size = len(data)
        position, self._skip = self._skip, 0
        while position < size:
            header = self._header(data, position)
            if header is None:
                self._partial = bytes(data[position:])
                return None
            verdict = header if isinstance(header, Breach) else self._count(*header)
            if not isinstance(verdict, int):
                self._ended = True
                return verdict
            position += verdict
        self._skip = position - size
        return None

    def _header(self, data: bytes | bytearray, start: int) -> tuple[int, int, int] | Breach | None:
        """The header at `start`: its first byte, its length, and the payload's. None when it is not whole."""
        if len(data) < start + 2:
            return None
        first, second = data[start], data[start + 1]
        opcode, length, end = first & OPCODE, second & LENGTH, start + 2
        if first & RESERVED:
            return Breach(PROTOCOL_ERROR, "a reserved bit is set")
        if opcode not in _OPCODES:
            return Breach(PROTOCOL_ERROR, f"there is no opcode {opcode}")
        if not second & MASKED:
            return Breach(PROTOCOL_ERROR, "a client must mask its frames")
        if opcode >= CLOSE and (not first & FIN or length > MAX_CONTROL_BYTES):
            return Breach(PROTOCOL_ERROR, "a control frame is whole and has 125 bytes at most")
        if length > MAX_CONTROL_BYTES:
            size, least = (2, 126) if length == 126 else (8, 65_536)
            if len(data) < end + size:
                return None
            length = int.from_bytes(data[end : end + size], "big")
            end += size
            if length < least or length >> 63:
                return Breach(PROTOCOL_ERROR, "a frame's length is written the wrong way")
        end += MASK_BYTES
        return (first, end - start, length) if len(data) >= end else None

    def _count(self, first: int, header_bytes: int, length: int) -> int | Breach | None:
        """Count a frame; its length with its header, or None after the last one."""
        limits, opcode = self._limits, first & OPCODE
        self._frames.tokens -= 1
        if self._frames.tokens < 0:
            return Breach(POLICY, f"more than {limits.frames_per_s} frames a second")
        if opcode == CLOSE:
            return None
        if opcode > CLOSE:
            self._controls.tokens -= 1
            if self._controls.tokens < 0:
                return Breach(POLICY, f"more than {limits.control_frames_per_s} pings a second")
            return header_bytes + length
        if (opcode == CONTINUATION) != bool(self._fragments):
            return Breach(PROTOCOL_ERROR, "a message begins before the last one has ended, or goes on without having begun")
        self._fragments += 1
        self._message_bytes += length
        if self._message_bytes > limits.message_bytes:
            return Breach(TOO_BIG, f"a message has {limits.message_bytes} bytes at most")
        if self._fragments > limits.fragments:
            return Breach(POLICY, f"a message has {limits.fragments} fragments at most")
        if first & FIN:
            self._fragments = self._message_bytes = 0
        return header_bytes + length


_OPCODES: Final = frozenset((CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG))


def ends_with_close(data: bytes | bytearray) -> bool:
    """Whether `data` seems to end with a client's close frame. Random bytes do in one of 500 cases."""
    head = 2 + MASK_BYTES
    sizes = range(min(MAX_CONTROL_BYTES + 1, len(data) - head + 1))
    return any(data[-head - size] == FIN | CLOSE and data[-head - size + 1] == MASKED | size for size in sizes)
