"""TLS on the server's port: every dialect, who is trusted, and clients that only pretend."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import httpx
import pytest
import trio
import trustme
from cryptography.hazmat.primitives import serialization
from structlog.testing import capture_logs
from trio.testing import MockClock

from tests.conftest import RunningServer, StartServer
from tests.fake_engine import FakeEngine, entry
from tests.server.waiting import until
from tts_provider.client import ConnectFailed, TTSClient
from tts_provider.server.lifecycle import serve
from tts_provider.settings import Settings, SettingsError

KEY = "a-key-for-this-test"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """What a client uses that trusts the authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> dict[str, str]:
    """The settings with a certificate and its key."""
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.cert_chain_pems[0].write_to_path(cert)
    certificate.private_key_pem.write_to_path(key)
    return {"tls_cert": str(cert), "tls_key": str(key)}


def client_of(server: RunningServer, context: ssl.SSLContext, api_key: str = "") -> TTSClient:
    url = f"wss://127.0.0.1:{server.address.port}"
    return TTSClient.from_url(url, 30, ssl_context=context, api_key=api_key)


def web(server: RunningServer, context: ssl.SSLContext) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"https://127.0.0.1:{server.address.port}", verify=context, timeout=60)


async def still_serves(server: RunningServer, context: ssl.SSLContext) -> None:
    async with client_of(server, context) as client:
        assert len(await client.speak("Hi.")) > 44


async def test_https_and_wss_share_the_port(start_server: StartServer, files: dict[str, str], trusting: ssl.SSLContext) -> None:
    """Requests, streams, the page, keys and redirects are as without TLS."""
    server = await start_server(FakeEngine(), api_keys=(KEY,), **files)
    async with web(server, trusting) as http:
        assert (await http.get("/health")).status_code == 200
        assert (await http.get("/")).headers["content-type"].startswith("text/html")
        assert (await http.post("/v1/audio/speech", json={"input": "Hi."})).status_code == 401
        http.headers["authorization"] = f"Bearer {KEY}"
        async with http.stream("POST", "/v1/audio/speech", json={"input": "Hi.", "response_format": "pcm"}) as answer:
            assert len(await answer.aread()) > 4_800
        assert (await http.get("/v1/models/")).headers.get("location", "https://").startswith("https://")
    async with client_of(server, trusting, KEY) as client, client.stream("Hello there. How are you?") as speech:
        audio = b"".join([item async for item in speech if isinstance(item, bytes)])
    assert speech.success is not None
    assert speech.success.length_bytes == len(audio) > 48_000
    with pytest.raises(ConnectFailed) as caught:
        await client_of(server, trusting, "wrong").__aenter__()
    assert caught.value.status == 401


async def test_one_file_may_hold_both(
    start_server: StartServer, authority: trustme.CA, trusting: ssl.SSLContext, tmp_path: Path
) -> None:
    both = tmp_path / "both.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(both)
    await still_serves(await start_server(FakeEngine(), tls_cert=str(both)), trusting)


async def test_a_client_that_does_not_trust_the_certificate_refuses(start_server: StartServer, files: dict[str, str]) -> None:
    """And the server says nothing of it: anybody can do that as often as they like."""
    with capture_logs() as logs:
        server = await start_server(FakeEngine(), **files)
        with pytest.raises(ConnectFailed, match="certificate verify failed"):
            await client_of(server, ssl.create_default_context()).__aenter__()
    assert {line["log_level"] for line in logs} == {"info"}


async def test_old_versions_are_not_spoken(start_server: StartServer, files: dict[str, str], trusting: ssl.SSLContext) -> None:
    server = await start_server(FakeEngine(), **files)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        trusting.minimum_version = trusting.maximum_version = version
        await still_serves(server, trusting)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    tcp = await trio.open_tcp_stream("127.0.0.1", server.address.port)
    async with trio.SSLStream(tcp, old, server_hostname="127.0.0.1", https_compatible=True) as stream:
        with pytest.raises(trio.BrokenResourceError):
            await stream.do_handshake()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + b"\xff" * 100,
        b"\x00" * 1_000,
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
    ],
)
async def test_what_is_no_tls_is_dropped_without_noise(
    start_server: StartServer, files: dict[str, str], trusting: ssl.SSLContext, sent: bytes
) -> None:
    with capture_logs() as logs:
        server = await start_server(FakeEngine(), **files)
        async with await trio.open_tcp_stream("127.0.0.1", server.address.port) as stream:
            await stream.send_all(sent)
            await stream.send_eof()
            answer = b""
            try:
                while data := await stream.receive_some():
                    answer += data
            except trio.BrokenResourceError:
                pass
        assert b"HTTP" not in answer
        await still_serves(server, trusting)
    assert {line["log_level"] for line in logs} == {"info"}


async def test_a_tls_client_on_a_plain_port_is_dropped_without_noise(
    start_server: StartServer, trusting: ssl.SSLContext
) -> None:
    with capture_logs() as logs:
        server = await start_server(FakeEngine())
        with pytest.raises(ConnectFailed):
            await client_of(server, trusting).__aenter__()
    assert {line["log_level"] for line in logs} == {"info"}


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00"], ids=["nothing", "half a record"])
async def test_half_a_handshake_is_given_up(
    start_server: StartServer, files: dict[str, str], autojump_clock: MockClock, sent: bytes
) -> None:
    autojump_clock.autojump_threshold = 0.01
    server = await start_server(FakeEngine(), **files)
    async with await trio.open_tcp_stream("127.0.0.1", server.address.port) as stream:
        begun = trio.current_time()
        if sent:
            await stream.send_all(sent)
        assert await stream.receive_some() == b""
    assert trio.current_time() - begun == pytest.approx(5, abs=0.5)


async def test_a_client_that_takes_nothing_is_dropped(
    start_server: StartServer, files: dict[str, str], trusting: ssl.SSLContext
) -> None:
    """Forceful closing closes the TCP connection under the TLS, and what was asked for has stopped."""
    server = await start_server(FakeEngine(), send_stall_s=0.3, **files)
    raw = trio.socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    await raw.connect(("127.0.0.1", server.address.port))
    tcp = trio.SocketStream(raw)
    async with trio.SSLStream(tcp, trusting, server_hostname="127.0.0.1", https_compatible=True) as stream:
        body = b'{"input": "%s", "response_format": "pcm"}' % (b"This sentence goes on and on. " * 2_000)
        head = b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        await stream.send_all(head + body)
        async with web(server, trusting) as http:
            gone = (
                'outcome="cancelled"',
                'tts_active_streams{engine="fake"} 0.0',
                "\ntts_connections 1.0\n",
            )  # the one that asks
            metrics = ""
            with trio.fail_after(30):
                while not all(line in metrics for line in gone):
                    await trio.sleep(0.05)
                    metrics = (await http.get("/metrics")).text
    await still_serves(server, trusting)


async def test_a_client_that_leaves_stops_the_engine(
    start_server: StartServer, files: dict[str, str], trusting: ssl.SSLContext
) -> None:
    """With TLS's goodbye or without."""
    engine = FakeEngine(block_delay_s=0.02)
    server = await start_server(engine, **files)
    client = client_of(server, trusting)
    async with client, client.stream("This sentence goes on and on. " * 50) as speech:
        assert await speech.__anext__() is not None
        await until(lambda: engine.saying > 0)
        await client.disconnect()
        await until(lambda: engine.saying == 0)
    await still_serves(server, trusting)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("missing", "key"), "cannot be read: No such file"),
        (("cert", "missing"), "cannot be read: No such file"),
        (("cert", ""), "certificate and its key"),
        (("key", "cert"), "certificate and its key"),
        (("", "key"), "needs tls_cert"),
        (("cert", "other"), "certificate and its key"),
        (("cert", "locked"), "without a password"),
    ],
)
async def test_a_certificate_that_is_no_good_stops_the_start(
    files: dict[str, str], tmp_path: Path, names: tuple[str, str], said: str
) -> None:
    """In a sentence, and without asking for a password on the terminal."""
    other = trustme.CA().issue_cert("127.0.0.1")
    other.private_key_pem.write_to_path(tmp_path / "other.pem")
    locked = serialization.load_pem_private_key(other.private_key_pem.bytes(), None)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"password"))
    (tmp_path / "locked.pem").write_bytes(locked.private_bytes(*form))
    cert, key = (str(tmp_path / f"{name}.pem") if name else "" for name in names)
    settings = Settings(port=0, default_model="fake", tls_cert=cert, tls_key=key)
    with pytest.raises(SettingsError, match=said):
        await serve(settings, entries=[entry(FakeEngine())], own_process=False)
