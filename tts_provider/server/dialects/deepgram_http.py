"""Deepgram's speech over HTTP: ``POST /v1/speak``, the audio sent while it is made.

What fails before the first audio is an HTTP error in Deepgram's form; what fails after it ends the connection without the
end of the body, so that a short answer is never taken for a whole one.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Final

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tts_provider.errors import InvalidJSON, InvalidRequest, TTSError
from tts_provider.server.dialects.deepgram_query import PATH, Target, parse_query, settle_voice
from tts_provider.server.http import ENGINE_USED, JSONResponse, error_headers
from tts_provider.server.service import SpeechService
from tts_provider.streaming.containers import FORMATS
from tts_provider.streaming.events import AudioFrame, Event, Started
from tts_provider.streaming.text import TextSource

__all__ = ["deepgram_routes"]

log = structlog.get_logger(__name__)


class _Body(msgspec.Struct):
    text: str | None = None
    url: object = None


_DECODER: Final = msgspec.json.Decoder(_Body)


def deepgram_routes(service: SpeechService) -> list[Route]:
    """The routes of Deepgram's API over `service`."""

    async def speak(request: Request) -> Response:
        request_id = str(uuid.uuid4())
        try:
            text = _text(await request.body())
            target = parse_query(request.url.query, service, streaming=False)
            return _Audio(service, target, service.text_source(text), request_id)
        except TTSError as error:
            return _refusal(error, request_id)

    return [Route(PATH, speak, methods=["POST"])]


def _text(body: bytes) -> str:
    try:
        request = _DECODER.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest("The body must be a JSON object with the string 'text'.", field="text") from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidJSON("The body is no good JSON.") from error
    if request.url is not None:
        raise InvalidRequest("'url' is not supported: send the text itself.", field="url")
    if request.text is None:
        raise InvalidRequest("'text' is missing.", field="text")
    return request.text


def _refusal(error: TTSError, request_id: str) -> Response:
    body = {"err_code": error.code.upper(), "err_msg": error.message, "request_id": request_id}
    headers = {"dg-request-id": request_id, **error_headers(error)}
    return JSONResponse(body, status_code=error.http_status, headers=headers)


class _Audio(Response):
    """Speaks when it is sent: the audio as it is made."""

    def __init__(self, service: SpeechService, target: Target, text: TextSource, request_id: str) -> None:
        self._service = service
        self._target = target
        self._text = text
        self._request_id = request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False
        engine_used = ""
        asked_for = self._service.catalog.find(self._target.parameters.model).name
        format = self._target.parameters.format or "mp3"

        async def deliver(event: Event) -> None:
            nonlocal begun, engine_used
            if isinstance(event, Started):
                engine_used = event.engine
            elif isinstance(event, AudioFrame):
                if not begun:
                    begun = True
                    headers = self._audio_headers(format)
                    if engine_used != asked_for:
                        headers[ENGINE_USED] = engine_used
                    await send({"type": "http.response.start", "status": 200, "headers": _raw(headers)})
                await send({"type": "http.response.body", "body": event.data, "more_body": True})

        try:
            target = await settle_voice(self._target, self._service)
            async with self._service.utterance(target.parameters, format, self._text) as utterance:
                await utterance.run(deliver)
        except TTSError as error:
            if begun:
                log.warning("speech.broke_off", code=error.code, error=error.message)
            else:
                await _refusal(error, self._request_id)(scope, receive, send)
            return
        await send({"type": "http.response.body", "body": b""})

    def _audio_headers(self, format: str) -> dict[str, str]:
        return {
            "content-type": FORMATS[format].media_type,
            "cache-control": "no-store",
            "x-accel-buffering": "no",  # nginx would hold the audio back
            "dg-request-id": self._request_id,
            "dg-model-uuid": self._target.uuid,
        }


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
