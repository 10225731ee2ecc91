"""The service's messages, read without any socket.

A turn, as the service sends it: ``turn.start`` and ``response`` (text), then ``audio.metadata`` (text) and audio (binary) in
turns, an audio message without content type and without data, and ``turn.end`` (text). Text messages are headers, an empty line
and JSON; binary ones are two bytes with the length of the headers, the headers, and MP3.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import unescape

import msgspec

__all__ = ["Boundary", "Progress", "ProtocolError", "TurnReader"]

TICKS_PER_SECOND: Final = 10_000_000
_AUDIO_TYPE: Final = b"audio/mpeg"
_SILENT_PATHS: Final = frozenset({"turn.start", "response"})
_SILENT_TYPES: Final = frozenset({"SessionEnd", "SentenceBoundary"})


class ProtocolError(Exception):
    """The service sent what it never did; its text completes "The service sent ..."."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """A word that is spoken, and when, in seconds from the turn's first sample."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Progress:
    """What some messages of a turn brought."""

    audio: bytes
    boundaries: tuple[Boundary, ...]
    ended: bool


class _Spoken(msgspec.Struct):
    text: str = msgspec.field(name="Text")


class _Data(msgspec.Struct):
    offset: int = msgspec.field(name="Offset", default=0)
    duration: int = msgspec.field(name="Duration", default=0)
    spoken: _Spoken | None = msgspec.field(name="text", default=None)


class _Entry(msgspec.Struct):
    kind: str = msgspec.field(name="Type")
    data: _Data = msgspec.field(name="Data", default_factory=_Data)


class _Metadata(msgspec.Struct):
    entries: list[_Entry] = msgspec.field(name="Metadata")


_decode_metadata: Final = msgspec.json.Decoder(_Metadata).decode


class TurnReader:
    """Reads the messages of one turn in the order in which they come."""

    def __init__(self) -> None:
        self._audio_head: bytes | None = None
        self._metadata_head: str | None = None
        self._ended = False

    def read(self, messages: Iterable[bytes | str]) -> Progress:
        """What `messages` bring, all together; what follows the turn's end is ignored.

        Raises:
            ProtocolError: one of them is not as it should be.
        """
        audio: list[bytes] = []
        boundaries: list[Boundary] = []
        for message in messages:
            if self._ended:
                break
            if isinstance(message, bytes):
                audio.append(self._audio(message))
            else:
                self._text(message, boundaries)
        return Progress(b"".join(audio), tuple(boundaries), self._ended)

    def _audio(self, message: bytes) -> bytes:
        # All audio messages of a turn begin with the same bytes, and all metadata too, so these are read once.
        head = self._audio_head
        if head is not None and message.startswith(head):
            audio = message[len(head) :]
        else:
            length = int.from_bytes(message[:2], "big")
            if len(message) < 2 or len(message) < 2 + length:
                raise ProtocolError("a binary message that is shorter than its header")
            headers = _headers(message[2 : 2 + length])
            audio = message[2 + length :]
            if headers.get(b"Path") != b"audio":
                raise ProtocolError("a binary message that is not audio")
            content_type = headers.get(b"Content-Type")
            if content_type is None and not audio:
                return b""  # the end of the audio, shortly before the turn's
            if content_type != _AUDIO_TYPE:
                raise ProtocolError("audio of another type than MP3")
            self._audio_head = message[: 2 + length]
        if not audio:
            raise ProtocolError("an audio message without audio")
        return audio

    def _text(self, message: str, boundaries: list[Boundary]) -> None:
        head, blank, body = message.partition("\r\n\r\n")
        if not blank:
            raise ProtocolError("a text message without headers")
        if head == self._metadata_head:
            _add_boundaries(body, boundaries)
            return
        path = _headers(head.encode()).get(b"Path", b"").decode()
        if path == "audio.metadata":
            self._metadata_head = head
            _add_boundaries(body, boundaries)
        elif path == "turn.end":
            self._ended = True
        elif path not in _SILENT_PATHS:
            raise ProtocolError("a text message of an unknown kind")


def _headers(block: bytes) -> dict[bytes, bytes]:
    headers = {}
    for line in block.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            headers[name] = value
    return headers


def _add_boundaries(body: str, boundaries: list[Boundary]) -> None:
    try:
        metadata = _decode_metadata(body)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ProtocolError("metadata that cannot be read") from error
    for entry in metadata.entries:
        if entry.kind == "WordBoundary" and entry.data.spoken is not None:
            start, end = entry.data.offset, entry.data.offset + entry.data.duration
            word = unescape(entry.data.spoken.text)
            boundaries.append(Boundary(word, start / TICKS_PER_SECOND, end / TICKS_PER_SECOND))
        elif entry.kind not in _SILENT_TYPES:
            raise ProtocolError("metadata of an unknown type")
