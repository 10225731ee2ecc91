"""Wyoming's framing: a line of JSON, then as many bytes of JSON and of payload as the line says.

    {"type": "synthesize", "version": "1.7.2", "data_length": 17}\\n{"text": "Hello"}

The `wyoming` package reads and writes these with asyncio only; its events are used as they are.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import trio
from wyoming.event import Event
from wyoming.version import __version__ as WYOMING_VERSION

from tts_provider.errors import InvalidJSON, InvalidRequest
from tts_provider.server.streams import GuardedStream
from tts_provider.server.websocket import Closed

__all__ = ["EventStream", "encode"]

MAX_HEADER_BYTES: Final = 65_536
"""What asyncio's readers, and so the package's own server, take for a line."""
READ_BYTES: Final = 65_536


class _Header(msgspec.Struct):
    type: str
    data: dict[str, Any] | None = None
    data_length: int | None = None
    payload_length: int | None = None


_HEADER: Final = msgspec.json.Decoder(_Header)
_DATA: Final = msgspec.json.Decoder(dict[str, Any])


def encode(event: Event) -> bytes:
    """`event` as its bytes on the wire."""
    data = msgspec.json.encode(event.data) if event.data else b""
    payload = event.payload or b""
    header: dict[str, str | int] = {"type": event.type, "version": WYOMING_VERSION}
    if data:
        header["data_length"] = len(data)
    if payload:
        header["payload_length"] = len(payload)
    return msgspec.json.encode(header) + b"\n" + data + payload


class EventStream:
    """The events of one connection. `receive` may be cancelled and called again; `send` may not."""

    def __init__(self, stream: GuardedStream, max_data_bytes: int) -> None:
        self._stream = stream
        self._max_data_bytes = max_data_bytes
        self._buffer = bytearray()

    async def receive(self) -> Event:
        """The client's next event.

        Raises:
            Closed: there is none.
            InvalidJSON: what came is no event.
            InvalidRequest: the event is too long, or carries a payload, which no event for speech does.
        """
        await trio.lowlevel.checkpoint()  # a buffer full of small events must not hold up everybody else
        while (end := self._buffer.find(b"\n")) < 0 and len(self._buffer) <= MAX_HEADER_BYTES:
            await self._fill()
        if not 0 <= end <= MAX_HEADER_BYTES:
            raise InvalidRequest(f"The line that begins an event must have at most {MAX_HEADER_BYTES} bytes.")
        header = _decode(_HEADER, self._buffer[:end])
        length = header.data_length or 0
        if not 0 <= length <= self._max_data_bytes:
            raise InvalidRequest(f"'data_length' must be from 0 to {self._max_data_bytes}.", field="data_length")
        if header.payload_length:
            raise InvalidRequest("An event that asks for speech carries no payload.", field="payload_length")
        while len(self._buffer) < end + 1 + length:
            await self._fill()
        data = dict(header.data or {})
        if length:
            data |= _decode(_DATA, self._buffer[end + 1 : end + 1 + length])
        del self._buffer[: end + 1 + length]
        return Event(header.type, data)

    async def _fill(self) -> None:
        try:
            received = await self._stream.receive_some(READ_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Closed from error
        if not received:
            raise Closed
        self._buffer += received

    async def send(self, messages: list[str | bytes]) -> None:
        """Send encoded events.

        Raises:
            Closed: the connection is gone, or the client took nothing for too long.
        """
        try:
            await self._stream.send_all(b"".join(part.encode() if isinstance(part, str) else part for part in messages))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Closed from error


def _decode(decoder: msgspec.json.Decoder[Any], data: bytearray) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidJSON("This is no Wyoming event.") from error
