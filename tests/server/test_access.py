"""Who may use the server: keys in every dialect, pages from elsewhere, and what stays open."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import trio
from structlog.testing import capture_logs
from trio_websocket import ConnectionRejected, WebSocketConnection, wrap_client_stream

from tests.conftest import RunningServer, StartServer, Wire
from tests.fake_engine import FakeEngine, entry
from tts_provider.server.access import Access, is_loopback
from tts_provider.server.lifecycle import ServerAddress, serve
from tts_provider.settings import Settings, SettingsError

KEY = "correct-horse/battery+staple=(1)"
OTHER_KEY = "another-key"
BEARER = {"authorization": f"Bearer {KEY}"}
ENCODED = "tts.key.correct-horse%2Fbattery%2Bstaple%3D%281%29"
WRONG_KEYS = ["c", KEY[:-1], KEY + "x", KEY.upper(), "x" * 8_000, "none"]


def url(server: RunningServer) -> str:
    return f"http://{server.address.host}:{server.address.port}"


@asynccontextmanager
async def web(server: RunningServer, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url(server), timeout=60, headers=headers) as client:
        yield client


@asynccontextmanager
async def websocket(
    server: RunningServer,
    path: str = "/",
    headers: Sequence[tuple[str, str]] = (),
    subprotocols: Sequence[str] | None = None,
) -> AsyncIterator[WebSocketConnection]:
    """An accepted connection; `ConnectionRejected` when it is not."""
    stream = await trio.open_tcp_stream(server.address.host, server.address.port)
    raw = [(name.encode(), value.encode()) for name, value in headers]
    host = f"{server.address.host}:{server.address.port}"
    async with stream:
        try:
            async with trio.open_nursery() as nursery:
                connection = await wrap_client_stream(
                    nursery, stream, host, path, subprotocols=subprotocols, extra_headers=raw, message_queue_size=64
                )
                yield connection
                with trio.move_on_after(5):
                    await connection.aclose()
                nursery.cancel_scope.cancel()
        except* ConnectionRejected as group:
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            raise error from None


async def rejection(server: RunningServer, *args: Any, **kwargs: Any) -> int:
    """The HTTP status with which an upgrade is refused."""
    with pytest.raises(ConnectionRejected) as caught:
        async with websocket(server, *args, **kwargs):
            pass
    return int(caught.value.status_code)


def wire(connection: WebSocketConnection) -> Wire:
    stream = connection._stream
    assert isinstance(stream, trio.SocketStream)
    return Wire(connection, stream)


async def native_speaks(connection: WebSocketConnection) -> None:
    success, data = await wire(connection).legacy({"text": "Hi."})
    assert success["length_bytes"] == len(data)


@pytest.fixture
async def guarded(start_server: StartServer) -> RunningServer:
    """A server with two keys."""
    return await start_server(FakeEngine(), api_keys=(KEY, OTHER_KEY))


# --- Keys over HTTP ---

PROTECTED = [
    ("GET", "/v1/info", None),
    ("GET", "/v1/models", None),
    ("GET", "/v1/models/fake", None),
    ("GET", "/v1/audio/models", None),
    ("GET", "/metrics", None),
    ("POST", "/v1/audio/speech", {"input": "Hi."}),
    ("POST", "/v1/speak?model=fake", {"text": "Hi."}),
]


@pytest.mark.parametrize(("method", "path", "body"), PROTECTED, ids=[path for _, path, _ in PROTECTED])
async def test_http_needs_a_key(guarded: RunningServer, method: str, path: str, body: Any) -> None:
    """Each route answers one who has it, and tells all others the same in the form of all errors."""
    async with web(guarded) as client:
        answers = [await client.request(method, path, json=body)]
        answers += [await client.request(method, path, json=body, headers={"authorization": f"Bearer {OTHER_KEY}x"})]
        known = [
            await client.request(method, path, json=body, headers={"authorization": value})
            for value in (f"Bearer {KEY}", f"Token {OTHER_KEY}", f"bearer  {OTHER_KEY}")
        ]
    for answer in answers:
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        error = answer.json()["error"]
        assert (error["type"], error["code"], error["param"]) == ("authentication_error", "unauthorized", None)
        assert answer.content == answers[0].content
        assert not any(name.startswith("access-control") for name in answer.headers)
    assert [answer.status_code for answer in known] == [200, 200, 200]


@pytest.mark.row(71)
@pytest.mark.parametrize("key", WRONG_KEYS, ids=lambda key: f"{len(key)} characters")
async def test_a_wrong_key_is_refused_whatever_it_looks_like(guarded: RunningServer, key: str) -> None:
    async with web(guarded) as client:
        answer = await client.get("/v1/info", headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 401
    assert await rejection(guarded, "/", [("Authorization", f"Bearer {key}")]) == 401


@pytest.mark.parametrize(
    "value",
    ["Bearer", KEY, f"Basic {KEY}", f"Bearer{KEY}", f"Bearer Bearer {KEY}", f"Bearer {KEY}, Bearer {OTHER_KEY}", f"Key {KEY}"],
)
async def test_a_key_in_another_form_is_none(guarded: RunningServer, value: str) -> None:
    async with web(guarded) as client:
        assert (await client.get("/v1/info", headers={"authorization": value})).status_code == 401


async def test_a_key_in_the_address_is_none(guarded: RunningServer) -> None:
    """Addresses are written into the logs of proxies."""
    async with web(guarded) as client:
        for query in ("api_key", "key", "token", "access_token", "authorization"):
            assert (await client.get("/v1/info", params={query: KEY})).status_code == 401
            assert await rejection(guarded, f"/?{query}={OTHER_KEY}") == 401


async def test_what_stays_open(guarded: RunningServer) -> None:
    """The page, which asks for the key; what orchestrators probe; the voices, which Open WebUI reads without its key."""
    async with web(guarded) as client:
        for path in ("/", "/worklet.js", "/health", "/ready", "/v1/audio/voices", "/v1/audio/voices?model=fake", "/health?x=1"):
            assert (await client.get(path)).status_code == 200, path
        assert (await client.head("/health")).status_code == 200
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert (await client.request(method, "/health")).status_code == 401, method


@pytest.mark.parametrize(
    "target",
    [
        "/health/../v1/info",
        "/health/",
        "//health",
        "/HEALTH",
        "/%68ealth",
        "/health%2f..%2fv1%2finfo",
        "/v1/audio/voices/",
        "/nope",
        "http://127.0.0.1/health",
        "/health;/v1/info",
    ],
)
async def test_no_other_way_to_write_a_path_opens_it(guarded: RunningServer, target: str) -> None:
    async with await trio.open_tcp_stream(guarded.address.host, guarded.address.port) as stream:
        await stream.send_all(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 401 ")


async def test_each_request_of_a_connection_is_asked(guarded: RunningServer) -> None:
    """One key does not open what follows on the same connection."""
    head = "GET /v1/models HTTP/1.1\r\nHost: x\r\n"
    async with await trio.open_tcp_stream(guarded.address.host, guarded.address.port) as stream:
        await stream.send_all(f"{head}Authorization: Bearer {KEY}\r\n\r\n{head}\r\n".encode())
        answer = b""
        while data := await stream.receive_some():
            answer += data
    assert answer.count(b"HTTP/1.1 200 ") == 1
    assert answer.count(b"HTTP/1.1 401 ") == 1


async def test_a_refused_body_is_not_waited_for(guarded: RunningServer) -> None:
    async with await trio.open_tcp_stream(guarded.address.host, guarded.address.port) as stream:
        await stream.send_all(b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n{")
        assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 401 ")


async def test_refusals_are_counted(guarded: RunningServer) -> None:
    async with web(guarded) as client:
        await client.get("/v1/info")
        await client.get("/v1/info", headers={"authorization": "Bearer wrong"})
        metrics = (await client.get("/metrics", headers=BEARER)).text
    assert 'tts_errors_total{code="unauthorized"} 2.0' in metrics


async def test_without_keys_everybody_may(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())
    async with web(server) as client:
        assert (await client.get("/v1/info")).status_code == 200
        assert (await client.get("/v1/info", headers={"authorization": "Bearer whatever"})).status_code == 200
    async with websocket(server, subprotocols=["tts", "tts.key.whatever"]) as connection:
        assert connection.subprotocol == "tts"


# --- Keys over WebSocket ---


@pytest.mark.parametrize("path", ["/", "/health", "/v1/audio/voices", "/v1/speak?model=fake", "/any/path"])
async def test_a_websocket_needs_a_key_on_every_path(guarded: RunningServer, path: str) -> None:
    assert await rejection(guarded, path) == 401
    async with websocket(guarded, path, [("Authorization", f"Token {KEY}")]) as connection:
        assert connection.subprotocol is None


@pytest.mark.parametrize(
    ("offered", "answered"),
    [
        (["tts", ENCODED], "tts"),
        ([ENCODED, "tts"], "tts"),
        (["tts", "tts.key." + OTHER_KEY], "tts"),
        (["tts.key." + OTHER_KEY], None),
        (["chat", "tts", "tts.key." + OTHER_KEY], "tts"),
        (["token", OTHER_KEY], "token"),
        (["Bearer", OTHER_KEY], "Bearer"),
    ],
)
async def test_a_browser_sends_its_key_as_a_subprotocol(
    guarded: RunningServer, offered: list[str], answered: str | None
) -> None:
    """The answer is the one that is no secret, as some proxies log answers."""
    async with websocket(guarded, subprotocols=offered) as connection:
        assert connection.subprotocol == answered
        await native_speaks(connection)


@pytest.mark.parametrize(
    "offered",
    [["tts"], ["tts", "tts.key."], ["tts", "tts.key.wrong"], ["token"], ["token", "wrong"], [OTHER_KEY], ["tts", OTHER_KEY]],
)
async def test_a_wrong_subprotocol_is_no_key(guarded: RunningServer, offered: list[str]) -> None:
    assert await rejection(guarded, subprotocols=offered) == 401


async def test_deepgrams_dialect_asks_too(guarded: RunningServer) -> None:
    path = "/v1/speak?model=fake&encoding=linear16&sample_rate=24000"
    assert await rejection(guarded, path, [("Authorization", "Token none")]) == 401
    async with websocket(guarded, path, subprotocols=["token", OTHER_KEY]) as connection:
        assert (await wire(connection).reply())["type"] == "Metadata"


# --- Programs that people use ---


async def test_the_openai_sdk_raises_its_authentication_error(guarded: RunningServer) -> None:
    def use(key: str) -> bytes:
        with openai.OpenAI(base_url=url(guarded) + "/v1", api_key=key, max_retries=0) as sdk:
            return sdk.audio.speech.create(model="tts-1", voice="alloy", input="Hi.", response_format="pcm").content

    with pytest.raises(openai.AuthenticationError) as caught:
        await trio.to_thread.run_sync(use, "none")
    assert caught.value.code == "unauthorized"
    assert len(await trio.to_thread.run_sync(use, KEY)) > 4_800


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_the_deepgram_sdk_needs_its_key(guarded: RunningServer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the SDK imports an old module of websockets
        deepgram = pytest.importorskip("deepgram")
    from deepgram.core.api_error import ApiError
    from deepgram.environment import DeepgramClientEnvironment

    http, ws = url(guarded), url(guarded).replace("http", "ws")
    environment = DeepgramClientEnvironment(base=http, production=ws, agent=ws, agent_rest=http)

    def use(key: str) -> int:
        with httpx.Client() as client:
            sdk = deepgram.DeepgramClient(api_key=key, environment=environment, httpx_client=client)
            return sum(map(len, sdk.speak.v1.audio.generate(text="Hi.", model="fake")))

    with pytest.raises(ApiError) as caught:
        await trio.to_thread.run_sync(use, "none")
    assert caught.value.status_code == 401
    assert await trio.to_thread.run_sync(use, KEY) > 0


# --- Pages ---

EVIL = [
    "https://evil",
    "null",
    "",
    "http://127.0.0.1",
    "http://127.0.0.1:1",
    "http://evil@{host}",
    "{host}",
    "http://{host}.evil",
    "http://{host}/",
]


@pytest.mark.row(70)
@pytest.mark.parametrize("origin", EVIL)
async def test_a_page_from_elsewhere_may_not(start_server: StartServer, origin: str) -> None:
    """Neither open a WebSocket nor post, key or not; what it reads it cannot see."""
    server = await start_server(FakeEngine())
    origin = origin.format(host=f"{server.address.host}:{server.address.port}")
    for path in ("/", "/v1/speak?model=fake"):
        assert await rejection(server, path, [("Origin", origin)]) == 403
    async with web(server, origin=origin) as client:
        posted = await client.post("/v1/audio/speech", json={"input": "Hi."})
        assert (posted.status_code, posted.json()["error"]["code"]) == (403, "forbidden")
        read = await client.get("/v1/models")
        assert read.status_code == 200
        assert not any(name.startswith("access-control") for name in [*read.headers, *posted.headers])
        assert (await client.options("/v1/models")).status_code == 405


@pytest.mark.parametrize("host", ["tts.example", "TTS.example:8443", "[::1]:9000", "tts.example:80", "127.0.0.1:9000"])
async def test_the_servers_own_page_may(start_server: StartServer, host: str) -> None:
    """Its origin is what the browser believes the server to be called, whatever stands between them."""
    server = await start_server(FakeEngine())
    origin = f"http://{host.lower().removesuffix(':80')}"
    async with web(server, origin=origin, host=host) as client:
        assert (await client.post("/v1/audio/speech", json={"input": "Hi."})).status_code == 200
    own = f"{server.address.host}:{server.address.port}"
    async with websocket(server, headers=[("Origin", f"http://{own}")]) as connection:
        await native_speaks(connection)


async def test_pages_that_the_settings_name_may_and_read_the_answers(start_server: StartServer) -> None:
    """A preflight needs no key, and a refusal can be read, so that the page can say what is wrong."""
    page = "https://app.example"
    server = await start_server(FakeEngine(), api_keys=(KEY,), allowed_origins=("https://App.example/", "http://other"))
    preflight = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    async with web(server, origin=page) as client:
        asked = await client.options("/v1/audio/speech", headers=preflight)
        assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, page)
        assert "authorization" in asked.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in asked.headers
        refused = await client.post("/v1/audio/speech", json={"input": "Hi."})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, page)
        spoken = await client.post("/v1/audio/speech", json={"input": "Hi."}, headers=BEARER)
        assert (spoken.status_code, spoken.headers["access-control-allow-origin"]) == (200, page)
    async with web(server, origin="https://evil") as client:
        asked = await client.options("/v1/audio/speech", headers=preflight)
        assert asked.status_code == 400
        assert "access-control-allow-origin" not in asked.headers
        assert (await client.post("/v1/audio/speech", json={"input": "Hi."}, headers=BEARER)).status_code == 403
    async with websocket(server, headers=[("Origin", page)], subprotocols=["tts", ENCODED]) as connection:
        await native_speaks(connection)


async def test_all_pages_may_where_the_settings_say_so(start_server: StartServer) -> None:
    server = await start_server(FakeEngine(), allowed_origins=("*",))
    async with web(server, origin="https://anything") as client:
        spoken = await client.post("/v1/audio/speech", json={"input": "Hi."})
        assert (spoken.status_code, spoken.headers["access-control-allow-origin"]) == (200, "*")
    async with websocket(server, headers=[("Origin", "null")]):
        pass


# --- Settings ---


async def test_keys_come_from_a_file_too(start_server: StartServer, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\n  {KEY}  \n#{OTHER_KEY}\n", encoding="utf-8-sig")
    server = await start_server(FakeEngine(), api_keys=("third",), api_keys_file=str(file))
    async with web(server) as client:
        statuses = [
            (await client.get("/v1/info", headers={"authorization": f"Bearer {key}"})).status_code
            for key in (KEY, "third", OTHER_KEY, f"#{OTHER_KEY}")
        ]
    assert statuses == [200, 200, 401, 401]


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "cannot be read"), (b"", "no key"), (b"# a\n\n", "no key"), (b"\xff\n", "UTF-8"), (b"a b\n", "Key 1")],
)
async def test_a_file_of_keys_that_is_no_good_stops_the_start(tmp_path: Path, content: bytes | None, said: str) -> None:
    """A server that lost its keys must not become one that asks for none."""
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    settings = Settings(port=0, default_model="fake", api_keys_file=str(file))
    with pytest.raises(SettingsError, match=said):
        await serve(settings, entries=[entry(FakeEngine())], own_process=False)


@pytest.mark.parametrize("key", ["two words", "schlüssel", "", "tab\tbed", "line\nbreak"])
def test_what_no_client_could_send_is_no_key_and_is_not_shown(key: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Access(["good", key])
    assert str(caught.value) == "Key 2 must be visible ASCII characters without a blank."


@pytest.mark.parametrize("origin", ["example.org", "https://example.org/path", "https://", "//x", "https://a b"])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(SettingsError, match="allowed_origins"):
        Access([], [origin])


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
        ("::1234", False), ("localhost.evil", False), ("10.0.0.1", False), ("", False),
    ],
)  # fmt: skip
def test_addresses_that_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ({"host": "127.0.0.1"}, []),
        ({"host": "127.1"}, ["server.open"]),  # the loopback too, but not evidently
        ({"host": "127.1", "api_keys": (KEY,)}, []),
        ({"host": "127.1", "api_keys": (KEY,), "wyoming_port": 1}, ["wyoming.open"]),
        ({"host": "127.0.0.1", "api_keys": (KEY,), "wyoming_port": 1}, []),
    ],
)
async def test_an_open_door_is_told_of_at_the_start(
    nursery: trio.Nursery, settings: Settings, unused_tcp_port: int, changes: dict[str, Any], warned: list[str]
) -> None:
    if "wyoming_port" in changes:
        changes = changes | {"wyoming_port": unused_tcp_port}
    with capture_logs() as logs:

        async def run(*, task_status: trio.TaskStatus[ServerAddress]) -> None:
            entries = [entry(FakeEngine())]
            await serve(replace(settings, **changes), entries=entries, own_process=False, task_status=task_status)

        await nursery.start(run)
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == warned
    assert KEY not in str(logs)


@pytest.fixture
async def unused_tcp_port() -> int:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listeners[0].socket.getsockname()[1]
    for listener in listeners:
        await listener.aclose()
    return port
