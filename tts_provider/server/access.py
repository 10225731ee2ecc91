"""Who may use the server: keys, and the web pages that a browser may come from. docs/security.md is its description.

Checked on the head of each request, before an upgrade and before any handler, so that no dialect can forget it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Self
from urllib.parse import unquote

import h11

from tts_provider.errors import Forbidden, TTSError, Unauthorized
from tts_provider.settings import Settings, SettingsError

__all__ = ["Access", "choose_subprotocol", "is_loopback"]

SUBPROTOCOL: Final = "tts"
"""What a browser offers beside its key, so that the server has something to answer that is no secret."""
KEY_SUBPROTOCOL: Final = "tts.key."
"""Before a key, percent-encoded: browsers send no headers of their own with a WebSocket, but subprotocols."""
SCHEMES: Final = ("bearer", "token")
"""Of the Authorization header; the second is Deepgram's. In browsers its clients offer it as a subprotocol, before the key."""

SAFE_METHODS: Final = (b"GET", b"HEAD", b"OPTIONS")
"""A page from elsewhere may send these, and reads the answer only if CORS lets it."""
OPEN_PATHS: Final = (b"/", b"/worklet.js", b"/health", b"/ready", b"/v1/audio/voices")
"""Need no key: the page, which asks for one; what orchestrators probe; the list that Open WebUI reads without its key."""

EVERY_ORIGIN: Final = "*"
_ORIGIN: Final = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s]+")
_KEY: Final = re.compile(r"[!-~]+")
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}

Headers = Iterable[tuple[bytes, bytes]]


class Access:
    """The keys, of which only digests are kept, and the allowed origins."""

    def __init__(self, keys: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        """Without `keys` everybody may in. `origins`: from which pages besides the server's own; ``*`` for all.

        Raises:
            SettingsError: a key or an origin cannot be one.
        """
        self._digests = [_digest(key) for key in _checked(keys)]
        self.origins = tuple(origin.rstrip("/").lower() for origin in origins)
        for origin in self.origins:
            if not _ORIGIN.fullmatch(origin):
                raise SettingsError(f"allowed_origins must hold origins such as https://example.org, not {origin!r}.")

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """What `settings` say.

        Raises:
            SettingsError: the file of keys cannot be read or holds none, or a value makes no sense.
        """
        keys = list(settings.api_keys)
        if settings.api_keys_file:
            keys += _read_keys(Path(settings.api_keys_file))
        return cls(keys, settings.allowed_origins)

    @property
    def key_count(self) -> int:
        return len(self._digests)

    def check(self, request: h11.Request, *, websocket: bool) -> None:
        """Return if `request` may be answered. `websocket`: it asks for an upgrade.

        Raises:
            Forbidden: a browser sent it for a page that is neither ours nor allowed.
            Unauthorized: it has no key, or a wrong one.
        """
        if websocket or request.method not in SAFE_METHODS:
            host = next(iter(_values(request.headers, b"host")), "").lower()
            if not all(self._may_come_from(origin, host) for origin in _values(request.headers, b"origin")):
                raise Forbidden(
                    "Pages from this origin may not use this server; the setting allowed_origins names those that may."
                )
        if self._digests and (websocket or not self._is_open(request)) and not self._has_key(request, websocket):
            raise Unauthorized("This server asks for a key: send 'Authorization: Bearer KEY' with one that it knows.")

    def refusal_headers(self, request: h11.Request, error: TTSError) -> list[tuple[bytes, bytes]]:
        """Headers of the response that tells of `error`; an allowed page can read it then."""
        headers = [(b"www-authenticate", b"Bearer")] if isinstance(error, Unauthorized) else []
        for origin in _values(request.headers, b"origin"):
            if self._is_listed(origin):
                headers += [(b"access-control-allow-origin", origin.encode()), (b"vary", b"Origin")]
        return headers

    def _may_come_from(self, origin: str, host: str) -> bool:
        scheme, _, authority = origin.lower().partition("://")
        port = _DEFAULT_PORTS.get(scheme, "")
        same = bool(authority) and authority.removesuffix(port) == host.removesuffix(port)
        return same or self._is_listed(origin)

    def _is_listed(self, origin: str) -> bool:
        return EVERY_ORIGIN in self.origins or origin.lower() in self.origins

    def _is_open(self, request: h11.Request) -> bool:
        if request.method == b"OPTIONS":  # a preflight carries no key
            names = {name for name, _ in request.headers}
            return bool(self.origins) and {b"origin", b"access-control-request-method"} <= names
        # The bare path only: any other way to write it asks for a key.
        return request.method in (b"GET", b"HEAD") and request.target.partition(b"?")[0] in OPEN_PATHS

    def _has_key(self, request: h11.Request, websocket: bool) -> bool:
        """Whether a key is there and known. All are compared to the end, so that time tells nothing."""
        known = False
        for offered in _offered_keys(request.headers, websocket):
            digest = _digest(offered)
            for ours in self._digests:
                known |= hmac.compare_digest(digest, ours)
        return known


def choose_subprotocol(headers: Headers) -> str | None:
    """The subprotocol to accept an upgrade with: never the one that is a key. None when the client offers none that we know."""
    return _read_subprotocols(headers)[0]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _offered_keys(headers: Headers, websocket: bool) -> Iterator[str]:
    """At most two: one in each place."""
    for value in list(_values(headers, b"authorization"))[:1]:
        scheme, _, key = value.partition(" ")
        if scheme.lower() in SCHEMES:
            yield key.strip()
    if websocket and (key := _read_subprotocols(headers)[1]):
        yield key


def _read_subprotocols(headers: Headers) -> tuple[str | None, str]:
    """Of those that a client offers, the one to answer with and the key; empty when there is none."""
    offered = [part.strip() for value in _values(headers, b"sec-websocket-protocol") for part in value.split(",")]
    if len(offered) > 1 and offered[0].lower() in SCHEMES:
        return offered[0], offered[1]
    key = next((part.removeprefix(KEY_SUBPROTOCOL) for part in offered if part.startswith(KEY_SUBPROTOCOL)), "")
    return SUBPROTOCOL if SUBPROTOCOL in offered else None, unquote(key)


def _values(headers: Headers, name: bytes) -> Iterator[str]:
    """The values of a header; the listener has seen to it that they are ASCII."""
    return (value.decode("ascii") for given, value in headers if given == name)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _read_keys(file: Path) -> list[str]:
    """One key a line; blank lines and those that begin with ``#`` say nothing."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except OSError as error:
        raise SettingsError(f"The file of keys cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise SettingsError("The file of keys is not UTF-8.") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:  # a server that lost its keys must not become one that asks for none
        raise SettingsError("The file of keys holds no key.")
    return keys


def _checked(keys: Iterable[str]) -> Iterator[str]:
    for number, key in enumerate(keys, 1):
        if not _KEY.fullmatch(key):
            raise SettingsError(f"Key {number} must be visible ASCII characters without a blank.")
        yield key
