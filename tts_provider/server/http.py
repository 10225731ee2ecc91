"""The plain HTTP of the port: `/health`, `/ready` and 404."""

from __future__ import annotations

import json
from collections.abc import Callable

import h11
import trio

__all__ = ["respond"]


async def respond(stream: trio.abc.Stream, connection: h11.Connection, request: h11.Request, ready: Callable[[], bool]) -> None:
    """Answer `request` on `connection` and leave closing to the caller. One request a connection."""
    path = request.target.partition(b"?")[0]
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store"), (b"connection", b"close")]
    if path not in (b"/health", b"/ready"):
        status, body = 404, {"status": "error", "message": "There is nothing here. This port speaks WebSocket; see /health."}
    elif request.method not in (b"GET", b"HEAD"):
        status, body = 405, {"status": "error", "message": "Only GET and HEAD are answered here."}
        headers.append((b"allow", b"GET, HEAD"))
    elif path == b"/ready" and not ready():
        status, body = 503, {"status": "not ready"}
    else:
        status, body = 200, {"status": "ok"}
    await send_response(stream, connection, status, headers, body, head_only=request.method == b"HEAD")


async def send_response(
    stream: trio.abc.Stream,
    connection: h11.Connection,
    status: int,
    headers: list[tuple[bytes, bytes]],
    body: dict[str, str],
    *,
    head_only: bool = False,
) -> None:
    """Send one whole JSON response; without its body when `head_only`."""
    data = json.dumps(body).encode()
    headers = [*headers, (b"content-length", str(len(data)).encode())]
    parts = [
        connection.send(h11.Response(status_code=status, headers=headers)),
        connection.send(h11.Data(data=b"" if head_only else data)),
        connection.send(h11.EndOfMessage()),
    ]
    await stream.send_all(b"".join(part for part in parts if part))
