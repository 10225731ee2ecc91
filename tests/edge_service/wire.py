"""Messages of the service, as bytes ready for the socket, and the reading of what a client sends.

Everything of a turn but its request id is the same for the same speech, so a turn is laid out once (`TurnScript`) and only the
id is filled in when it is sent: the fake must cost little, for benchmarks run it on the machine that they measure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape, unescape
from typing import Final

from tests.edge_service.speech import Boundary, Speech, seconds_of

__all__ = [
    "BadMessage",
    "Config",
    "Piece",
    "Ssml",
    "TurnScript",
    "audio_message",
    "binary_frame",
    "parse_config",
    "parse_ssml",
    "text_frame",
    "text_message",
]

OUTPUT_FORMAT: Final = "audio-24khz-48kbitrate-mono-mp3"
TICKS_PER_SECOND: Final = 10_000_000
ID_HOLE: Final = b"@" * 32
"""Stands where the request's id goes."""
STREAM_ID: Final = "5D3A9A5C1B9E4C8E9F3A7D1B2C4E6F80"
MAX_TEXT_BYTES: Final = 4096
"""Longest escaped text that edge-tts would send; longer ones risk the service's silent cut at ten minutes."""


class BadMessage(Exception):
    """The client sent what the service refuses."""


@dataclass(frozen=True, slots=True)
class Config:
    """What a ``speech.config`` message asks for."""

    words: bool
    sentences: bool


@dataclass(frozen=True, slots=True)
class Ssml:
    """What an ``ssml`` message asks for."""

    request_id: str
    voice: str
    """The voice's full name."""
    rate: float
    """1.0 is the voice's own."""
    text: str
    """Unescaped."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Frames that belong together on the wire: an audio message and the metadata of the words that begin in it."""

    at_s: float
    """Where its audio begins in the turn."""
    data: bytes


@dataclass(frozen=True, slots=True)
class TurnScript:
    """A whole turn, with holes where the request's id goes."""

    opening: bytes
    pieces: tuple[Piece, ...]
    closing: bytes
    all_metadata: bytes
    """The metadata of every word and sentence, for a turn that sends it ahead."""
    audio_only: tuple[Piece, ...]

    @classmethod
    def of(cls, speech: Speech, config: Config, message_bytes: int) -> TurnScript:
        """Lay out `speech` in audio messages of `message_bytes`."""
        marked = [("WordBoundary", word) for word in speech.words if config.words]
        marked += [("SentenceBoundary", sentence) for sentence in speech.sentences if config.sentences]
        marked.sort(key=lambda entry: entry[1].start_s)
        metadata = [(boundary.start_s, _metadata_frame(kind, boundary)) for kind, boundary in marked]
        pieces: list[Piece] = []
        audio_only: list[Piece] = []
        told = 0
        for start in range(0, len(speech.mp3), message_bytes):
            block = speech.mp3[start : start + message_bytes]
            at_s = seconds_of(speech.mp3[:start])
            end_s = at_s + seconds_of(block)
            frames = []
            while told < len(metadata) and metadata[told][0] < end_s:
                frames.append(metadata[told][1])
                told += 1
            audio = binary_frame(audio_message(block))
            pieces.append(Piece(at_s, b"".join([*frames, audio])))
            audio_only.append(Piece(at_s, audio))
        opening = text_frame(text_message("turn.start", '{"context": {"serviceTag": "4f2e1d0c9b8a49d7a1b2c3d4e5f60718"}}'))
        opening += text_frame(
            text_message(
                "response",
                '{"context":{"serviceTag":"4f2e1d0c9b8a49d7a1b2c3d4e5f60718"},"audio":{"type":"inline","streamId":"'
                + STREAM_ID
                + '"}}',
            )
        )
        closing = binary_frame(audio_message(b"", content_type=None)) if speech.mp3 else b""
        closing += text_frame(text_message("turn.end", "{}"))
        return cls(opening, tuple(pieces), closing, b"".join(frame for _, frame in metadata), tuple(audio_only))

    @staticmethod
    def filled(data: bytes, request_id: str) -> bytes:
        """`data` with the request's id in its holes."""
        return data.replace(ID_HOLE, request_id.encode())


def text_message(path: str, body: str, content_type: str = "application/json; charset=utf-8") -> str:
    """A text message of the service for the request whose id is still to be filled in."""
    return f"X-RequestId:{ID_HOLE.decode()}\r\nContent-Type:{content_type}\r\nPath:{path}\r\n\r\n{body}"


def audio_message(data: bytes, content_type: str | None = "audio/mpeg", path: str = "audio") -> bytes:
    """A binary message of the service: header length, header, audio."""
    header = f"X-RequestId:{ID_HOLE.decode()}\r\n"
    if content_type is not None:
        header += f"Content-Type:{content_type}\r\n"
    header += f"X-StreamId:{STREAM_ID}\r\nPath:{path}\r\n"
    return len(header).to_bytes(2, "big") + header.encode() + data


def _metadata_frame(kind: str, boundary: Boundary) -> bytes:
    start, end = (round(second * TICKS_PER_SECOND) for second in (boundary.start_s, boundary.end_s))
    text = escape(boundary.text, quote=False)
    data = {
        "Offset": start,
        "Duration": end - start,
        "text": {"Text": text, "Length": len(boundary.text), "BoundaryType": kind},
    }
    return text_frame(text_message("audio.metadata", json.dumps({"Metadata": [{"Type": kind, "Data": data}]})))


def text_frame(message: str) -> bytes:
    """An unmasked WebSocket text frame."""
    return _frame(0x81, message.encode())


def binary_frame(message: bytes) -> bytes:
    """An unmasked WebSocket binary frame."""
    return _frame(0x82, message)


def _frame(first_byte: int, payload: bytes) -> bytes:
    if len(payload) < 126:
        return bytes([first_byte, len(payload)]) + payload
    if len(payload) < 65_536:
        return bytes([first_byte, 126]) + len(payload).to_bytes(2, "big") + payload
    return bytes([first_byte, 127]) + len(payload).to_bytes(8, "big") + payload


_SSML: Final = re.compile(
    r"<speak version='1\.0' xmlns='http://www\.w3\.org/2001/10/synthesis' xml:lang='en-US'>"
    r"<voice name='(?P<voice>[^'<>]*)'>"
    r"<prosody pitch='[+-]\d+Hz' rate='(?P<rate>[+-]\d+)%' volume='[+-]\d+%'>"
    r"(?P<text>[^<>]*)"
    r"</prosody></voice></speak>",
    re.DOTALL,
)
_FORBIDDEN: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_ENTITY: Final = re.compile(r"&(?!amp;|lt;|gt;|quot;|apos;|#\d+;)")


def _split(message: str, path: str, required: Iterable[str]) -> tuple[dict[str, str], str]:
    head, blank, body = message.partition("\r\n\r\n")
    if not blank:
        raise BadMessage("no blank line after the headers")
    headers = dict(line.split(":", 1) for line in head.split("\r\n"))
    if headers.get("Path") != path:
        raise BadMessage(f"expected Path:{path}, got {headers.get('Path')!r}")
    missing = [name for name in required if name not in headers]
    if missing:
        raise BadMessage(f"no {missing[0]} header")
    return headers, body


def parse_config(message: str) -> Config:
    """Read a ``speech.config`` message as strictly as the service might.

    Raises:
        BadMessage: it is not one, or asks for another format.
    """
    headers, body = _split(message, "speech.config", ("X-Timestamp", "Content-Type"))
    if headers["Content-Type"] != "application/json; charset=utf-8":
        raise BadMessage(f"Content-Type is {headers['Content-Type']!r}")
    try:
        audio = json.loads(body)["context"]["synthesis"]["audio"]
        options = audio["metadataoptions"]
        words, sentences = options["wordBoundaryEnabled"], options["sentenceBoundaryEnabled"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadMessage(f"bad speech.config: {error!r}") from error
    if audio.get("outputFormat") != OUTPUT_FORMAT:
        raise BadMessage(f"outputFormat is {audio.get('outputFormat')!r}")
    if not {words, sentences} <= {"true", "false"}:
        raise BadMessage("boundary options are not 'true' or 'false'")
    return Config(words == "true", sentences == "true")


def parse_ssml(message: str) -> Ssml:
    """Read an ``ssml`` message; only the one form that Edge itself sends is accepted.

    Raises:
        BadMessage: it has another form, a character that XML forbids, or too much text.
    """
    headers, body = _split(message, "ssml", ("X-RequestId", "Content-Type", "X-Timestamp"))
    if not re.fullmatch(r"[0-9a-f]{32}", headers["X-RequestId"]):
        raise BadMessage("X-RequestId is not 32 hexadecimal digits")
    if headers["Content-Type"] != "application/ssml+xml" or not headers["X-Timestamp"].endswith("Z"):
        raise BadMessage("not the headers of Edge")
    found = _SSML.fullmatch(body)
    if found is None:
        raise BadMessage("not the SSML of Edge")
    escaped = found["text"]
    if _FORBIDDEN.search(escaped) or _ENTITY.search(escaped):
        raise BadMessage("not well-formed XML")
    if len(escaped.encode()) > MAX_TEXT_BYTES:
        raise BadMessage("too much text")
    rate = max(0.1, 1 + int(found["rate"]) / 100)
    return Ssml(headers["X-RequestId"], found["voice"], rate, unescape(escaped))
