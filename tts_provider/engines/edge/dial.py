"""Streams to the service: TCP, through a proxy where there is one, with TLS where it is asked for."""

from __future__ import annotations

import ssl
from base64 import b64encode
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

import certifi
import h11
import trio

__all__ = ["Address", "Dialer", "Proxy", "ProxyRefused"]

_SECURE: Final = {"wss": True, "https": True, "ws": False, "http": False}
_PORTS: Final = {True: 443, False: 80}
RECEIVE_BYTES: Final = 65_536
MAX_ANSWER_BYTES: Final = 16_384
"""Of a proxy's answer to CONNECT."""


class ProxyRefused(OSError):
    """The proxy does not let us through."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int
    secure: bool

    @classmethod
    def parse(cls, url: str) -> Address:
        """The address in ``scheme://host:port``, where the scheme is ws, wss, http or https.

        Raises:
            ValueError: it is something else, or says more.
        """
        parts = urlsplit(url)
        if parts.scheme not in _SECURE or not parts.hostname or parts.path.strip("/") or parts.query or parts.username:
            raise ValueError(f"expected scheme, host and port, such as wss://127.0.0.1:8443, not {url!r}")
        secure = _SECURE[parts.scheme]
        return cls(parts.hostname, parts.port or _PORTS[secure], secure)

    @property
    def netloc(self) -> str:
        """Host and, where it is not the usual one, port: the value of a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.secure] else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy that is asked to CONNECT."""

    host: str
    port: int
    authorization: bytes | None = None
    """Value of the Proxy-Authorization header; secret."""

    @classmethod
    def parse(cls, url: str) -> Proxy:
        """The proxy in ``http://[user:password@]host[:port]``.

        Raises:
            ValueError: it is something else; the message does not repeat it, for it may hold a password.
        """
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError("expected a proxy such as http://127.0.0.1:3128")
        authorization = None
        if parts.username is not None:
            credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = b"Basic " + b64encode(credentials.encode())
        return cls(parts.hostname, parts.port or _PORTS[False], authorization)


class Dialer:
    """Opens streams to one server."""

    def __init__(self, address: Address, proxy: Proxy | None = None) -> None:
        self.address = address
        self._proxy = proxy
        self._context: ssl.SSLContext | None = None

    def prepare(self) -> None:
        """Load the trusted certificates, the machine's and certifi's; 30 ms, so not in the event loop."""
        if self.address.secure:
            self._context = ssl.create_default_context()
            self._context.load_verify_locations(certifi.where())

    async def dial(self) -> trio.abc.Stream:
        """A stream on which the server's protocol can be spoken at once. Without a deadline of its own.

        Raises:
            OSError: there is no way to the server, or the proxy does not give one.
            ssl.SSLError: the server is not who it should be.
        """
        address = self.address
        stream: trio.abc.Stream
        if self._proxy is None:
            stream = await trio.open_tcp_stream(address.host, address.port)
        else:
            stream = await trio.open_tcp_stream(self._proxy.host, self._proxy.port)
        try:
            if self._proxy is not None:
                await _ask_through(stream, address, self._proxy)
            if self._context is not None:
                tls = trio.SSLStream(stream, self._context, server_hostname=address.host, https_compatible=True)
                await tls.do_handshake()
                stream = tls
        except trio.BrokenResourceError as error:
            await trio.aclose_forcefully(stream)
            if isinstance(error.__cause__, (ssl.SSLError, OSError)):
                raise error.__cause__ from error
            raise ConnectionResetError("closed while connecting") from error
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream


async def _ask_through(stream: trio.abc.Stream, address: Address, proxy: Proxy) -> None:
    """Have the proxy connect `stream` to `address`."""
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_ANSWER_BYTES)
    target = f"{f'[{address.host}]' if ':' in address.host else address.host}:{address.port}".encode()
    headers = [(b"Host", target)]
    if proxy.authorization is not None:
        headers.append((b"Proxy-Authorization", proxy.authorization))
    request = http.send(h11.Request(method=b"CONNECT", target=target, headers=headers))
    await stream.send_all((request or b"") + (http.send(h11.EndOfMessage()) or b""))
    while True:
        try:
            event = http.next_event()
        except h11.RemoteProtocolError as error:
            raise ProxyRefused(502) from error
        if event is h11.NEED_DATA:
            http.receive_data(bytes(await stream.receive_some(RECEIVE_BYTES)))
        elif isinstance(event, h11.Response):
            if not 200 <= event.status_code < 300:
                raise ProxyRefused(event.status_code)
            return  # nothing follows: the server speaks only when it is asked
        elif not isinstance(event, h11.InformationalResponse):
            raise ProxyRefused(502)
