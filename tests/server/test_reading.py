"""What clients write, read into structs; what is wrong with it, told by the field's name."""

from __future__ import annotations

from typing import Final

import msgspec
import pytest

from tts_provider.errors import InvalidJSON, InvalidRequest, InvalidSampleRate, RequestError, UnknownModel
from tts_provider.server.reading import NAME_LENGTH, SPEED_RANGE, Name, Reader, Speed


class Voice(msgspec.Struct):
    id: Name


class Asked(msgspec.Struct):
    text: str
    voice: Name | Voice | None = None
    speed: Speed = 1.0
    sample_rate: int = 24_000


WANTED: Final = {"text": "must be text", "voice": NAME_LENGTH, "speed": SPEED_RANGE, "sample_rate": "must be 24000"}
READER: Final = Reader(Asked, WANTED, whole="This is no request.", whole_kind=UnknownModel)


def test_the_same_is_read_from_json_from_objects_and_from_queries() -> None:
    """Fields that nobody knows are passed over."""
    expected = Asked("Hi there", "nova", 1.5, 8_000)
    assert READER.json('{"text": "Hi there", "voice": "nova", "speed": 1.5, "sample_rate": 8000, "more": [1]}') == expected
    assert READER.object({"text": "Hi there", "voice": "nova", "speed": 1.5, "sample_rate": 8_000, "more": [1]}) == expected
    assert READER.query("text=Hi+there&voice=nova&speed=1.5&sample_rate=8000.0&more=1") == expected


def test_a_field_of_a_query_without_a_value_is_absent() -> None:
    assert READER.query("text=Hi&speed=&voice=") == Asked("Hi")


@pytest.mark.parametrize(
    ("data", "kind", "field", "message"),
    [
        ("{}", InvalidRequest, "text", "'text' must be text."),
        ('{"text": 5}', InvalidRequest, "text", "'text' must be text."),
        ('{"text": "Hi", "speed": 9}', InvalidRequest, "speed", "'speed' must be a number from 0.25 to 4."),
        ('{"text": "Hi", "voice": {"id": ""}}', InvalidRequest, "voice", "'voice' must be a string of 1 to 100 characters."),
        ('{"text": "Hi", "voice": {}}', InvalidRequest, "voice", "'voice' must be a string of 1 to 100 characters."),
        ('{"text": "Hi", "sample_rate": "fast"}', InvalidSampleRate, "sample_rate", "'sample_rate' must be 24000."),
        ("[]", UnknownModel, None, "This is no request."),
        ("null", UnknownModel, None, "This is no request."),
        ("{", InvalidJSON, None, "This is no good JSON."),
        ('{"more": ' + "[" * 100_000, InvalidJSON, None, "This is no good JSON."),
        (b'{"text": "\xff"}', InvalidJSON, None, "This is no good JSON."),
        (b'{"text": "\\ud800"}', InvalidJSON, None, "This is no good JSON."),
    ],
)
def test_what_is_wrong_is_told(data: str | bytes, kind: type[RequestError], field: str | None, message: str) -> None:
    """By the outermost name that the client gave it."""
    with pytest.raises(RequestError) as caught:
        READER.json(data)
    assert (type(caught.value), caught.value.field, caught.value.message) == (kind, field, message)


@pytest.mark.parametrize("query", ["text=Hi&speed=nan", "text=Hi&speed=fast", "text=Hi&speed=1e9"])
def test_a_query_holds_to_the_same_ranges(query: str) -> None:
    with pytest.raises(InvalidRequest, match="'speed' must be a number"):
        READER.query(query)


def test_a_query_has_a_bound() -> None:
    with pytest.raises(InvalidRequest, match="32 fields"):
        READER.query("&".join(f"field{number}=1" for number in range(33)))
