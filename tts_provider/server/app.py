"""The HTTP application: health, readiness, metrics, the server's description, the page, and the routes of HTTP dialects."""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from importlib import resources
from typing import Any, Final

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from tts_provider.errors import InternalError, TTSError
from tts_provider.server.http import ErrorBody, HttpError, error_headers, error_type
from tts_provider.server.http_bridge import ASGIApp, Message, Receive, Send
from tts_provider.server.http_json import JSONResponse
from tts_provider.server.metrics import CONTENT_TYPE, Metrics

__all__ = ["build_app"]

NO_STORE: Final = {"cache-control": "no-store"}

Endpoint = Callable[[Request], Awaitable[Response]]


def build_app(
    routes: Iterable[BaseRoute],
    *,
    metrics: Metrics,
    ready: Callable[[], bool],
    describe: Callable[[], object],
    origins: Sequence[str] = (),
) -> ASGIApp:
    """The application.

    Args:
        routes: those of the HTTP dialects.
        ready: whether the server can take work.
        describe: what `/v1/info` answers, as anything that msgspec encodes.
        origins: of the pages from elsewhere that may read answers; ``*`` for all.
    """

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"}, headers=NO_STORE)

    async def readiness(_: Request) -> Response:
        if ready():
            return JSONResponse({"status": "ok"}, headers=NO_STORE)
        return JSONResponse({"status": "not ready"}, status_code=503, headers=NO_STORE)

    async def exposition(_: Request) -> Response:
        return Response(metrics.exposition(), headers={"content-type": CONTENT_TYPE, **NO_STORE})

    async def info(_: Request) -> Response:
        return JSONResponse(describe(), headers=NO_STORE)

    def tell(error: TTSError) -> Response:
        metrics.told(error)
        body = ErrorBody(HttpError.of(error))
        return JSONResponse(body, status_code=error.http_status, headers=error_headers(error))

    async def tell_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, TTSError)
        return tell(error)

    async def tell_fault(_: Request, __: Exception) -> Response:
        return tell(InternalError("Something went wrong in the server."))

    app = Starlette(
        routes=[
            Route("/health", health),
            Route("/ready", readiness),
            Route("/metrics", exposition),
            Route("/v1/info", info),
            *_page_routes(),
            *routes,
        ],
        exception_handlers={TTSError: tell_error, HTTPException: _tell_http_error, Exception: tell_fault},
    )
    with_ids = _RequestIds(app)  # outermost, so that an answer to a fault has an id too
    return _for_pages_of(origins, with_ids) if origins else with_ids


def _for_pages_of(origins: Sequence[str], app: ASGIApp) -> ASGIApp:
    """`app` with CORS. Keys are sent by hand and cookies are not used, so credentials are never allowed."""
    from starlette.middleware.cors import CORSMiddleware

    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST"),
        allow_headers=("*",),
        expose_headers=("x-request-id", "x-should-retry", "retry-after", "dg-request-id"),
    )


class _RequestIds:
    """Gives each request an id: in the response's ``x-request-id`` and in every log line."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        request_id = f"req_{uuid.uuid4().hex}"

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        with structlog.contextvars.bound_contextvars(request=request_id):
            await self._app(scope, receive, send_with_id)


async def _tell_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = {
        404: f"There is nothing at {request.url.path}. See /v1/info, /v1/audio/speech and the page at /.",
        405: f"{request.method} is not answered at {request.url.path}.",
    }.get(error.status_code, error.detail)
    body = ErrorBody(HttpError(message, error_type(error.status_code)))
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


# --- The page ---


def _page_routes() -> list[Route]:
    html = _read("index.html")
    return [
        Route("/", _file(html, "text/html; charset=utf-8", {"content-security-policy": _content_security_policy(html)})),
        Route("/worklet.js", _file(_read("worklet.js"), "text/javascript; charset=utf-8", {})),
    ]


def _read(name: str) -> bytes:
    return resources.files("tts_provider.server").joinpath("page", name).read_bytes()


def _file(content: bytes, media_type: str, headers: dict[str, str]) -> Endpoint:
    async def answer(_: Request) -> Response:
        common = {"cache-control": "no-cache", "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
        return Response(content, headers={"content-type": media_type, **common, **headers})

    return answer


def _content_security_policy(html: bytes) -> str:
    """Nothing from elsewhere, and no script or style but the page's own, which are known by their hashes."""

    def hashes(tag: bytes) -> str:
        found = re.findall(rb"<%s>(.*?)</%s>" % (tag, tag), html, re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'" for text in found)

    # ws: and wss: because some browsers do not take a WebSocket to the page's own host for 'self'.
    return (
        f"default-src 'none'; script-src 'self' {hashes(b'script')}; style-src {hashes(b'style')}; "
        "connect-src 'self' ws: wss:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
