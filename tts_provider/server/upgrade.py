"""What makes an HTTP request a good request for a WebSocket, checked before trio-websocket sees it.

trio-websocket 0.12.2 accepts keys that are none and HTTP/1.0, and a request that it refuses it keeps until its time is up.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

import h11

__all__ = ["VERSION", "asks_for_websocket", "rebuild", "upgrade_fault"]

VERSION: Final = b"13"
"""Of RFC 6455, the only one in use."""
KEY_BYTES: Final = 16


def asks_for_websocket(request: h11.Request) -> bool:
    """Whether the request is meant to become a WebSocket, well or badly."""
    return any(name == b"upgrade" and value.lower() == b"websocket" for name, value in request.headers)


def upgrade_fault(request: h11.Request) -> tuple[int, str] | None:
    """The HTTP status and the message for a request that cannot become a WebSocket; None for a good one."""
    if request.method != b"GET" or request.http_version != b"1.1":
        return 400, "A WebSocket is asked for with GET and HTTP/1.1."
    values: dict[bytes, list[bytes]] = {}
    for name, value in request.headers:
        values.setdefault(name, []).append(value)
    options = b",".join(values.get(b"connection", [])).lower().split(b",")
    if b"upgrade" not in [option.strip() for option in options]:
        return 400, "A request for a WebSocket has the header 'Connection: Upgrade'."
    if b"transfer-encoding" in values or values.get(b"content-length", [b"0"]) != [b"0"]:
        return 400, "A request for a WebSocket has no body."
    if values.get(b"sec-websocket-version") != [VERSION]:
        return 426, "This server speaks version 13 of WebSocket."
    if not _is_key(values.get(b"sec-websocket-key", [])):
        return 400, "A request for a WebSocket has one 'Sec-WebSocket-Key' of 16 bytes in base64."
    return None


def _is_key(keys: list[bytes]) -> bool:
    try:
        return len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == KEY_BYTES
    except binascii.Error:
        return False


def rebuild(request: h11.Request) -> bytes:
    """The head as h11 understood it. Stricter than passing on what came."""
    lines = [b"%s %s HTTP/%s" % (request.method, request.target, request.http_version)]
    lines += [b"%s: %s" % (name, value) for name, value in request.headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"
