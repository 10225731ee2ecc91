"""A message as a JSON object whose values are not read yet; what is no such object, or is more than one should be, refused.

This comes before all else that is done with a message, on the event loop and for anybody: it looks at each byte a few times at
most, however the message is made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from tts_provider.errors import InvalidJSON, InvalidRequest, InvalidText

__all__ = ["MAX_KEYS", "decode_object"]

MAX_KEYS: Final = 32
"""Keys in one request; the richest legal one has about 20."""
MAX_FIELDS_CHARS: Final = 65_536
"""Characters of a message, its text not counted: no other field has so much to say, and what is in them is read on the event
loop."""
MAX_DIGITS: Final = 400
"""Of a number; the largest float has 309."""

_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ANYTHING: Final = msgspec.json.Decoder(msgspec.Raw)
_KEY: Final = re.compile(rb'[\s{,]*"[^"\\]*(?:\\.[^"\\]*)*"\s*:\s*')
_END: Final = re.compile(rb"[\s{]*\}\s*")


def decode_object(message: str) -> dict[str, msgspec.Raw]:
    """The fields of the object in `message`, each as it was written.

    Raises:
        InvalidJSON: it is not JSON.
        InvalidText: it holds half a surrogate pair.
        InvalidRequest: it is no object, has a field twice, or has too much in it.
    """
    try:
        fields = _OBJECT.decode(message)
    except msgspec.ValidationError as error:
        if not _is_json(message):  # only its first character was looked at
            raise InvalidJSON("Invalid request format: expected JSON") from error
        raise InvalidRequest("Invalid request format: expected a JSON object.") from error
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        if _holds_half_a_surrogate(message):
            raise InvalidText("The text holds half a surrogate pair, which is no character.", field="text") from error
        raise InvalidJSON("Invalid request format: expected JSON") from error
    if len(fields) > MAX_KEYS:
        raise InvalidRequest(f"Invalid request format: more than {MAX_KEYS} fields.")
    if len(message) - len(str(fields.get("text", b""), "utf-8")) > MAX_FIELDS_CHARS:
        raise InvalidRequest(f"Invalid request format: more than {MAX_FIELDS_CHARS} characters beside the text.")
    _refuse_duplicates(message, fields)
    _refuse_long_numbers(fields)
    return fields


def _is_json(message: str) -> bool:
    try:
        _ANYTHING.decode(message)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _holds_half_a_surrogate(message: str) -> bool:
    """Whether `message` is good JSON but for a character that no encoding has. Not looked for in very long ones."""
    if len(message) > MAX_FIELDS_CHARS:
        return False
    try:
        json.dumps(json.loads(message), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    except (ValueError, RecursionError):
        return False
    return False


def _refuse_duplicates(message: str, fields: Mapping[str, msgspec.Raw]) -> None:
    """msgspec keeps the last of two equal keys without a word; two texts in one request are somebody's mistake.

    So `message` must be `fields`, one after the other. Nothing is parsed again: a megabyte of objects within a field would take
    a parser that calls back 100 ms, in which nobody else is served.
    """
    data = message.encode()
    position = 0
    for value in fields.values():
        key = _KEY.match(data, position)
        if key is None or not data.startswith(raw := bytes(value), key.end()):
            raise InvalidRequest("Invalid request format: a field occurs twice.")
        position = key.end() + len(raw)
    if _END.fullmatch(data, position) is None:
        raise InvalidRequest("Invalid request format: a field occurs twice.")


def _refuse_long_numbers(fields: Mapping[str, msgspec.Raw]) -> None:
    """To read a number takes the square of its digits."""
    if any(len(raw := bytes(value)) > MAX_DIGITS and raw[:1] in b"-0123456789" for value in fields.values()):
        raise InvalidJSON("Invalid request format: expected JSON")
