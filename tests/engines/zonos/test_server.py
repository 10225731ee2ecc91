"""Zonos through the real server, on tiny checkpoints: the stream, the file after it and the legacy file are one."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

pytest.importorskip("torch", reason="Zonos needs torch")

from tests.conftest import Json, StartServer, audio_of, replies_of
from tests.engines.zonos.checkpoints import SmallEncoder, write_dac, write_encoder, write_model, write_recording
from tests.engines.zonos.test_engine import EOS_GAIN
from tts_provider.engines.catalog import Entry
from tts_provider.engines.zonos import ZonosEngine, assembly
from tts_provider.errors import UnknownSpeaker

TEXT = "One sentence here. And then another one."
LOAD_S = 60


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    monkeypatch.setattr(assembly, "SpeakerEncoder", SmallEncoder)
    write_model(tmp_path / "model", EOS_GAIN)
    write_dac(tmp_path / "dac")
    write_encoder(tmp_path / "encoder")
    (tmp_path / "voices").mkdir()
    write_recording(tmp_path / "voices" / "0.wav", seed=1)
    engine = ZonosEngine(
        model=str(tmp_path / "model"),
        speaker_model=str(tmp_path / "encoder"),
        dac=str(tmp_path / "dac"),
        speakers=tmp_path / "voices",
        slots=2,
        device="cpu",
        cache_dir=tmp_path / "cache",
    )
    return Entry(name="zonos", sample_rate=44_100, create=lambda: engine)


async def test_the_stream_and_both_files_are_the_same_samples(start_server: StartServer, entry: Entry) -> None:
    server = await start_server(entry, default_model="zonos")
    request: Json = {"text": TEXT, "sample_rate": 44_100, "extra_params": {"seed": 5, "max_seconds": 30}}
    async with server.connect() as client:
        await client.send({"command": "preload", "model": "zonos"})
        with trio.fail_after(LOAD_S):
            assert (await client.reply())["ready"]
        success, legacy = await client.legacy(request)
        await client.send(request | {"stream": True})
        messages = await client.until("success", "error")
        told = replies_of(messages, "success")[0]
        final = await client.audio(told["length_bytes"])
    assert success["sample_rate"] == told["sample_rate"] == 44_100
    assert len(replies_of(messages, "sentence")) == told["sentences"] == 2
    assert audio_of(messages) == final[44:] == legacy[44:]
    assert len(legacy) > 44


async def test_a_speaker_without_a_recording_is_told_with_those_there_are(start_server: StartServer, entry: Entry) -> None:
    server = await start_server(entry, default_model="zonos")
    async with server.connect() as client:
        await client.send({"text": TEXT, "speaker": 7})
        error = replies_of(await client.until("error", "success"), "error")[0]
    assert error["code"] == UnknownSpeaker.code
    assert "0" in error["message"]
