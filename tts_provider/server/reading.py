"""What clients write as JSON or in a URL's query, read into typed structs; what is wrong with it, told by the field's name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Generic, TypeVar
from urllib.parse import parse_qsl

import msgspec

from tts_provider.errors import InvalidJSON, InvalidRequest, InvalidSampleRate, RequestError
from tts_provider.messages import MAX_NAME, MAX_SPEED, MIN_SPEED

__all__ = ["NAME_LENGTH", "SPEED_RANGE", "Name", "Reader", "Speed"]

MAX_QUERY_FIELDS: Final = 32
"""Fields in one query; the richest API spoken here has about 10."""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]
NAME_LENGTH: Final = f"must be a string of 1 to {MAX_NAME} characters"
"""What to say of a field that is none."""
Speed = Annotated[float, msgspec.Meta(ge=MIN_SPEED, le=MAX_SPEED)]
SPEED_RANGE: Final = f"must be a number from {MIN_SPEED} to {MAX_SPEED:.0f}"

KINDS: Final[Mapping[str, type[RequestError]]] = {"sample_rate": InvalidSampleRate}
"""What a wrong field is called, where that is more than an invalid request."""

T = TypeVar("T")


class Reader(Generic[T]):
    """Reads one kind of message. Fields that the struct does not have are ignored."""

    def __init__(
        self, type: type[T], wanted: Mapping[str, str], *, whole: str, whole_kind: type[RequestError] = InvalidRequest
    ) -> None:
        """
        Args:
            wanted: what each field must be, as the end of a sentence that begins with its name.
            whole: the sentence for what is not such an object at all, raised as `whole_kind`.
        """
        self._type = type
        self._wanted = wanted
        self._whole = whole
        self._whole_kind = whole_kind
        self._decoder = msgspec.json.Decoder(type)

    def json(self, data: str | bytes | bytearray) -> T:
        """The message in `data`.

        Raises:
            InvalidJSON: it is not JSON.
            RequestError: a field is missing or wrong; the error names it.
        """
        try:
            return self._decoder.decode(data)
        except msgspec.ValidationError as error:
            raise self._wrong(error) from error
        except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
            raise InvalidJSON("This is no good JSON.") from error

    def object(self, data: Mapping[str, Any]) -> T:
        """The same for JSON that is decoded already."""
        try:
            return msgspec.convert(data, self._type)
        except msgspec.ValidationError as error:
            raise self._wrong(error) from error

    def query(self, query: str) -> T:
        """The same for a URL's query, without its question mark. Fields without a value count as absent."""
        try:
            fields = dict(parse_qsl(query, max_num_fields=MAX_QUERY_FIELDS))
            return msgspec.convert(fields, self._type, strict=False)
        except msgspec.ValidationError as error:
            raise self._wrong(error) from error
        except ValueError as error:
            raise InvalidRequest(f"The query has more than {MAX_QUERY_FIELDS} fields.") from error

    def _wrong(self, error: msgspec.ValidationError) -> RequestError:
        """`error` in the client's words, for the innermost field that has some: msgspec ends with ``at `$.voice.id` ``."""
        path = re.findall(r"\.(\w+)", str(error).rpartition("`$")[2]) + re.findall(r"required field `(\w+)`", str(error))
        for field in reversed(path):
            if field in self._wanted:
                return KINDS.get(field, InvalidRequest)(f"'{field}' {self._wanted[field]}.", field=field)
        return self._whole_kind(self._whole)
