"""Keys and certificates, as the client has them."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.background import speech_server
from tests.client.helpers import Run
from tests.fake_engine import FakeEngine, entry
from tts_provider.client import ConnectFailed, SyncTTSClient, TTSClient, speak

KEY = "a+key/of=(ours)"


@pytest.fixture(autouse=True)
def no_key_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TTS_API_KEY", raising=False)


@pytest.fixture
def port() -> Iterator[int]:
    """That of a server that asks for the key."""
    with speech_server(entry(FakeEngine()), api_keys=(KEY,)) as port:
        yield port


def test_a_key_is_given_or_found_in_the_environment(run: Run, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with TTSClient("127.0.0.1", port, api_key=KEY) as client:
            assert len(await client.speak("Hello.")) > 44
            await client.disconnect()
            await client.connect()  # a second connection has it too
            assert (await client.info()).current_model.name == "fake"
        monkeypatch.setenv("TTS_API_KEY", KEY)
        async with TTSClient.from_url(f"ws://127.0.0.1:{port}") as client:
            await client.info()
        with pytest.raises(ConnectFailed):  # what is given counts, even if it is none
            await TTSClient("127.0.0.1", port, api_key="").__aenter__()

    run(main)


@pytest.mark.parametrize("key", [None, "", "wrong", KEY + "x"])
def test_a_missing_or_wrong_key_is_told(run: Run, port: int, key: str | None) -> None:
    async def main() -> None:
        client = TTSClient("127.0.0.1", port, api_key=key)
        with pytest.raises(ConnectFailed, match=r"asks for a key.*TTS_API_KEY") as caught:
            await client.__aenter__()
        assert caught.value.status == 401
        assert KEY not in str(caught.value)
        assert not await client.connect()

    run(main)


@pytest.mark.parametrize("key", ["two words", "line\r\nX: y", "schlüssel", "\x00"])
def test_what_is_no_key_is_refused_and_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="visible ASCII") as caught:
        TTSClient(api_key=key)
    assert key not in str(caught.value)
    if "\x00" not in key:
        monkeypatch.setenv("TTS_API_KEY", key)
        with pytest.raises(ValueError, match="visible ASCII"):
            TTSClient.from_url("ws://127.0.0.1")


def test_the_synchronous_client_has_keys_and_tls_too(tmp_path: Path) -> None:
    authority = trustme.CA()
    file = tmp_path / "both.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(file)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with speech_server(entry(FakeEngine()), api_keys=(KEY,), tls_cert=str(file)) as port:
        with SyncTTSClient.from_url(f"wss://127.0.0.1:{port}", ssl_context=context, api_key=KEY) as client:
            assert len(client.speak("Hello.")) > 44
        with pytest.raises(ConnectFailed, match="certificate verify failed"):
            SyncTTSClient.from_url(f"wss://127.0.0.1:{port}", api_key=KEY).__enter__()
    with speech_server(entry(FakeEngine()), api_keys=(KEY,)) as port:
        assert len(speak("Hello.", host="127.0.0.1", port=port, api_key=KEY)) > 44
        with SyncTTSClient("127.0.0.1", port, api_key=KEY) as client:
            client.info()
