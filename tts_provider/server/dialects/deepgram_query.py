"""What a Deepgram URL asks for: the query of ``/v1/speak`` as speech parameters."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import parse_qsl

from tts_provider.engines.base import VoiceRequest
from tts_provider.errors import InvalidRequest, InvalidSampleRate, UnknownModel, UnknownSpeaker, UnsupportedFormat
from tts_provider.messages import MAX_NAME, MAX_SPEED, MIN_SPEED, SpeechParameters
from tts_provider.server.service import SpeechService

__all__ = ["PATH", "Target", "parse_query", "settle_voice"]

PATH: Final = "/v1/speak"
MAX_FIELDS: Final = 32
"""Fields in one query; Deepgram has about 10."""
SAMPLE_RATES: Final = (8_000, 16_000, 24_000, 32_000, 48_000)
"""Hz, of what has no container."""
TELEPHONE_RATE: Final = 8_000
"""Hz of mulaw and alaw where none is asked for."""
DEFAULT_RATE: Final = 24_000

RAW: Final[Mapping[str, str]] = {"linear16": "pcm", "mulaw": "mulaw", "alaw": "alaw"}
"""Deepgram's encodings that a WebSocket can have, and our formats."""
FILES: Final[Mapping[str, str]] = {"mp3": "mp3", "opus": "opus", "flac": "flac", "aac": "aac"}
"""Those that only a POST can have."""
CONTAINERS: Final = {"opus": ("ogg",), "linear16": ("none", "wav")}
"""The containers that an encoding can have, where that is not ``none`` alone."""


@dataclass(frozen=True, slots=True)
class Target:
    """Who shall speak, and in what form."""

    parameters: SpeechParameters
    """With `format` set."""
    name: str
    """The model's name to tell the client."""
    doubtful: bool = False
    """The voice may well be a name of Deepgram's own; `settle_voice` finds out."""
    warning: str | None = None

    @property
    def uuid(self) -> str:
        """The same for the same name."""
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, self.name))


def parse_query(query: str, service: SpeechService, *, streaming: bool) -> Target:
    """What `query`, without its question mark, asks for. Unknown fields are ignored.

    Args:
        streaming: whether it is a WebSocket's, which carries bare samples only.

    Raises:
        RequestError: a field is wrong; the error names it.
    """
    try:
        fields = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError as error:
        raise InvalidRequest(f"The query has more than {MAX_FIELDS} fields.") from error
    if "callback" in fields:
        raise InvalidRequest("'callback' is not supported: the audio is in the answer.", field="callback")
    encoding = fields.get("encoding", "linear16" if streaming else "mp3").lower()
    format = _format(encoding, fields.get("container"), streaming)
    parameters = SpeechParameters(
        sample_rate=_sample_rate(fields.get("sample_rate"), encoding),
        format=format,
        speed=_speed(fields.get("speed", "1")),
        stream=True,
    )
    return _with_model(parameters, fields.get("model", ""), service)


async def settle_voice(target: Target, service: SpeechService) -> Target:
    """`target` with a voice that the engine has: a doubtful one that it lacks becomes its default one, with a warning.

    Raises:
        EngineUnavailable: the engine cannot be loaded.
    """
    if not target.doubtful:
        return target
    parameters = target.parameters
    async with service.catalog.use(service.catalog.find(parameters.model).name) as engine:
        try:
            engine.resolve(VoiceRequest(parameters.lang, parameters.speaker, parameters.voice))
        except UnknownSpeaker:
            parameters = replace(parameters, voice=None)
            return Target(parameters, target.name, warning=_substitution(target.name, engine.name))
    return replace(target, doubtful=False)


def _with_model(parameters: SpeechParameters, model: str, service: SpeechService) -> Target:
    catalog = service.catalog
    if len(model) > MAX_NAME:
        raise UnknownModel(f"'model' has more than {MAX_NAME} characters.", field="model")
    if not model:
        return Target(parameters, catalog.default)
    if model.lower().startswith("aura"):
        return Target(parameters, model, warning=_substitution(model, catalog.default))
    engine, colon, voice = model.partition(":")
    if colon:
        parameters = replace(parameters, model=catalog.find(engine).name)
        if re.fullmatch("[0-9]{1,4}", voice):
            return Target(replace(parameters, speaker=int(voice)), model)
        return Target(replace(parameters, voice=voice or None), model)
    try:
        return Target(replace(parameters, model=catalog.find(model).name), model)
    except UnknownModel:
        return Target(replace(parameters, voice=model), model, doubtful=True)


def _substitution(model: str, engine: str) -> str:
    return f"There is no voice '{model}' here; the default voice of '{engine}' speaks."


def _format(encoding: str, container: str | None, streaming: bool) -> str:
    encodings = RAW if streaming else {**FILES, **RAW}
    if encoding not in encodings:
        raise UnsupportedFormat(f"'encoding' must be one of {', '.join(encodings)}.", field="encoding")
    containers = CONTAINERS.get(encoding, ("none",)) if not streaming else ("none",)
    if container and container.lower() not in containers:
        raise UnsupportedFormat(f"'container' must be {' or '.join(containers)} for {encoding}.", field="container")
    return "wav" if (container or "").lower() == "wav" else encodings[encoding]


def _sample_rate(value: str | None, encoding: str) -> int:
    if not value:
        return TELEPHONE_RATE if encoding in ("mulaw", "alaw") else DEFAULT_RATE
    digits = re.fullmatch(r"([0-9]{1,6})(?:\.0)?", value)  # SDKs send some whole numbers as 24000.0
    rate = int(digits[1]) if digits else 0
    if rate not in SAMPLE_RATES and (encoding in RAW or not rate):
        raise InvalidSampleRate(f"'sample_rate' must be one of {', '.join(map(str, SAMPLE_RATES))}.", field="sample_rate")
    return rate


def _speed(value: str) -> float:
    try:
        speed = float(value)
    except ValueError:
        speed = 0.0
    if not MIN_SPEED <= speed <= MAX_SPEED:  # false for NaN
        raise InvalidRequest(f"'speed' must be a number from {MIN_SPEED} to {MAX_SPEED:.0f}.", field="speed")
    return speed
