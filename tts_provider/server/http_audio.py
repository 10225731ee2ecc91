"""Speech as the answer to an HTTP request: sent while it is made, in a dialect's own packing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Final, NoReturn

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tts_provider.errors import TTSError
from tts_provider.messages import SpeechParameters
from tts_provider.server.http import ENGINE_USED
from tts_provider.server.service import SpeechService
from tts_provider.streaming.containers import FORMATS
from tts_provider.streaming.events import Started
from tts_provider.streaming.text import TextSource
from tts_provider.streaming.utterance import Summary

__all__ = ["DEFAULT_FORMAT", "AudioAnswer"]

DEFAULT_FORMAT: Final = "mp3"
"""What HTTP clients that name no format take an answer for."""

log = structlog.get_logger(__name__)


def _leave_to_application(error: TTSError) -> NoReturn:
    raise error


class AudioAnswer(Response):
    """Speaks when it is sent: the audio as it is made.

    What fails before the first audio is an HTTP error. What fails after it ends the connection without the end of the body, so
    that a short answer is never taken for a whole one. A dialect with its own packing overrides `pack`, `end`, `break_off`.
    """

    own_media_type: ClassVar[str | None] = None
    """Instead of the format's."""

    def __init__(
        self,
        service: SpeechService,
        parameters: SpeechParameters,
        text: TextSource,
        *,
        headers: Mapping[str, str] | None = None,
        refuse: Callable[[TTSError], Response] = _leave_to_application,
    ) -> None:
        """
        Args:
            headers: of the audio, besides the usual ones.
            refuse: the answer when no audio was sent; it may raise, and the application answers that as it does everywhere.
        """
        self._service = service
        self._parameters = parameters
        self._format = parameters.format or DEFAULT_FORMAT
        self._text = text
        self._more_headers = headers or {}
        self._refuse = refuse
        self._begun = False
        self._engine_used = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def deliver(audio: bytes) -> None:
            if not self._begun:
                self._begun = True
                await send({"type": "http.response.start", "status": 200, "headers": self._audio_headers()})
            await send({"type": "http.response.body", "body": self.pack(audio), "more_body": True})

        try:
            summary = await self._service.speak(self._parameters, self._format, self._text, deliver, on_start=self._note)
        except TTSError as error:
            if not self._begun:
                await self._refuse(error)(scope, receive, send)
                return
            self._service.metrics.told(error)
            log.warning("speech.broke_off", code=error.code, error=error.message)
            if (end := self.break_off(error)) is not None:
                await send({"type": "http.response.body", "body": end})
            return
        await send({"type": "http.response.body", "body": self.end(summary)})

    def _note(self, started: Started) -> None:
        self._engine_used = started.engine

    def _audio_headers(self) -> list[tuple[bytes, bytes]]:
        headers = {
            "content-type": self.own_media_type or FORMATS[self._format].media_type,
            "cache-control": "no-store",
            "x-accel-buffering": "no",  # nginx would hold the audio back
            **self._more_headers,
        }
        if self._engine_used != self._service.catalog.find(self._parameters.model).name:
            headers[ENGINE_USED] = self._engine_used
        return [(name.encode(), value.encode()) for name, value in headers.items()]

    def pack(self, audio: bytes) -> bytes:
        """`audio` as it goes into the body."""
        return audio

    def end(self, summary: Summary) -> bytes:
        """The last bytes of the body."""
        return b""

    def break_off(self, error: TTSError) -> bytes | None:
        """The last bytes after an error; None to leave the body without an end."""
        return None
