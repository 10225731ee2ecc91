"""OpenAI's HTTP API for speech: `/v1/audio/speech`, and the lists of models and voices that its clients read.

Audio is sent while it is made. What fails before the first audio is an HTTP error; what fails after it ends the connection
without the end of the body, or as an ``error`` event, so that a short answer is never taken for a whole one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Final, Literal, get_args

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tts_provider.engines.base import Voice
from tts_provider.engines.catalog import EngineState
from tts_provider.errors import EngineError, TTSError
from tts_provider.messages import DEFAULT_LANG, SpeechParameters
from tts_provider.server.dialects.openai_answers import EventAnswer, OpenAIAnswer, refuse
from tts_provider.server.http_json import JSONResponse
from tts_provider.server.reading import SPEED_RANGE, Name, Reader, Speed
from tts_provider.server.service import SpeechService
from tts_provider.server.voices import speaker_or_voice
from tts_provider.settings import SettingsError

__all__ = ["OpenAIDialect"]

SAMPLE_RATE: Final = 24_000
"""Hz of every answer: what clients of OpenAI's ``pcm`` take for granted."""

MODELS: Final = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
"""OpenAI's names that are listed; any other that begins like them also means the default engine."""
MODEL_PREFIXES: Final = ("tts-1", "gpt-")

SPEAKERS: Final[Mapping[str, int]] = {
    "alloy": 0, "ash": 2, "ballad": 2, "cedar": 2, "coral": 1, "echo": 0, "fable": 3, "marin": 1, "nova": 1, "onyx": 2,
    "sage": 1, "shimmer": 3, "verse": 0,
}  # fmt: skip
"""The unified speaker that stands for each of OpenAI's voices: alike in gender, and in accent where there is one."""

ResponseFormat = Literal["pcm", "wav", "mp3", "opus", "flac", "aac"]

WANTED: Final = {
    "input": "must be a string: the text to speak",
    "model": "must be a string",
    "voice": 'must be a string or an object such as {"id": "alloy"}',
    "speed": SPEED_RANGE,
    "response_format": f"must be one of {', '.join(get_args(ResponseFormat))}",
    "stream_format": "must be 'audio' or 'sse'",
    "instructions": "must be a string",
    "lang": "must be a language tag such as 'en-US'",
}

log = structlog.get_logger(__name__)


class VoiceReference(msgspec.Struct):
    id: Name


class SpeechRequest(msgspec.Struct):
    """The body of a speech request. Unknown fields are ignored, ``null`` is the same as absent."""

    input: str
    model: Name | None = None
    voice: Name | VoiceReference | None = None
    response_format: ResponseFormat | None = None
    speed: Speed | None = None
    stream_format: Literal["audio", "sse"] | None = None
    instructions: str | None = None
    lang: Name | None = None
    """Not OpenAI's: the language, for engines whose voices speak several."""


_BODY: Final = Reader(SpeechRequest, WANTED, whole="The body must be a JSON object.")


class OpenAIDialect:
    """The routes of OpenAI's API over one service."""

    def __init__(self, service: SpeechService) -> None:
        """
        Raises:
            SettingsError: the setting ``openai_voices`` makes no sense.
        """
        self._service = service
        self._voices = _parse_voices(service.settings.openai_voices)
        self._created = int(time.time())

    def routes(self) -> list[Route]:
        return [
            Route("/v1/audio/speech", self._speak, methods=["POST"]),
            Route("/v1/models", self._list_models),
            Route("/v1/models/{name:path}", self._describe_model),
            Route("/v1/audio/models", self._list_audio_models),
            Route("/v1/audio/voices", self._list_voices),
        ]

    # --- Speech ---

    async def _speak(self, request: Request) -> Response:
        try:
            body = _BODY.json(await request.body())
            model = self._engine(body.model)
            speaker, voice = self._voice(body.voice, model)
            parameters = SpeechParameters(
                model=model,
                speaker=speaker,
                voice=voice,
                lang=body.lang or DEFAULT_LANG,
                sample_rate=SAMPLE_RATE,
                format=body.response_format or "mp3",
                speed=1.0 if body.speed is None else body.speed,
                extra={} if body.instructions is None else {"instructions": body.instructions},
            )
            text = self._service.text_source(body.input)
        except TTSError as error:
            refuse(error)
        answer = EventAnswer if body.stream_format == "sse" else OpenAIAnswer
        return answer(self._service, parameters, text, len(body.input))

    def _engine(self, model: str | None) -> str:
        """The engine that `model` means; OpenAI's own models mean the default one."""
        catalog = self._service.catalog
        if model is None or model.lower().startswith(MODEL_PREFIXES):
            return catalog.default
        return catalog.find(model).name

    def _voice(self, voice: str | VoiceReference | None, engine: str) -> tuple[int, str | None]:
        """The speaker and the voice's name that `voice` means for `engine`."""
        if voice is None:
            return 0, None
        name = voice.id if isinstance(voice, VoiceReference) else voice
        known = name.lower()
        configured = self._voices.get(f"{engine}/{known}") or self._voices.get(known)
        if configured is None and known in SPEAKERS:
            speaker = SPEAKERS[known]
            return (speaker if str(speaker) in self._service.catalog.find(engine).speakers else 0), None
        return speaker_or_voice(configured or name)

    # --- Lists ---

    def _models(self) -> list[str]:
        catalog = self._service.catalog
        names = [entry.name for entry in catalog.entries if catalog.state(entry.name) is not EngineState.UNAVAILABLE]
        return [*names, *MODELS]

    def _model(self, name: str) -> dict[str, str | int]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "tts-provider"}

    async def _list_models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model(name) for name in self._models()]})

    async def _describe_model(self, request: Request) -> Response:
        name = request.path_params["name"]
        self._engine(name)
        return JSONResponse(self._model(name))

    async def _list_audio_models(self, _: Request) -> Response:
        return JSONResponse({"models": [{"id": name, "name": name} for name in self._models()]})

    async def _list_voices(self, request: Request) -> Response:
        """The voices of ``?model=``; without one those that any model takes, and the default model's own."""
        model = request.query_params.get("model")
        if model is not None:
            return JSONResponse({"voices": _entries(await self._service.voices.listed(self._engine(model)))})
        named = sorted({*SPEAKERS, *(name for name in self._voices if "/" not in name)})
        voices: list[dict[str, str | None]] = [{"id": name, "name": name.title()} for name in named]
        try:
            voices += _entries(await self._service.voices.listed(self._service.catalog.default))
        except EngineError as error:  # a service that cannot be reached: better a short list than none
            log.warning("voices.unavailable", error=error.message)
        return JSONResponse({"voices": voices})


def _entries(voices: Sequence[Voice]) -> list[dict[str, str | None]]:
    return [{"id": voice.id, "name": voice.name, "lang": voice.language, "gender": voice.gender} for voice in voices]


def _parse_voices(lines: Sequence[str]) -> dict[str, str]:
    voices: dict[str, str] = {}
    for line in lines:
        name, _, voice = (part.strip() for part in line.partition("="))
        if not name or not voice:
            raise SettingsError(f"openai_voices must hold entries such as nova=1 or edge/nova=en-US-AriaNeural, not {line!r}.")
        voices[name.lower()] = voice
    return voices
