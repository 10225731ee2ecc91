"""What all HTTP answers of the port have in common: the form of an error, and how one is sent without an application."""

from __future__ import annotations

import math
from collections.abc import Sequence
from email.utils import formatdate
from typing import Final

import h11
import msgspec
import trio

from tts_provider.errors import TTSError

__all__ = [
    "ENGINE_USED",
    "ErrorBody",
    "HttpError",
    "common_headers",
    "error_headers",
    "error_type",
    "linger",
    "send_error",
]

ENGINE_USED: Final = "x-engine-used"
"""Header that names the engine that speaks, when it is another than the one that was asked for."""
LINGER_S: Final = 1.0
"""Reading on after an early refusal. Closing a socket on unread bytes resets it, and the client may never see the answer."""
LINGER_BYTES: Final = 16 * 2**20


class HttpError(msgspec.Struct):
    """What went wrong, in the form that OpenAI's clients read and other clients can."""

    message: str
    type: str
    param: str | None = None
    """The request's field at fault."""
    code: str | None = None
    """As in `tts_provider.errors`; None for errors of HTTP itself."""

    @classmethod
    def of(cls, error: TTSError) -> HttpError:
        return cls(error.message, error_type(error.http_status), error.field, error.code)


class ErrorBody(msgspec.Struct):
    """The JSON body of every HTTP error."""

    error: HttpError


def error_type(status: int) -> str:
    """The `type` that goes with an HTTP status."""
    if status == 401:
        return "authentication_error"
    if status == 403:
        return "permission_error"
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"


def error_headers(error: TTSError) -> dict[str, str]:
    """Headers that tell a client whether and when to try again; OpenAI's SDK obeys the first."""
    headers = {"x-should-retry": "true" if error.retryable else "false"}
    if error.retry_after_ms is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after_ms / 1000))
    return headers


def common_headers() -> list[tuple[bytes, bytes]]:
    """Headers of every response."""
    return [(b"date", formatdate(usegmt=True).encode()), (b"server", b"tts-provider")]


async def send_error(
    stream: trio.abc.Stream,
    connection: h11.Connection,
    status: int,
    message: str,
    *,
    head_only: bool = False,
    retry_after_s: int | None = None,
    code: str | None = None,
    more_headers: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    """Refuse a request that no application has answered, and read on for a moment so that the client sees why.

    Afterwards the connection can only be closed. `head_only`: the request is a HEAD. `code`: as in `tts_provider.errors`.
    """
    if connection.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
        return
    body = msgspec.json.encode(ErrorBody(HttpError(message, error_type(status), code=code)))
    headers = [
        *common_headers(),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *more_headers,
    ]
    if retry_after_s is not None:
        headers.append((b"retry-after", str(retry_after_s).encode()))
    data = connection.send(h11.Response(status_code=status, headers=headers)) or b""
    if not head_only:
        data += connection.send(h11.Data(data=body)) or b""
    await stream.send_all(data + (connection.send(h11.EndOfMessage()) or b""))
    await linger(stream)


async def linger(stream: trio.abc.Stream) -> None:
    """Read and forget what the client still sends, for `LINGER_S` at most."""
    with trio.move_on_after(LINGER_S):
        left = LINGER_BYTES
        while left > 0 and (data := await stream.receive_some(65_536)):
            left -= len(data)
