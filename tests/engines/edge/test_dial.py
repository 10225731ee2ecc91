"""Addresses, proxies and TLS."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.edge_service import ConnectProxy, EdgeService, authority_file
from tests.engines.edge.harness import failure_of, running, say
from tts_provider.engines.edge import EdgeEngine
from tts_provider.engines.edge.dial import Address, Dialer, Proxy, ProxyRefused
from tts_provider.errors import EngineUnavailable


@pytest.mark.parametrize(
    ("url", "expected", "netloc"),
    [
        ("wss://speech.example", Address("speech.example", 443, True), "speech.example"),
        ("ws://127.0.0.1:8080/", Address("127.0.0.1", 8080, False), "127.0.0.1:8080"),
        ("https://[::1]:8443", Address("::1", 8443, True), "[::1]:8443"),
        ("http://localhost:80", Address("localhost", 80, False), "localhost"),
    ],
)
def test_addresses(url: str, expected: Address, netloc: str) -> None:
    assert Address.parse(url) == expected
    assert expected.netloc == netloc


@pytest.mark.parametrize(
    "url", ["", "localhost:80", "ftp://host", "ws://", "ws://host/path", "ws://host?query", "ws://user@host", "ws://host:x"]
)
def test_other_things_are_no_addresses(url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (two come from urllib)
        Address.parse(url)


def test_a_proxy_may_need_a_password() -> None:
    assert Proxy.parse("http://proxy.example:3128") == Proxy("proxy.example", 3128)
    assert Proxy.parse("http://me:p%40ss@proxy.example") == Proxy("proxy.example", 80, b"Basic bWU6cEBzcw==")


def test_an_unusable_proxy_is_refused_without_repeating_its_password() -> None:
    with pytest.raises(ValueError, match="expected a proxy") as caught:
        Proxy.parse("socks5://me:secret@proxy.example")
    assert "secret" not in str(caught.value)


async def test_speech_comes_through_a_proxy(service: EdgeService, tmp_path: Path) -> None:
    with ConnectProxy() as proxy:
        engine = EdgeEngine(endpoint=service.endpoint, cache_dir=tmp_path, proxy=proxy.url)
        async with running(engine):
            assert (await say(engine, "Through the wall.")).seconds > 1
        assert set(proxy.asked) == {f"127.0.0.1:{service.port}"}


async def test_a_proxy_is_told_the_password(service: EdgeService, tmp_path: Path) -> None:
    with ConnectProxy(credentials="me:secret") as proxy:
        url = proxy.url.replace("http://", "http://me:secret@")
        async with running(EdgeEngine(endpoint=service.endpoint, cache_dir=tmp_path, proxy=url)) as engine:
            assert (await say(engine, "Open sesame.")).seconds > 1


@pytest.mark.parametrize("status", [403, 407, 502])
async def test_a_proxy_that_refuses_is_told_by_its_status(service: EdgeService, tmp_path: Path, status: int) -> None:
    with ConnectProxy(status=status) as proxy:
        engine = EdgeEngine(endpoint=service.endpoint, cache_dir=tmp_path, proxy=proxy.url)
        async with running(engine):
            error = await failure_of(engine, "Hello.")
    assert isinstance(error, EngineUnavailable)
    assert error.message == f"Edge's speech service cannot be reached: the proxy answered HTTP {status}."


async def test_a_proxy_that_talks_nonsense_is_refused() -> None:
    async def nonsense(stream: trio.SocketStream) -> None:
        await stream.send_all(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, nonsense, listeners)
        port = listeners[0].socket.getsockname()[1]
        with pytest.raises(ProxyRefused):
            await Dialer(Address("speech.example", 443, False), Proxy("127.0.0.1", port)).dial()
        nursery.cancel_scope.cancel()


async def test_speech_comes_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority_file()))
    with EdgeService(tls=True) as service:
        async with running(EdgeEngine(endpoint=service.endpoint, cache_dir=tmp_path)) as engine:
            assert (await say(engine, "Nobody else can hear this.")).seconds > 1


async def test_speech_comes_over_tls_through_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority_file()))
    with EdgeService(tls=True) as service, ConnectProxy() as proxy:
        async with running(EdgeEngine(endpoint=service.endpoint, cache_dir=tmp_path, proxy=proxy.url)) as engine:
            assert (await say(engine, "Nor the proxy.")).seconds > 1


async def test_a_certificate_that_nobody_trusts_is_refused(tmp_path: Path) -> None:
    with EdgeService(tls=True) as service:
        engine = EdgeEngine(endpoint=service.endpoint, cache_dir=tmp_path)
        async with running(engine):
            error = await failure_of(engine, "Hello.")
    assert isinstance(error, EngineUnavailable)
    assert error.message == "Edge's speech service cannot be reached: its certificate is not to be trusted."


async def test_a_server_without_tls_is_told_so(service: EdgeService, tmp_path: Path) -> None:
    engine = EdgeEngine(endpoint=service.endpoint.replace("ws:", "wss:"), cache_dir=tmp_path)
    async with running(engine):
        error = await failure_of(engine, "Hello.")
    assert isinstance(error, EngineUnavailable)
    assert "does not speak TLS" in error.message
