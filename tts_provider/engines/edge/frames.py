"""Messages taken out of a WebSocket's bytes, without any socket.

wsproto, below trio-websocket, spends 30 µs on a message and trio-websocket another 25 on handing it from task to task: 0.5 ms
for a second of audio, more than decoding it. Cutting the frames of a server, which are not masked, costs a tenth of that. All
that needs a state machine stays with trio-websocket: the handshake, sending, pings and the goodbye.
"""

from __future__ import annotations

from typing import Final

__all__ = ["MAX_MESSAGE_BYTES", "BrokenFrames", "FrameSplitter"]

MAX_MESSAGE_BYTES: Final = 1 << 20
"""Of one message; the largest that were seen have some kilobytes."""
MAX_FRAGMENTS: Final = 4096
"""Of one message, for they may be empty."""

_FINAL: Final = 0x80
_MASKED: Final = 0x80
_CONTINUATION: Final = 0
_TEXT: Final = 1
_BINARY: Final = 2
_CLOSE: Final = 8
_CONTROL: Final = frozenset({_CLOSE, 9, 10})
NO_CODE: Final = 1005
"""RFC 6455, 7.1.5: the code of a goodbye without one."""


class BrokenFrames(Exception):
    """The bytes are no frames of a server, or a message is too long; its text completes "The service sent ..."."""


class FrameSplitter:
    """Reads the bytes that follow a handshake, as a client receives them, cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""
        self._parts: list[bytes] = []
        self._parts_size = 0
        self._parts_kind = 0
        self.close_code: int | None = None
        """Why the peer said goodbye; None while it has not."""

    def feed(self, data: bytes) -> tuple[list[bytes | str], bytes]:
        """The messages that are whole now, and the control frames among them, untouched.

        Raises:
            BrokenFrames: they break the rules of RFC 6455, section 5.
        """
        buffer = self._rest + data
        size = len(buffer)
        messages: list[bytes | str] = []
        control = b""
        position = 0
        while size - position >= 2:
            length = buffer[position + 1]
            start = position + 2
            if length == 126:
                start += 2
                length = int.from_bytes(buffer[position + 2 : start], "big")
            elif length == 127:
                start += 8
                length = int.from_bytes(buffer[position + 2 : start], "big")
            elif length & _MASKED:
                raise BrokenFrames("a masked frame")
            end = start + length
            if start > size:
                break
            if length > MAX_MESSAGE_BYTES:
                raise BrokenFrames("a message that is too long")
            if end > size:
                break
            payload = buffer[start:end]
            first = buffer[position]
            if first == _FINAL | _BINARY and not self._parts_kind:
                messages.append(payload)
            elif first == _FINAL | _TEXT and not self._parts_kind:
                messages.append(_decoded(payload))
            elif first & 0x0F in _CONTROL:
                if first & 0x0F == _CLOSE:
                    self.close_code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else NO_CODE
                control += buffer[position:end]
            else:
                self._collect(first, payload, messages)
            position = end
        self._rest = buffer[position:]
        return messages, control

    def _collect(self, first: int, payload: bytes, messages: list[bytes | str]) -> None:
        """Add a data frame that may be part of a message."""
        kind = first & 0x7F
        if self._parts_kind == 0 and kind in (_TEXT, _BINARY):
            self._parts_kind = kind
        elif self._parts_kind == 0 or kind != _CONTINUATION:
            raise BrokenFrames("frames out of order, or of an unknown kind")
        self._parts.append(payload)
        self._parts_size += len(payload)
        if self._parts_size > MAX_MESSAGE_BYTES or len(self._parts) > MAX_FRAGMENTS:
            raise BrokenFrames("a message that is too long")
        if first & _FINAL:
            message = b"".join(self._parts)
            messages.append(_decoded(message) if self._parts_kind == _TEXT else message)
            self._parts.clear()
            self._parts_size = self._parts_kind = 0


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise BrokenFrames("text that is not UTF-8") from error
