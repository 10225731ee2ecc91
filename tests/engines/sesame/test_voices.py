"""Voices come from recordings with their words, and a bad one is told by its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from tts_provider.engines.sesame.voices import find_voices
from tts_provider.errors import EngineUnavailable


def record(
    folder: Path, name: str, *, seconds: float = 2.0, rate: int = 24000, channels: int = 1, words: str | None = "Hi."
) -> None:
    samples = 0.1 * np.ones((int(rate * seconds), channels), dtype=np.float32)
    soundfile.write(folder / name, samples, rate, subtype="FLOAT" if name.endswith("wav") else "PCM_16")
    if words is not None:
        (folder / name).with_suffix(".txt").write_text(words, encoding="utf-8")


def test_without_a_folder_there_are_the_two_built_in_voices() -> None:
    voices = find_voices(None)
    assert [(name, voice.label, voice.prompted) for name, voice in voices.items()] == [("male", 0, False), ("female", 1, False)]


def test_recordings_fill_the_built_in_voices_and_add_others(tmp_path: Path) -> None:
    record(tmp_path, "female.wav", words="  Two\nlines. ")
    record(tmp_path, "anna_b.flac")
    (tmp_path / "notes.md").write_text("ignored")
    voices = find_voices(tmp_path)
    assert list(voices) == ["male", "female", "anna_b"]
    assert (voices["female"].prompted, voices["female"].label, voices["female"].transcript) == (True, 1, "Two lines.")
    assert (voices["anna_b"].voice.name, voices["anna_b"].voice.gender) == ("Anna B", None)
    assert not voices["male"].prompted


@pytest.mark.parametrize(("rate", "channels"), [(24000, 1), (44100, 2), (16000, 1)])
def test_a_recording_is_read_mono_at_the_models_rate(tmp_path: Path, rate: int, channels: int) -> None:
    record(tmp_path, "male.wav", rate=rate, channels=channels)
    samples = find_voices(tmp_path)["male"].read(24000)
    assert samples.dtype == np.float32
    assert samples.shape == (48000,)


@pytest.mark.parametrize("words", [None, "  \n"])
def test_a_recording_without_its_words_is_told(tmp_path: Path, words: str | None) -> None:
    record(tmp_path, "male.wav", words=words)
    with pytest.raises(EngineUnavailable, match=r"male\.txt") as refused:
        find_voices(tmp_path)
    assert str(tmp_path) not in refused.value.message


@pytest.mark.parametrize("seconds", [0.5, 41])
def test_a_recording_too_short_or_too_long_is_told(tmp_path: Path, seconds: float) -> None:
    record(tmp_path, "male.wav", seconds=seconds)
    with pytest.raises(EngineUnavailable, match="lasts"):
        find_voices(tmp_path)["male"].read(24000)


def test_a_file_that_is_not_audio_is_told(tmp_path: Path) -> None:
    (tmp_path / "male.wav").write_bytes(b"RIFFnothing")
    (tmp_path / "male.txt").write_text("Hi.")
    with pytest.raises(EngineUnavailable, match="not readable audio"):
        find_voices(tmp_path)["male"].read(24000)


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="TTS_SESAME_VOICES"):
        find_voices(tmp_path / "none")
