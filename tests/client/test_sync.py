"""The client without an event loop."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import pytest

from tests.background import Peer, scripted
from tests.client.helpers import (
    BLOCK,
    speak_slowly_until_cancelled,
    stream_two_blocks,
)
from tts_provider.client import (
    ConnectFailed,
    NotConnected,
    SyncTTSClient,
    TTSClientError,
    speak,
)


def test_speak_returns_a_wav() -> None:
    with scripted(stream_two_blocks) as server:
        data = speak("Hello.", host="127.0.0.1", port=server.port, speaker=1)
    with wave.open(io.BytesIO(data)) as file:
        assert file.getnframes() == 2400


def test_a_synchronous_client_speaks_streams_and_cancels(tmp_path: Path) -> None:
    async def answer(peer: Peer) -> None:
        await peer.stream_audio(BLOCK)
        await peer.stream_audio(BLOCK, BLOCK)
        await peer.stream_audio(BLOCK)
        await speak_slowly_until_cancelled(peer)
        await peer.stream_audio(BLOCK)

    with scripted(answer) as server:
        with SyncTTSClient("127.0.0.1", server.port) as client:
            assert client.speak("Hello.")[44:] == BLOCK
            assert client.save("Hello.", tmp_path / "speech.wav").length_bytes == 2 * len(BLOCK)
            with client.stream("Hello.") as speech:
                assert speech.sample_rate == 24_000
                assert [item for item in speech if isinstance(item, bytes)] == [BLOCK]
                assert speech.success is not None
            with client.stream("Hello.") as speech:
                assert next(speech) == BLOCK
            assert client.speak("Hello.")
        assert server.connections == 1
        with pytest.raises(NotConnected):
            client.speak("Hello.")


def test_a_synchronous_client_says_why_it_cannot_connect(unused_port: int) -> None:
    with pytest.raises(ConnectFailed):
        SyncTTSClient("127.0.0.1", unused_port).__enter__()
    with pytest.raises(TTSClientError):
        speak("Hello.", host="127.0.0.1", port=unused_port)
