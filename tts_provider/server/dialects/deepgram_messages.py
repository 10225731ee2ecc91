"""Deepgram's messages as JSON: what a client says, read; what it is told, written."""

from __future__ import annotations

from typing import Final

import msgspec

from tts_provider.errors import InvalidJSON, UnsupportedMessage

__all__ = ["Message", "encode", "parse_message"]


class Message(msgspec.Struct):
    """What a client may say. Unknown fields are ignored."""

    type: str
    text: str | None = None
    """Not None in a ``Speak``."""


_DECODER: Final = msgspec.json.Decoder(Message)


def parse_message(message: str | bytes) -> Message:
    """The message of a client; its type may be one that nobody knows.

    Raises:
        UnsupportedMessage: it is binary.
        InvalidJSON: it is no object with a type, or a ``Speak`` without text.
    """
    if isinstance(message, bytes):
        raise UnsupportedMessage("Messages are JSON in text messages; a binary message came.")
    try:
        parsed = _DECODER.decode(message)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise InvalidJSON('Messages are JSON objects such as {"type": "Speak", "text": "Hello."}.') from error
    if parsed.type == "Speak" and parsed.text is None:
        raise InvalidJSON("'Speak' needs a 'text'.", field="text")
    return parsed


def encode(type: str, **fields: str | int) -> str:
    """A message of the server."""
    return msgspec.json.encode({"type": type, **fields}).decode()
