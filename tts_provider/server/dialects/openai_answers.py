"""How OpenAI's API answers a request for speech: audio or server-sent events, sent while the speech is made."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec
import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tts_provider.errors import TTSError
from tts_provider.messages import SpeechParameters
from tts_provider.server.http import ENGINE_USED, HttpError
from tts_provider.server.service import SpeechService
from tts_provider.streaming.containers import FORMATS
from tts_provider.streaming.events import AudioFrame, Event, Started
from tts_provider.streaming.text import TextSource

__all__ = ["AudioAnswer", "EventAnswer", "openai_names"]

TOKENS_PER_CHARACTER: Final = 0.25
TOKENS_PER_SECOND: Final = 20
"""OpenAI's rules of thumb. Nothing here has tokens; ``usage`` is an estimate for clients that insist on it."""

FIELD_NAMES: Final = {"text": "input", "speaker": "voice", "format": "response_format"}
"""The core's names for fields that OpenAI calls something else."""

log = structlog.get_logger(__name__)


@contextmanager
def openai_names() -> Iterator[None]:
    """Errors from the block name fields as OpenAI does."""
    try:
        yield
    except TTSError as error:
        error.field = FIELD_NAMES.get(error.field or "", error.field)
        raise


class AudioAnswer(Response):
    """Speaks when it is sent: the audio as it is made."""

    def __init__(self, service: SpeechService, parameters: SpeechParameters, text: TextSource, characters: int) -> None:
        """`characters`: the text's length in code points."""
        self._service = service
        self._parameters = parameters
        self._format = parameters.format or "mp3"
        self._text = text
        self._input_tokens = math.ceil(characters * TOKENS_PER_CHARACTER)
        self._begun = False
        self._engine_used = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def deliver(event: Event) -> None:
            if isinstance(event, AudioFrame):
                await self._begin(send)
                await send({"type": "http.response.body", "body": self._pack(event.data), "more_body": True})
            elif isinstance(event, Started):
                self._engine_used = event.engine

        try:
            with openai_names():
                async with self._service.utterance(self._parameters, self._format, self._text) as utterance:
                    summary = await utterance.run(deliver)
        except TTSError as error:
            if not self._begun:
                raise
            self._service.metrics.told(error)
            log.warning("speech.broke_off", code=error.code, error=error.message)
            if (end := self._end_of_failure(error)) is not None:
                await send({"type": "http.response.body", "body": end})
            return
        await send({"type": "http.response.body", "body": self._end(summary.duration_ms / 1000)})

    async def _begin(self, send: Send) -> None:
        if not self._begun:
            self._begun = True
            # X-Accel-Buffering: nginx would hold the audio back.
            headers = {"content-type": self._media_type, "cache-control": "no-store", "x-accel-buffering": "no"}
            if self._engine_used != self._parameters.model:
                headers[ENGINE_USED] = self._engine_used
            raw = [(name.encode(), value.encode()) for name, value in headers.items()]
            await send({"type": "http.response.start", "status": 200, "headers": raw})

    @property
    def _media_type(self) -> str:
        return FORMATS[self._format].media_type

    def _pack(self, audio: bytes) -> bytes:
        return audio

    def _end(self, seconds: float) -> bytes:
        return b""

    def _end_of_failure(self, error: TTSError) -> bytes | None:
        """The last bytes after an error; None to break the answer off."""
        return None


class EventAnswer(AudioAnswer):
    """The same as server-sent events."""

    @property
    def _media_type(self) -> str:
        return "text/event-stream"

    def _pack(self, audio: bytes) -> bytes:
        # Base64 needs no escaping, so the event is put together by hand: it is sent for each frame.
        return b'data: {"type":"speech.audio.delta","audio":"%s"}\n\n' % base64.b64encode(audio)

    def _end(self, seconds: float) -> bytes:
        output_tokens = math.ceil(seconds * TOKENS_PER_SECOND)
        usage = {
            "input_tokens": self._input_tokens,
            "output_tokens": output_tokens,
            "total_tokens": self._input_tokens + output_tokens,
        }
        return b"data: %s\n\n" % msgspec.json.encode({"type": "speech.audio.done", "usage": usage})

    def _end_of_failure(self, error: TTSError) -> bytes | None:
        return b"data: %s\n\n" % msgspec.json.encode({"type": "error", "error": HttpError.of(error)})
