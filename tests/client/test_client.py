"""What the replaced client had, and what is asked about the server: against servers that play a script."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.background import Peer, scripted
from tests.client.helpers import (
    BLOCK,
    SHORT_S,
    Run,
    client_of,
    stream_two_blocks,
)
from tts_provider.client import (
    NotConnected,
    TTSClient,
    TTSServerError,
)
from tts_provider.client.files import wav_header

# --- What the replaced client had ---


def test_generate_speech_writes_a_wav_with_the_streamed_samples(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "speech.wav"

    async def main() -> None:
        client = client_of(server)
        assert await client.connect() is True
        assert client.is_connected()
        assert await client.generate_speech("Hello.", str(path)) is True
        await client.disconnect()
        assert not client.is_connected()

    with scripted(stream_two_blocks) as server:
        run(main)
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 24_000)
        assert file.readframes(10_000) == BLOCK + BLOCK
    assert [entry.name for entry in path.parent.iterdir()] == ["speech.wav"]


def test_generate_speech_asks_for_what_it_was_given(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            await client.generate_speech(
                "Hallo.", tmp_path / "a.wav", 2, 16_000, "file", "espeak", "de-DE", rate="+10%", voice="gmw/de"
            )
            await client.generate_speech("Hallo.", tmp_path / "b.wav", model_type="csm", extra_params={"seed": 1})

    with scripted(stream_two_blocks) as server:
        run(main)
    first, second = server.log
    first.pop("request_id")
    second.pop("request_id")
    assert first == {
        "text": "Hallo.",
        "speaker": 2,
        "sample_rate": 16_000,
        "model": "espeak",
        "lang": "de-DE",
        "voice": "gmw/de",
        "format": "pcm",
        "stream": True,
        "final_wav": False,
        "extra_params": {"rate": "+10%"},
    }
    assert second == {
        "text": "Hallo.",
        "model": "csm",
        "format": "pcm",
        "stream": True,
        "final_wav": False,
        "extra_params": {"seed": 1},
    }


@pytest.mark.parametrize("messages", [1, 5], ids=["one message", "many messages"])
def test_a_server_that_cannot_stream_sends_its_wav_in_any_number_of_messages(run: Run, tmp_path: Path, messages: int) -> None:
    wav = wav_header(24_000, 3_000_000) + bytes(3_000_000)
    path = tmp_path / "speech.wav"

    async def main() -> bool:
        async with client_of(server) as client:
            return await client.generate_speech("Hello.", path)

    async def answer(peer: Peer) -> None:
        await peer.request()
        await peer.say("queued", message="Model is loading", queue_position=1)
        await peer.say("success", length_bytes=len(wav), sample_rate=24_000, format="wav")
        size = -(-len(wav) // messages)
        for start in range(0, len(wav), size):
            await peer.send(wav[start : start + size])

    with scripted(answer) as server:
        assert run(main) is True
    assert path.read_bytes() == wav


@pytest.mark.parametrize("reply", [{"code": "unknown_model", "retryable": False}, {}], ids=["with a code", "without"])
def test_generate_speech_is_false_when_the_server_fails_and_leaves_no_file(
    run: Run, tmp_path: Path, reply: dict[str, Any]
) -> None:
    path = tmp_path / "speech.wav"
    path.write_bytes(b"what was there before")

    async def main() -> list[bool]:
        async with client_of(server) as client:
            return [await client.generate_speech("Hello.", path), await client.generate_speech("Hello.", tmp_path / "b.wav")]

    async def answer(peer: Peer) -> None:
        await peer.request()
        await peer.say("error", message="Failed to generate speech: no such model", **reply)
        await peer.stream_audio(BLOCK)

    with scripted(answer) as server:
        assert run(main) == [False, True]
        assert server.connections == 1
    assert path.read_bytes() == b"what was there before"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["b.wav", "speech.wav"]


def test_get_server_info_is_the_reply_as_a_dictionary(run: Run) -> None:
    async def main() -> dict[str, Any]:
        async with client_of(server) as client:
            return await client.get_server_info()

    async def answer(peer: Peer) -> None:
        assert await peer.request() == {"command": "info"}
        await peer.say("success", available_models={"edge": {}}, anything=[1])

    with scripted(answer) as server:
        assert run(main) == {"status": "success", "available_models": {"edge": {}}, "anything": [1]}


def test_what_the_server_warns_of_is_logged(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with client_of(server) as client:
            await client.generate_speech("Hello.", tmp_path / "a.wav", rate="+10%")

    async def warn(peer: Peer) -> None:
        request_id = await peer.start(await peer.request(), warnings=["Ignored: rate."])
        await peer.end(request_id, 0)

    with scripted(warn) as server:
        run(main)
    assert [record.message for record in caplog.records] == ["Ignored: rate."]


def test_requests_without_a_connection_raise(run: Run) -> None:
    async def main() -> None:
        client = TTSClient()
        await client.disconnect()
        with pytest.raises(ConnectionError):
            await client.generate_speech("Hello.", "never.wav")
        with pytest.raises(NotConnected):
            await client.get_server_info()

    run(main)
    assert not Path("never.wav").exists()


# --- About the server ---


def test_typed_answers_about_the_server(run: Run) -> None:
    model = {"identifiers": ["edge"], "speakers": {"0": "Guy"}, "sample_rate": 24_000, "state": "ready"}

    async def main() -> None:
        async with client_of(server, 2 * SHORT_S) as client:
            info = await client.info()
            assert info.available_models["edge"].state == "ready"
            assert [voice.id for voice in await client.voices("edge", "en")] == ["v"]
            assert (await client.preload("edge")).ready
            with pytest.raises(TTSServerError):
                await client.voices(lang="xx")

    async def answer(peer: Peer) -> None:
        await peer.request()
        await peer.say(
            "success",
            server_version="1",
            current_model={"name": "edge", "ready": True, "sample_rate": 24_000, "speakers": {}},
            available_models={"edge": model},
            queue_size=0,
            model_loaded=True,
            speaker_mapping={},
            limits={},
            protocol_version=2,
        )
        assert await peer.request() == {"command": "voices", "model": "edge", "lang": "en"}
        await peer.say("success", voices=[{"id": "v", "name": "V", "model": "edge", "lang": "en-US"}])
        assert await peer.request() == {"command": "preload", "model": "edge"}
        await trio.sleep(4 * SHORT_S)  # a model may take longer to load than the timeout
        await peer.say("success", model="edge", ready=True)
        await peer.request()
        await peer.fail("unsupported_language")

    with scripted(answer) as server:
        run(main)
