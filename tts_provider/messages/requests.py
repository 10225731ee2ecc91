"""What a client may say, read and written.

Each field of a request is read on its own, so that an error names the field and carries the code of its kind: a speaker of
``"abc"`` is `invalid_speaker`, whatever else the request says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeVar

import msgspec

from tts_provider.errors import (
    InvalidRequest,
    InvalidSampleRate,
    InvalidSpeaker,
    InvalidText,
    RequestError,
    UnknownCommand,
    UnknownModel,
    UnknownSpeaker,
    UnsupportedFormat,
    UnsupportedLanguage,
)
from tts_provider.messages.objects import MAX_KEYS, decode_object

PROTOCOL_VERSION: Final = 2
"""What `hello` speaks. 1 is the dialect of the replaced server."""

MAX_REQUEST_ID: Final = 64
"""Characters of a request's id."""
MAX_NAME: Final = 100
"""Characters of a model's, a voice's or a language's name. Longer ones are refused before anybody looks them up."""
MAX_SPEAKER: Final = 9999
"""Highest unified speaker id: reference files are numbered with up to four digits."""
MIN_SPEED: Final = 0.25
MAX_SPEED: Final = 4.0
DEFAULT_SAMPLE_RATE: Final = 24_000
"""Hz, what the replaced server gave whoever asked for nothing."""
DEFAULT_LANG: Final = "en-US"
IGNORED_FIELDS: Final = ("rate", "volume", "pitch")
"""Voice parameters that old clients may send. They were documented as ignored, and are, with a warning."""

_REQUEST_ID: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,62}[\x21-\x7e])?")
_DIGITS: Final = re.compile(r"[0-9]{1,4}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SpeechParameters:
    """Everything about a request but its text."""

    model: str | None = None
    """As the client wrote it; None for the server's default."""
    voice: str | None = None
    speaker: int = 0
    lang: str = DEFAULT_LANG
    sample_rate: int = DEFAULT_SAMPLE_RATE
    """Hz."""
    format: str | None = None
    """None: ``pcm`` when streaming, ``wav`` otherwise."""
    stream: bool = False
    final_wav: bool = True
    speed: float = 1.0
    timestamps: bool = False
    request_id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Options for one engine, from ``extra_params``."""
    warnings: tuple[str, ...] = ()
    """What was asked for and is ignored, in sentences for the client."""


@dataclass(frozen=True, slots=True)
class Speak:
    """A whole text to be spoken."""

    text: str
    parameters: SpeechParameters


@dataclass(frozen=True, slots=True)
class Begin:
    """A text that is still being written; `Append` brings it."""

    parameters: SpeechParameters


@dataclass(frozen=True, slots=True)
class Append:
    text: str
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Flush:
    """Speak what is buffered now."""

    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class End:
    """The text is complete."""

    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Hello:
    """Switches the connection to multiplexing."""

    version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class Info:
    pass


@dataclass(frozen=True, slots=True)
class Voices:
    model: str | None = None
    lang: str | None = None


@dataclass(frozen=True, slots=True)
class Preload:
    model: str | None = None


Request = Speak | Begin | Append | Flush | End | Cancel | Hello | Info | Voices | Preload


def parse_request(message: str) -> Request:
    """The request in a text message.

    Raises:
        InvalidJSON: it is not JSON.
        RequestError: it is not a request, or a field of it is wrong; the error names the field.
    """
    fields = _Fields(decode_object(message))
    if "command" not in fields:
        return Speak(fields.text(), _speech_parameters(fields))
    command = fields.read("command", str, InvalidRequest, "'command' must be a string.")
    match command:
        case "info":
            return Info()
        case "voices":
            return Voices(fields.name("model", UnknownModel), fields.name("lang", UnsupportedLanguage))
        case "preload":
            return Preload(fields.name("model", UnknownModel))
        case "hello":
            return Hello(_version(fields))
        case "begin":
            return Begin(_speech_parameters(fields))
        case "append":
            return Append(fields.text(), fields.request_id())
        case "flush":
            return Flush(fields.request_id())
        case "end":
            return End(fields.request_id())
        case "cancel":
            return Cancel(fields.request_id())
        case _:
            raise UnknownCommand(f"There is no such command. Commands: {', '.join(COMMANDS)}.", field="command")


def request_id_of(message: str) -> str | None:
    """The id of a request that could not be parsed, if that much can be read of it: an error is of more use with it."""
    try:
        return _Fields(decode_object(message)).request_id()
    except RequestError:
        return None


COMMANDS: Final = ("append", "begin", "cancel", "end", "flush", "hello", "info", "preload", "voices")


def _version(fields: _Fields) -> int:
    version = fields.read("version", int, InvalidRequest, "'version' must be a number.", default=PROTOCOL_VERSION)
    if version != PROTOCOL_VERSION:
        raise InvalidRequest(f"'version' must be {PROTOCOL_VERSION}, the one that this server speaks.", field="version")
    return version


def _speech_parameters(fields: _Fields) -> SpeechParameters:
    warnings: list[str] = []
    model, old_name = fields.name("model", UnknownModel), fields.name("model_type", UnknownModel)
    if model is not None and old_name is not None and model.lower() != old_name.lower():
        warnings.append("'model' and 'model_type' disagree; 'model' was taken.")
    ignored = [name for name in IGNORED_FIELDS if name in fields]
    if ignored:
        warnings.append(f"Ignored, as not supported: {', '.join(ignored)}. Use 'speed' for the rate.")
    return SpeechParameters(
        model=model if model is not None else old_name,
        voice=fields.name("voice", UnknownSpeaker),
        speaker=fields.speaker(),
        lang=fields.name("lang", UnsupportedLanguage) or DEFAULT_LANG,
        sample_rate=fields.sample_rate(),
        format=fields.name("format", UnsupportedFormat),
        stream=fields.flag("stream", default=False),
        final_wav=fields.flag("final_wav", default=True),
        speed=fields.speed(),
        timestamps=fields.flag("timestamps", default=False),
        request_id=fields.request_id(),
        extra=fields.extra(),
        warnings=tuple(warnings),
    )


_MISSING: Final = object()


class _Fields:
    """The fields of one request; each reader checks one of them. ``null`` is the same as absent."""

    def __init__(self, fields: dict[str, msgspec.Raw]) -> None:
        self._fields = {name: value for name, value in fields.items() if bytes(value) != b"null"}
        self._null = fields.keys() - self._fields.keys()

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def read(self, name: str, kind: type[T], error: type[RequestError], message: str, default: Any = _MISSING) -> T:
        raw = self._fields.get(name)
        if raw is None:
            if default is _MISSING or (name in self._null and kind is str):
                raise error(message, field=name)
            return default  # type: ignore[no-any-return]
        try:
            return msgspec.json.decode(raw, type=kind)
        except (msgspec.DecodeError, RecursionError) as cause:
            raise error(message, field=name) from cause

    def text(self) -> str:
        raw = self._fields.get("text")
        if raw is not None and bytes(raw).startswith(b'"'):
            return self.read(
                "text", str, InvalidText, "'text' holds a character that is not text, such as half a surrogate pair."
            )
        raise InvalidRequest("'text' must be a string: the text to speak.", field="text")

    def name(self, name: str, error: type[RequestError]) -> str | None:
        if name not in self._fields:
            return None
        value = self.read(name, str, error, f"'{name}' must be a string.")
        if not value or len(value) > MAX_NAME:
            raise error(f"'{name}' must be a string of 1 to {MAX_NAME} characters.", field=name)
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        return self.read(name, bool, InvalidRequest, f"'{name}' must be true or false.", default=default)

    def request_id(self) -> str | None:
        message = f"'request_id' must be a string of 1 to {MAX_REQUEST_ID} printable ASCII characters."
        if "request_id" not in self._fields:
            return None
        value = self.read("request_id", str, InvalidRequest, message)
        if not _REQUEST_ID.fullmatch(value):
            raise InvalidRequest(message, field="request_id")
        return value

    def speaker(self) -> int:
        message = f"'speaker' must be a whole number from 0 to {MAX_SPEAKER}."
        value: object = self.read("speaker", object, InvalidSpeaker, message, default=0)
        if isinstance(value, str) and _DIGITS.fullmatch(value):
            value = int(value)
        if isinstance(value, str):
            # Old clients number their speakers; a name can only be meant for 'voice', and is nobody we know.
            raise UnknownSpeaker(f"There is no such speaker. {message} A voice's name goes into 'voice'.", field="speaker")
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SPEAKER:
            raise InvalidSpeaker(message, field="speaker")
        return value

    def sample_rate(self) -> int:
        message = "'sample_rate' must be a whole number of Hz, such as 24000."
        value: object = self.read("sample_rate", object, InvalidSampleRate, message, default=DEFAULT_SAMPLE_RATE)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidSampleRate(message, field="sample_rate")
        return value

    def speed(self) -> float:
        message = f"'speed' must be a number from {MIN_SPEED} to {MAX_SPEED}."
        value: object = self.read("speed", object, InvalidRequest, message, default=1.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not MIN_SPEED <= value <= MAX_SPEED:
            raise InvalidRequest(message, field="speed")
        return float(value)

    def extra(self) -> dict[str, Any]:
        message = "'extra_params' must be an object."
        extra = self.read("extra_params", dict[str, Any], InvalidRequest, message, default={})
        if len(extra) > MAX_KEYS:
            raise InvalidRequest(f"'extra_params' has more than {MAX_KEYS} fields.", field="extra_params")
        return extra


def encode_request(request: Request) -> str:
    """The text message that carries `request`; what is at its default is left out."""
    match request:
        case Speak(text, parameters):
            written: dict[str, Any] = {"text": text} | _speech(parameters)
        case Begin(parameters):
            written = {"command": "begin"} | _speech(parameters)
        case Append(text, request_id):
            written = {"command": "append", "text": text, "request_id": request_id}
        case Flush(request_id):
            written = {"command": "flush", "request_id": request_id}
        case End(request_id):
            written = {"command": "end", "request_id": request_id}
        case Cancel(request_id):
            written = {"command": "cancel", "request_id": request_id}
        case Hello(version):
            written = {"command": "hello", "version": version}
        case Info():
            written = {"command": "info"}
        case Voices(model, lang):
            written = {"command": "voices", "model": model, "lang": lang}
        case Preload(model):
            written = {"command": "preload", "model": model}
    return msgspec.json.encode({name: value for name, value in written.items() if value is not None}).decode()


_DEFAULTS: Final = SpeechParameters()
_WIRE_NAMES: Final = {"extra": "extra_params"}
_NOT_SENT: Final = ("warnings",)


def _speech(parameters: SpeechParameters) -> dict[str, Any]:
    return {
        _WIRE_NAMES.get(name, name): getattr(parameters, name)
        for name in (each.name for each in fields(SpeechParameters) if each.name not in _NOT_SENT)
        if getattr(parameters, name) != getattr(_DEFAULTS, name)
    }
