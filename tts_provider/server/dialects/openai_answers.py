"""How OpenAI's API answers a request for speech: audio or server-sent events, with its own names for wrong fields."""

from __future__ import annotations

import base64
import math
from typing import ClassVar, Final, NoReturn

import msgspec

from tts_provider.errors import TTSError
from tts_provider.messages import SpeechParameters
from tts_provider.server.http import HttpError
from tts_provider.server.http_audio import AudioAnswer
from tts_provider.server.service import SpeechService
from tts_provider.streaming.text import TextSource
from tts_provider.streaming.utterance import Summary

__all__ = ["EventAnswer", "OpenAIAnswer", "refuse"]

TOKENS_PER_CHARACTER: Final = 0.25
TOKENS_PER_SECOND: Final = 20
"""OpenAI's rules of thumb. Nothing here has tokens; ``usage`` is an estimate for clients that insist on it."""

FIELD_NAMES: Final = {"text": "input", "speaker": "voice", "format": "response_format"}
"""The core's names for fields that OpenAI calls something else."""


def refuse(error: TTSError) -> NoReturn:
    """Raise `error` with its field named as OpenAI does."""
    error.field = FIELD_NAMES.get(error.field or "", error.field)
    raise error


class OpenAIAnswer(AudioAnswer):
    """Audio."""

    def __init__(self, service: SpeechService, parameters: SpeechParameters, text: TextSource, characters: int) -> None:
        """`characters`: the text's length in code points."""
        super().__init__(service, parameters, text, refuse=refuse)
        self._input_tokens = math.ceil(characters * TOKENS_PER_CHARACTER)


class EventAnswer(OpenAIAnswer):
    """The same as server-sent events."""

    own_media_type: ClassVar[str | None] = "text/event-stream"

    def pack(self, audio: bytes) -> bytes:
        # Base64 needs no escaping, so the event is put together by hand: it is sent for each frame.
        return b'data: {"type":"speech.audio.delta","audio":"%s"}\n\n' % base64.b64encode(audio)

    def end(self, summary: Summary) -> bytes:
        output_tokens = math.ceil(summary.duration_ms / 1000 * TOKENS_PER_SECOND)
        usage = {
            "input_tokens": self._input_tokens,
            "output_tokens": output_tokens,
            "total_tokens": self._input_tokens + output_tokens,
        }
        return b"data: %s\n\n" % msgspec.json.encode({"type": "speech.audio.done", "usage": usage})

    def break_off(self, error: TTSError) -> bytes:
        return b"data: %s\n\n" % msgspec.json.encode({"type": "error", "error": HttpError.of(error)})
