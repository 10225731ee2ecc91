"""The folder of voices, hostile recordings, and embeddings that are computed once."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import trio

from tests.engines.zonos.checkpoints import recording, write_recording
from tts_provider.engines.base import Samples
from tts_provider.engines.zonos import speakers
from tts_provider.engines.zonos.embeddings import SpeakerEmbeddings
from tts_provider.engines.zonos.speakers import SpeakerFolder, decode, read_file
from tts_provider.errors import EngineUnavailable, SynthesisFailed, UnknownSpeaker


def touch(*paths: Path) -> None:
    """Empty files."""
    for path in paths:
        path.write_bytes(b"")


def test_files_are_found_by_their_names(tmp_path: Path) -> None:
    """The named default before 0.wav, the bare number before the long name, and nothing else."""
    names = ["0.wav", "default_speaker.wav", "2.wav", "speaker_2.wav", "speaker_7.wav", "10.wav"]
    others = ["01.wav", "12345.wav", "3.mp3", "speaker_.wav", "x4.wav", "5.wav.bak", "٣.wav", ".wav", "speaker_default.wav"]
    touch(*(tmp_path / name for name in names + others))
    (tmp_path / "6.wav").mkdir()
    files = SpeakerFolder(tmp_path).files()
    assert {speaker: path.name for speaker, path in files.items()} == {
        0: "default_speaker.wav",
        2: "2.wav",
        7: "speaker_7.wav",
        10: "10.wav",
    }
    assert list(files) == [0, 2, 7, 10]


def test_a_link_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    """One to a file beside it is followed, one to elsewhere or to nothing is not there."""
    folder, secret = tmp_path / "voices", tmp_path / "secret.wav"
    folder.mkdir()
    touch(secret, folder / "1.wav")
    (folder / "2.wav").symlink_to(secret)
    (folder / "3.wav").symlink_to("1.wav")
    (folder / "4.wav").symlink_to("nothing.wav")
    (folder / "5.wav").symlink_to(tmp_path)
    assert list(SpeakerFolder(folder).files()) == [1, 3]


def test_a_new_file_is_seen_and_a_missing_speaker_told(tmp_path: Path) -> None:
    """The error lists those there are, and how to add one when there are none."""
    folder = SpeakerFolder(tmp_path)
    with pytest.raises(UnknownSpeaker, match=r"none; the server's owner can add 1\.wav"):
        folder.find(1)
    touch(tmp_path / "1.wav", tmp_path / "4.wav")
    os.utime(tmp_path, ns=(1, 1))  # a change within the clock's resolution is a change all the same
    assert folder.find(1).name == "1.wav"
    with pytest.raises(UnknownSpeaker, match="Speakers: 1, 4"):
        folder.find(2)
    with pytest.raises(UnknownSpeaker, match="TTS_ZONOS_SPEAKERS"):
        SpeakerFolder(None).find(0)
    assert not SpeakerFolder(tmp_path / "gone").files()


async def test_a_recording_is_decoded_to_mono(tmp_path: Path) -> None:
    """Stereo, 24 bits, 44.1 kHz."""
    left, right = recording(1.5, 44_100, 1), recording(1.5, 44_100, 2)
    soundfile.write(tmp_path / "0.wav", np.stack([left, right], axis=1), 44_100, subtype="PCM_24")
    decoded = await decode((tmp_path / "0.wav").read_bytes(), "0")
    assert decoded.rate == 44_100
    np.testing.assert_allclose(decoded.samples, (left + right) / 2, atol=1e-6)


def wav(frames: int, *, rate: int = 16_000, channels: int = 1, promised: int | None = None) -> bytes:
    """A plain WAV of silence but for one click; `promised`: bytes that its header tells."""
    data = np.zeros(frames * channels, "<i2")
    data[: min(1, frames)] = 9
    size = len(data) * 2 if promised is None else promised
    head = b"RIFF" + struct.pack("<I", min(size + 36, 2**32 - 1)) + b"WAVEfmt "
    head += struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * 2 * channels, 2 * channels, 16)
    return head + b"data" + struct.pack("<I", size) + data.tobytes()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "no audio"),
        (b"RIFF", "no audio"),
        (b"\x00" * 1000, "no audio"),
        (b"<html>" * 100, "no audio"),
        (wav(0), "shorter than 1 s"),
        (wav(15_999), "shorter than 1 s"),
        (wav(100, promised=2**31), "shorter than 1 s"),
        (wav(100, promised=2**32 - 1), "shorter than 1 s"),
        (wav(60 * 16_000 + 1), "longer than 60 s"),
        (wav(20_000, rate=1), "no audio"),
        (wav(20_000, rate=2**31 - 1), "no audio"),
        (wav(20_000, channels=64), "no audio"),
        (bytes(wav(20_000)).replace(b"\x09", b"\x00"), "no audio"),
    ],
    ids=[
        "empty",
        "cut",
        "zeros",
        "html",
        "no samples",
        "short",
        "2 GiB",
        "4 GiB",
        "long",
        "1 Hz",
        "2 GHz",
        "64 channels",
        "silent",
    ],
)
async def test_a_hostile_recording_is_an_error(data: bytes, what: str) -> None:
    """Whatever its header promises, within the limits of time and memory."""
    with pytest.raises(SynthesisFailed, match=f"speaker 5 is {what}"):
        await decode(data, "5")


async def test_not_a_number_in_a_recording_is_refused(tmp_path: Path) -> None:
    """A float WAV may hold it, and it would poison the embedding."""
    samples = recording(1.5)
    samples[100] = np.nan
    soundfile.write(tmp_path / "0.wav", samples, 16_000, subtype="FLOAT")
    with pytest.raises(SynthesisFailed, match="no audio"):
        await decode((tmp_path / "0.wav").read_bytes(), "0")


async def test_a_reader_that_dies_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A decoder that crashes takes nobody with it."""
    (tmp_path / "reader.py").write_text("import os; os.abort()\n")
    monkeypatch.setattr(speakers, "READER", tmp_path / "reader.py")
    with pytest.raises(SynthesisFailed, match="no audio"):
        await decode(wav(20_000), "0")


def test_a_file_too_large_is_not_read_on(tmp_path: Path) -> None:
    """20 MiB are."""
    with (tmp_path / "0.wav").open("wb") as file:
        file.truncate((20 << 20) + 1)
    with pytest.raises(SynthesisFailed, match="larger than 20 MiB"):
        read_file(tmp_path / "0.wav", "0")
    with pytest.raises(SynthesisFailed, match="cannot be read"):
        read_file(tmp_path / "1.wav", "1")


class Ear:
    """An encoder that counts, and tells voices apart by their loudness."""

    def __init__(self) -> None:
        self.loads = 0
        self.heard = 0

    def load(self) -> Ear:
        self.loads += 1
        return self

    def embed(self, samples: Samples, rate: int) -> Sequence[float]:
        self.heard += 1
        return [float(np.float32(np.abs(samples).mean()))] * 128


async def test_a_voice_is_heard_once_by_all_who_ask(tmp_path: Path) -> None:
    """Ten at a time, again later, under another name, and by a later run: one pass through the net, loaded once."""
    ear = Ear()
    path = write_recording(tmp_path / "0.wav")
    embeddings = SpeakerEmbeddings(ear.load, "net", tmp_path / "cache")
    voices: list[tuple[float, ...]] = []

    async def ask(file: Path) -> None:
        voices.append(await embeddings.voice(file, "0"))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask, path)
    copy = tmp_path / "1.wav"
    copy.write_bytes(path.read_bytes())
    await ask(copy)
    later = SpeakerEmbeddings(ear.load, "net", tmp_path / "cache")
    voices.append(await later.voice(path, "0"))
    assert len(set(voices)) == 1
    assert len(voices[0]) == 128
    assert (ear.loads, ear.heard, later.heard) == (1, 1, 0)


async def test_a_changed_recording_or_net_is_heard_anew(tmp_path: Path) -> None:
    """The file's content and the net's revision make the key."""
    ear = Ear()
    path = write_recording(tmp_path / "0.wav", seed=1)
    embeddings = SpeakerEmbeddings(ear.load, "net", tmp_path / "cache")
    first = await embeddings.voice(path, "0")
    write_recording(path, seed=2, seconds=2.5)
    assert await embeddings.voice(path, "0") != first
    await SpeakerEmbeddings(ear.load, "another net", tmp_path / "cache").voice(path, "0")
    assert ear.heard == 3


@pytest.mark.parametrize("damage", [b"", b"short", bytes(552), "flip"])
async def test_a_damaged_cache_is_mended(tmp_path: Path, damage: bytes | str) -> None:
    """What does not carry its own checksum is computed again and written over."""
    ear = Ear()
    path = write_recording(tmp_path / "0.wav")
    wanted = await SpeakerEmbeddings(ear.load, "net", tmp_path / "cache").voice(path, "0")
    (kept,) = (tmp_path / "cache").iterdir()
    good = kept.read_bytes()
    kept.write_bytes(good[:20] + bytes([good[20] ^ 1]) + good[21:] if isinstance(damage, str) else damage)
    assert await SpeakerEmbeddings(ear.load, "net", tmp_path / "cache").voice(path, "0") == wanted
    assert ear.heard == 2
    assert kept.read_bytes() == good


async def test_a_cache_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    """The voice works; it is only not kept."""
    touch(tmp_path / "file")
    embeddings = SpeakerEmbeddings(Ear().load, "net", tmp_path / "file")
    assert await embeddings.voice(write_recording(tmp_path / "0.wav"), "0")


async def test_an_encoder_that_fails_is_told_and_tried_again(tmp_path: Path) -> None:
    """The first error is not kept."""
    ear = Ear()
    fail = [True]

    def load() -> Ear:
        if fail.pop() if fail else False:
            raise EngineUnavailable("The encoder is not there.")
        return ear.load()

    embeddings = SpeakerEmbeddings(load, "net", None)
    path = write_recording(tmp_path / "0.wav")
    with pytest.raises(EngineUnavailable):
        await embeddings.voice(path, "0")
    assert await embeddings.voice(path, "0")
