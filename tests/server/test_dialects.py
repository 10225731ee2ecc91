"""All dialects are one core: the same text gives the same samples, whoever asks."""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Awaitable, Callable

import httpx
import msgspec
import pytest
import trio
from trio_websocket import open_websocket

from tests.conftest import RunningServer, StartServer, audio_of
from tests.fake_engine import FakeEngine
from tests.server.test_wyoming import free_port
from tts_provider.engines.espeak import availability
from tts_provider.server.lifecycle import engine_entries
from tts_provider.settings import Settings

TEXT = "Hello there, world. It is 3 o'clock; are you well? I am, thank you."
RATE = 24_000
ESPEAK_RATE = 22_050
"""Hz of its own, which Wyoming passes on as it is."""

Ask = Callable[[RunningServer, str], Awaitable[bytes]]


@pytest.fixture
def settings() -> Settings:
    return Settings(port=0, default_model="fake", wyoming_port=free_port())


def samples_of(file: bytes) -> bytes:
    """The samples of a WAV, whatever length a streamed header claims."""
    with wave.open(io.BytesIO(file)) as reader:
        assert (reader.getframerate(), reader.getnchannels(), reader.getsampwidth()) == (RATE, 1, 2)
    return file[file.index(b"data") + 8 :]


# --- Each dialect as its clients speak it ---


async def native_legacy(server: RunningServer, engine: str) -> bytes:
    async with server.connect() as client:
        _, file = await client.legacy({"text": TEXT, "model": engine, "sample_rate": RATE})
        return samples_of(file)


async def native_streaming(server: RunningServer, engine: str, rate: int = RATE) -> bytes:
    async with server.connect() as client:
        await client.send({"text": TEXT, "model": engine, "sample_rate": rate, "stream": True, "final_wav": False})
        return audio_of(await client.until("success"))


async def native_in_pieces(server: RunningServer, engine: str) -> bytes:
    async with server.connect() as client:
        await client.send({"command": "begin", "model": engine, "sample_rate": RATE, "stream": True, "final_wav": False})
        for start in range(0, len(TEXT), 9):
            await client.send({"command": "append", "text": TEXT[start : start + 9]})
        await client.send({"command": "end"})
        return audio_of(await client.until("success"))


async def post(server: RunningServer, path: str, body: object) -> bytes:
    async with httpx.AsyncClient(base_url=f"http://{server.address.host}:{server.address.port}", timeout=60) as client:
        answer = await client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.content


async def openai_pcm(server: RunningServer, engine: str) -> bytes:
    return await post(server, "/v1/audio/speech", {"input": TEXT, "model": engine, "response_format": "pcm"})


async def openai_wav(server: RunningServer, engine: str) -> bytes:
    return samples_of(await post(server, "/v1/audio/speech", {"input": TEXT, "model": engine, "response_format": "wav"}))


async def deepgram_post(server: RunningServer, engine: str) -> bytes:
    return await post(server, f"/v1/speak?model={engine}&encoding=linear16&sample_rate={RATE}", {"text": TEXT})


async def deepgram_websocket(server: RunningServer, engine: str) -> bytes:
    path = f"/v1/speak?model={engine}&encoding=linear16&sample_rate={RATE}"
    audio = b""
    async with open_websocket(server.address.host, server.address.port, path, use_ssl=False) as websocket:
        for word in TEXT.split(" "):
            await websocket.send_message(json.dumps({"type": "Speak", "text": f"{word} "}))
        await websocket.send_message(json.dumps({"type": "Flush"}))
        with trio.fail_after(60):
            while not isinstance(message := await websocket.get_message(), str) or "Flushed" not in message:
                audio += message if isinstance(message, bytes) else b""
    return audio


async def wyoming(server: RunningServer, events: list[tuple[str, object]], last: str) -> bytes:
    """The payloads of what answers `events`, up to the event `last`."""
    assert server.address.wyoming_port is not None
    audio = received = b""
    async with await trio.open_tcp_stream("127.0.0.1", server.address.wyoming_port) as stream:
        await stream.send_all(b"".join(msgspec.json.encode({"type": type, "data": data}) + b"\n" for type, data in events))
        with trio.fail_after(60):
            while True:
                line, newline, rest = received.partition(b"\n")
                header = msgspec.json.decode(line, type=dict) if newline else {}
                data_length, payload_length = header.get("data_length", 0), header.get("payload_length", 0)
                if not newline or len(rest) < data_length + payload_length:
                    more = await stream.receive_some()
                    assert more, received
                    received += more
                    continue
                audio += rest[data_length : data_length + payload_length]
                received = rest[data_length + payload_length :]
                if header["type"] == last:
                    return audio


async def wyoming_whole(server: RunningServer, engine: str) -> bytes:
    return await wyoming(server, [("synthesize", {"text": TEXT, "voice": {"name": engine}})], "audio-stop")


async def wyoming_streaming(server: RunningServer, engine: str) -> bytes:
    chunks = [("synthesize-chunk", {"text": TEXT[start : start + 9]}) for start in range(0, len(TEXT), 9)]
    copy = ("synthesize", {"text": TEXT})
    events = [("synthesize-start", {"voice": {"name": engine}}), *chunks, copy, ("synthesize-stop", {})]
    return await wyoming(server, events, "synthesize-stopped")


DIALECTS: tuple[Ask, ...] = (
    native_legacy,
    native_in_pieces,
    openai_pcm,
    openai_wav,
    deepgram_post,
    deepgram_websocket,
)
WYOMING: tuple[Ask, ...] = (wyoming_whole, wyoming_streaming)


async def test_the_same_text_gives_the_same_samples(start_server: StartServer) -> None:
    """Bit for bit, on one server."""
    server = await start_server(FakeEngine())
    expected = await native_streaming(server, "fake")
    assert any(expected)
    for ask in (*DIALECTS, *WYOMING):
        assert await ask(server, "fake") == expected, ask.__name__


@pytest.mark.skipif(availability() is not None, reason="espeak-ng is not installed")
@pytest.mark.parametrize(("rate", "dialects"), [(RATE, DIALECTS), (ESPEAK_RATE, WYOMING)])
async def test_the_same_text_gives_the_same_samples_of_a_real_engine(
    start_server: StartServer, rate: int, dialects: tuple[Ask, ...]
) -> None:
    """espeak-ng draws random numbers from one utterance to the next, so that each is the first of a new server."""
    (espeak,) = (line for line in engine_entries(Settings()) if line.name == "espeak")

    async def start() -> RunningServer:
        return await start_server(espeak, default_model="espeak", wyoming_port=free_port())

    expected = await native_streaming(await start(), "espeak", rate)
    assert any(expected)
    for ask in dialects:
        assert await ask(await start(), "espeak") == expected, ask.__name__
