"""Deepgram's own SDK against the server, as people have it but for the address."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import httpx
import pytest
import trio

from tests.conftest import RunningServer, StartServer
from tests.fake_engine import FakeEngine

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the SDK imports an old module of websockets
    deepgram = pytest.importorskip("deepgram")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

T = TypeVar("T")

TEXT = "Hello there, world."


async def with_sdk(server: RunningServer, use: Callable[[Any], T]) -> T:
    """The result of `use` in a thread: the SDK's own asynchronous client wants asyncio."""
    address = f"{server.address.host}:{server.address.port}"

    def run() -> T:
        from deepgram.environment import DeepgramClientEnvironment

        environment = DeepgramClientEnvironment(
            base=f"http://{address}", production=f"ws://{address}", agent=f"ws://{address}", agent_rest=f"http://{address}"
        )
        with httpx.Client() as client:  # the SDK would not close its own
            return use(deepgram.DeepgramClient(api_key="none", environment=environment, httpx_client=client))

    with trio.fail_after(30):
        return await trio.to_thread.run_sync(run)


async def test_the_sdk_speaks_over_a_websocket(start_server: StartServer) -> None:
    """Metadata, sound, Flushed, Cleared and a close, each in the SDK's own type."""
    server = await start_server(FakeEngine())

    def use(sdk: Any) -> list[Any]:
        from deepgram.speak.v1.types import SpeakV1Text

        received = []
        with sdk.speak.v1.connect(model="fake", encoding="linear16", sample_rate="24000") as connection:
            received.append(connection.recv())
            connection.send_text(SpeakV1Text(type="Speak", text=TEXT))
            connection.send_flush()
            while isinstance(message := connection.recv(), bytes):
                received.append(message)
            received.append(message)
            connection.send_clear()
            received.append(connection.recv())
            connection.send_close()
            received += list(connection)
        return received

    metadata, *audio, flushed, cleared = await with_sdk(server, use)
    assert (type(metadata).__name__, metadata.model_name) == ("SpeakV1Metadata", "fake")
    assert len(b"".join(audio)) / 48_000 == pytest.approx(0.05 * len(TEXT), abs=0.15)
    assert (type(flushed).__name__, flushed.sequence_id) == ("SpeakV1Flushed", 0)
    assert (cleared.type, cleared.sequence_id) == ("Cleared", 1)


async def test_the_sdk_reads_a_warning(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())

    def use(sdk: Any) -> Any:
        with sdk.speak.v1.connect(model="aura-2-thalia-en") as connection:
            connection.recv()
            return connection.recv()

    warning = await with_sdk(server, use)
    assert (type(warning).__name__, warning.code) == ("SpeakV1Warning", "MODEL_SUBSTITUTED")


async def test_the_sdk_gets_a_file(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())

    def use(sdk: Any) -> bytes:
        return b"".join(sdk.speak.v1.audio.generate(text=TEXT, model="aura-2-thalia-en"))

    assert (await with_sdk(server, use))[:1] == b"\xff"


async def test_the_sdk_raises_its_own_error(start_server: StartServer) -> None:
    server = await start_server(FakeEngine())

    def use(sdk: Any) -> Any:
        from deepgram.errors import BadRequestError

        with pytest.raises(BadRequestError) as caught:
            list(sdk.speak.v1.audio.generate(text=TEXT, encoding="linear32"))
        return caught.value.body

    assert (await with_sdk(server, use))["err_code"] == "UNSUPPORTED_FORMAT"
