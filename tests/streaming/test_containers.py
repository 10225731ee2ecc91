"""Every format decoded again by other programs' readers: length, place, likeness, and how soon the first bytes come."""

from __future__ import annotations

import gc
import io
import struct
import subprocess
import sys
import wave
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import soxr

from tests.quality import align
from tests.voice import speak
from tts_provider.engines.base import Samples
from tts_provider.errors import InvalidSampleRate, TextTooLong, UnsupportedFormat
from tts_provider.streaming import wav
from tts_provider.streaming.containers import FORMATS, Encoder, WavSpool, check_format, encode, open_encoder, wav_header
from tts_provider.streaming.g711 import to_alaw, to_mulaw
from tts_provider.streaming.pcm import to_s16

COMPRESSED = ("mp3", "opus", "flac", "aac")
LEAD = {"mp3": 1105, "opus": 0, "flac": 0, "aac": 1024}
"""Samples of silence with which a stream begins."""
LIKENESS = {"mp3": 0.99, "opus": 0.98, "flac": 0.999999, "aac": 0.99}
"""Least correlation of the decoded audio with the original."""


@cache
def speech(sample_rate: int) -> Samples:
    samples: Samples = soxr.resample(speak("Good evening, and welcome to the programme.", 48000).samples, 48000, sample_rate)
    return samples


def streamed(encoder: Encoder, s16: bytes, block_bytes: int = 4800) -> bytes:
    blocks = [s16[start : start + block_bytes] for start in range(0, len(s16), block_bytes)]
    return encoder.header() + b"".join(encoder.feed(block) for block in blocks) + encoder.finish()


def decoded(data: bytes, sample_rate: int) -> Samples:
    """By ffmpeg; Opus comes at 48 kHz whatever went in, so back to `sample_rate`."""
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.audio[0]
        samples = np.concatenate([frame.to_ndarray().astype(np.float64) for frame in container.decode(stream)], axis=1)[0]
        if stream.format.name.startswith("s16"):
            samples /= 32768
        if stream.rate != sample_rate:
            samples = soxr.resample(samples, stream.rate, sample_rate)
    out: Samples = samples.astype(np.float32)
    return out


def first_bytes_after_ms(encoder: Encoder, sample_rate: int) -> int:
    """Milliseconds of audio that go in before anything comes out, the header aside."""
    encoder.header()
    s16, step = to_s16(speech(sample_rate)), sample_rate // 1000 * 2
    return next(i + 1 for i in range(1000) if encoder.feed(s16[i * step : (i + 1) * step]))


# Which formats there are


def test_the_formats_are_those_of_the_protocol() -> None:
    assert list(FORMATS) == ["pcm", "wav", "mp3", "opus", "flac", "aac", "mulaw", "alaw"]
    assert all(name == each.name for name, each in FORMATS.items())
    assert all(each.streamable for each in FORMATS.values())


@pytest.mark.parametrize("name", ["ogg", "MP3", "", "x" * 10_000])
def test_an_unknown_format_is_refused_with_the_list(name: str) -> None:
    with pytest.raises(UnsupportedFormat, match="pcm, wav, mp3, opus, flac, aac") as caught:
        open_encoder(name, 24000)
    assert caught.value.field == "format"
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("name", "sample_rate", "told"),
    [
        ("opus", 22050, "8000, 12000, 16000, 24000, 48000 Hz"),
        ("mp3", 96000, "44100, 48000 Hz"),
        ("aac", 8001, "96000 Hz"),
        ("flac", 65536, "8000 to 65535 Hz"),
        ("wav", 7999, "8000 to 192000 Hz"),
        ("pcm", 192001, "8000 to 192000 Hz"),
        ("pcm", -1, "8000 to 192000 Hz"),
    ],
)
def test_a_rate_that_a_format_cannot_carry_is_refused_with_those_it_can(name: str, sample_rate: int, told: str) -> None:
    for use in (check_format, open_encoder):
        with pytest.raises(InvalidSampleRate, match=told) as caught:
            use(name, sample_rate)
        assert caught.value.field == "sample_rate"


@pytest.mark.parametrize("name", COMPRESSED)
def test_every_rate_that_a_format_claims_can_be_encoded(name: str) -> None:
    rates = FORMATS[name].sample_rates
    for sample_rate in (8000, 11025, 22050, 44100, 48000, 65535) if isinstance(rates, range) else rates:
        samples = np.zeros(sample_rate // 4, np.float32)
        data = streamed(open_encoder(name, sample_rate), to_s16(samples))
        assert len(decoded(data, sample_rate)) >= len(samples)


# Compressed streams


@pytest.mark.parametrize("sample_rate", [16000, 24000, 48000])
@pytest.mark.parametrize("name", COMPRESSED)
def test_a_stream_decodes_to_what_went_in(name: str, sample_rate: int) -> None:
    samples = speech(sample_rate)
    out = decoded(streamed(open_encoder(name, sample_rate), to_s16(samples)), sample_rate)
    found = align(samples, out)
    assert found.shift == LEAD[name]
    assert found.correlation > LIKENESS[name]
    assert len(samples) <= len(out) - LEAD[name] <= len(samples) + (0 if name in ("opus", "flac") else 2304)


@pytest.mark.parametrize("name", COMPRESSED)
def test_the_cuts_between_blocks_change_no_byte(name: str) -> None:
    s16 = to_s16(speech(24000))
    one = streamed(open_encoder(name, 24000), s16, 1922)
    two = streamed(open_encoder(name, 24000), s16, 100_000)
    if name == "opus":  # the number of an Ogg stream is drawn by chance, and checksums depend on it
        assert np.array_equal(decoded(one, 24000), decoded(two, 24000))
    else:
        assert one == two


@pytest.mark.parametrize(
    ("name", "milliseconds"), [("pcm", 1), ("wav", 1), ("opus", 40), ("mp3", 72), ("aac", 86), ("flac", 96)]
)
def test_the_first_bytes_come_after_as_much_audio_as_is_told(name: str, milliseconds: int) -> None:
    assert first_bytes_after_ms(open_encoder(name, 24000), 24000) == milliseconds


@pytest.mark.parametrize(("name", "size"), [("pcm", 0), ("wav", 44), ("mp3", 0), ("opus", 129), ("flac", 92), ("aac", 0)])
def test_a_header_comes_before_all_audio_and_is_small(name: str, size: int) -> None:
    """FLAC's would be 8 KiB of padding, and MP3's an ID3 tag, if the muxers had their way."""
    assert abs(len(open_encoder(name, 24000).header()) - size) <= 32  # the encoder's name and version stand in some


@pytest.mark.parametrize("name", FORMATS)
def test_a_stream_without_audio_ends_in_peace(name: str) -> None:
    encoder = open_encoder(name, 24000)
    encoder.header()
    assert encoder.feed(b"") == b""
    assert encoder.finish() == b""


@pytest.mark.parametrize("name", COMPRESSED)
def test_an_abandoned_encoder_gives_its_memory_back_without_the_cycle_collector(name: str) -> None:
    streamed(open_encoder(name, 24000), bytes(9600))  # whatever is made once is made now
    gc.collect()
    gc.disable()
    try:
        encoder = open_encoder(name, 24000)
        encoder.header()
        encoder.feed(bytes(9600))
        gone = weakref.ref(encoder)
        del encoder
        assert gone() is None
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_streamed_mp3_is_read_by_another_decoder_as_well() -> None:
    samples = speech(24000)
    out, sample_rate = soundfile.read(io.BytesIO(streamed(open_encoder("mp3", 24000), to_s16(samples))), dtype="float32")
    assert sample_rate == 24000
    assert align(samples, out).shift == LEAD["mp3"]
    assert align(samples, out).correlation > LIKENESS["mp3"]


# G.711


@pytest.mark.parametrize(("name", "compand"), [("mulaw", to_mulaw), ("alaw", to_alaw)])
def test_companded_samples_are_one_byte_each(name: str, compand: Callable[[bytes], bytes]) -> None:
    s16 = to_s16(speech(8000))
    assert streamed(open_encoder(name, 8000), s16) == encode(name, 8000, s16) == compand(s16)
    assert len(compand(s16)) == len(s16) // 2


# Whole files


@pytest.mark.parametrize("name", ["wav", "mp3", "opus", "flac"])
def test_a_whole_file_tells_its_exact_length_and_begins_at_once(name: str) -> None:
    samples = speech(24000)
    data = encode(name, 24000, to_s16(samples))
    out = decoded(data, 24000)
    found = align(samples, out)
    assert (found.shift, len(out)) == (0, len(samples))
    assert found.correlation > LIKENESS.get(name, 0.999999)
    read, sample_rate = soundfile.read(io.BytesIO(data), dtype="float32")
    assert (len(read), sample_rate) == (len(samples), 24000)


def test_lossless_files_hold_the_very_samples() -> None:
    s16 = to_s16(speech(24000))
    for name in ("wav", "flac"):
        read, _ = soundfile.read(io.BytesIO(encode(name, 24000, s16)), dtype="int16")
        assert read.tobytes() == s16


def test_whole_pcm_is_the_samples_and_whole_aac_the_stream() -> None:
    s16 = to_s16(speech(24000))
    assert encode("pcm", 24000, s16) == s16
    assert encode("aac", 24000, s16) == streamed(open_encoder("aac", 24000), s16)


@pytest.mark.parametrize("name", FORMATS)
def test_a_whole_file_of_nothing_can_be_made(name: str) -> None:
    assert len(encode(name, 24000, b"")) < 200


def test_a_whole_file_of_an_unknown_format_is_refused() -> None:
    with pytest.raises(UnsupportedFormat):
        encode("ogg", 24000, b"")


# WAV


def test_a_header_with_a_known_length_is_exact() -> None:
    header = wav_header(22050, 4410)
    assert len(header) == 44
    with wave.open(io.BytesIO(header + bytes(4410))) as reader:
        assert reader.getparams()[:4] == (1, 2, 22050, 2205)
    assert struct.unpack_from("<I", header, 4) == (4410 + 36,)


def test_a_header_without_a_length_is_read_to_the_end_by_common_readers() -> None:
    s16 = to_s16(speech(24000))
    data = streamed(open_encoder("wav", 24000), s16)
    assert data[:44] == wav_header(24000, None)
    assert struct.unpack_from("<I", data, 4) == struct.unpack_from("<I", data, 40) == (0xFFFFFFFF,)
    with wave.open(io.BytesIO(data)) as reader:
        assert reader.readframes(10_000_000) == s16
    read, _ = soundfile.read(io.BytesIO(data), dtype="int16")
    assert read.tobytes() == s16
    assert to_s16(decoded(data, 24000) * np.float32(32768 / 32767)) == s16


def test_a_length_that_no_wav_can_tell_is_refused() -> None:
    for count in (2**32 - 44, 2**40, -1):
        with pytest.raises(ValueError, match="4294967251"):
            wav_header(24000, count)
    assert len(wav_header(24000, 2**32 - 45)) == 44


@pytest.mark.parametrize(
    ("seconds", "size"), [(0.0, 800_000), (0.1, 44), (0.1, 10), (5.0, 4096), (5.0, 240_044), (200.0, 800_000), (200.0, 4096)]
)
def test_a_spool_gives_back_the_whole_wav_in_pieces_of_the_size_asked(seconds: float, size: int) -> None:
    s16 = np.random.default_rng(0).integers(-9000, 9000, int(24000 * seconds)).astype("<i2").tobytes()
    spool = WavSpool(24000)
    for start in range(0, len(s16), 4800):
        spool.append(s16[start : start + 4800])
    pieces = list(spool.read_in_pieces(size))
    spool.close()
    assert b"".join(pieces) == wav_header(24000, len(s16)) + s16
    assert spool.length == len(s16) + 44
    assert all(len(piece) == size for piece in pieces[:-1])
    assert 0 < len(pieces[-1]) <= size


def test_a_long_spool_leaves_memory_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    spool = WavSpool(24000)
    spool.append(bytes(wav.SPOOL_BYTES))
    with pytest.raises(FileNotFoundError):
        spool.append(bytes(2))
    spool.close()


def test_a_spool_grows_no_further_than_a_wav_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wav, "MAX_DATA_BYTES", 100)
    spool = WavSpool(24000)
    spool.append(bytes(100))
    with pytest.raises(TextTooLong, match="4 GiB"):
        spool.append(bytes(2))
    assert spool.length == 144
    spool.close()
    spool.close()


def test_formats_are_known_without_loading_an_encoder() -> None:
    """Importing PyAV costs a tenth of the time in which the server shall listen."""
    program = (
        "import sys\n"
        "from tts_provider.streaming.containers import open_encoder\n"
        "open_encoder('wav', 24000).feed(b'')\n"
        "assert not {'av', 'soundfile'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, cwd=Path(__file__).parents[2])
