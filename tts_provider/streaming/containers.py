"""Formats in which audio leaves the server, and their encoders: streaming ones and whole files.

    encoder = open_encoder("mp3", 24000)
    send(encoder.header())
    for block in audio: send(encoder.feed(block))     # any cut of s16 bytes; may well return nothing yet
    send(encoder.finish())

PyAV does the encoding. It is imported when the first encoder that needs it opens: the import takes 60 to 80 ms and 17 MB,
which a server of PCM and WAV need not spend. soundfile would not do: libsndfile rewrites earlier bytes when it closes a FLAC
or an MP3, so what was streamed before is unreadable or wrong.
"""

from __future__ import annotations

import io
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from tts_provider.errors import InvalidSampleRate, UnsupportedFormat
from tts_provider.streaming.g711 import to_alaw, to_mulaw
from tts_provider.streaming.wav import WavSpool, wav_header

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.packet import Packet

__all__ = [
    "FORMATS",
    "Encoder",
    "Format",
    "WavSpool",
    "check_format",
    "encode",
    "open_encoder",
    "wav_header",
]


@dataclass(frozen=True, slots=True)
class Format:
    """One format, and what it can carry."""

    name: str
    """As clients write it."""
    media_type: str
    """For an HTTP response."""
    sample_rates: tuple[int, ...] | range
    """Hz, ascending; a range for a format that carries every rate between its ends."""
    streamable: bool
    """Whether a listener can begin before the end has been written."""
    compressed: bool = True
    """Whether an encoder stands between the samples and the bytes."""


ANY_RATE: Final = range(8_000, 192_001)
"""Below is no speech, above is no player."""

MPEG_RATES: Final = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)

FORMATS: Final[Mapping[str, Format]] = MappingProxyType(
    {
        each.name: each
        for each in (
            Format("pcm", "audio/pcm", ANY_RATE, streamable=True, compressed=False),
            Format("wav", "audio/wav", ANY_RATE, streamable=True, compressed=False),
            Format("mp3", "audio/mpeg", MPEG_RATES, streamable=True),
            Format("opus", "audio/ogg", (8_000, 12_000, 16_000, 24_000, 48_000), streamable=True),
            # From 65,536 Hz on FLAC carries round rates only; ffmpeg refuses the others.
            Format("flac", "audio/flac", range(8_000, 65_536), streamable=True),
            Format("aac", "audio/aac", (*MPEG_RATES, 64_000, 88_200, 96_000), streamable=True),
            Format("mulaw", "audio/mulaw", ANY_RATE, streamable=True, compressed=False),
            Format("alaw", "audio/alaw", ANY_RATE, streamable=True, compressed=False),
        )
    }
)
"""By name: ``pcm`` (s16le, mono, bare), ``wav`` (the same in RIFF), ``mp3``, ``opus`` (in Ogg), ``flac``, ``aac`` (ADTS), and
G.711's ``mulaw`` and ``alaw`` (one byte a sample, bare)."""


class Encoder(Protocol):
    """Turns mono s16 little-endian PCM into a format, while it streams. Serves one stream; abandon it at any time."""

    def header(self) -> bytes:
        """What comes before all audio; empty in formats without. Called once, first."""

    def feed(self, s16: bytes) -> bytes:
        """What `s16`, whole samples, adds to the stream; often nothing, as encoders work in frames of their own."""

    def finish(self) -> bytes:
        """The end of the stream. Nothing may be fed afterwards."""


def check_format(format: str, sample_rate: int) -> Format:
    """The format of that name, if it carries that rate.

    Raises:
        UnsupportedFormat: there is none of that name; the message lists them.
        InvalidSampleRate: it cannot carry the rate; the message lists those that it can.
    """
    known = FORMATS.get(format)
    if known is None:
        raise UnsupportedFormat(f"There is no format {format[:32]!r}. Formats: {', '.join(FORMATS)}.", field="format")
    if sample_rate not in known.sample_rates:
        rates = known.sample_rates
        carried = f"{rates[0]} to {rates[-1]}" if isinstance(rates, range) else ", ".join(map(str, rates))
        raise InvalidSampleRate(f"{known.name} does not carry {sample_rate} Hz, but {carried} Hz.", field="sample_rate")
    return known


def open_encoder(format: str, sample_rate: int) -> Encoder:
    """A streaming encoder.

    Audio that must come in before the first bytes go out, at 24 kHz: none for pcm, wav, mulaw and alaw, 40 ms for opus, 72 ms
    for mp3, 86 ms for aac, 96 ms for flac. mp3 and aac begin with silence of the encoder's own, 1105 and 1024 samples.

    Raises:
        UnsupportedFormat, InvalidSampleRate: as `check_format`.
    """
    known = check_format(format, sample_rate)
    if known.compressed:
        return _AVEncoder(_SETTINGS[format], sample_rate, _Outbox())
    if format in _COMPANDED:
        return _CompandedEncoder(_COMPANDED[format])
    return _PCMEncoder(wav_header(sample_rate, None) if format == "wav" else b"")


def encode(format: str, sample_rate: int, s16: bytes) -> bytes:
    """A whole file. Except in AAC it tells its exact length, and readers skip the silence that a streamed MP3 begins with.

    Takes 1 ms (flac) to 50 ms (aac) of CPU time per second of audio: call it in a worker thread.

    Raises:
        UnsupportedFormat, InvalidSampleRate: as `check_format`.
    """
    known = check_format(format, sample_rate)
    if format in _COMPANDED:
        return _COMPANDED[format](s16)
    if not known.compressed:
        return (wav_header(sample_rate, len(s16)) if format == "wav" else b"") + s16
    file = io.BytesIO()  # seekable: the muxers go back and write the totals, and an MP3 gets a Xing header
    encoder = _AVEncoder(_SETTINGS[format], sample_rate, file)
    encoder.header()
    piece_bytes = 2 * sample_rate
    for start in range(0, len(s16), piece_bytes):
        encoder.feed(s16[start : start + piece_bytes])
    encoder.finish()
    return file.getvalue()


class _PCMEncoder:
    """Samples as they are, behind a header."""

    def __init__(self, header: bytes) -> None:
        self._header = header

    def header(self) -> bytes:
        return self._header

    def feed(self, s16: bytes) -> bytes:
        return s16

    def finish(self) -> bytes:
        return b""


_COMPANDED: Final[Mapping[str, Callable[[bytes], bytes]]] = MappingProxyType({"mulaw": to_mulaw, "alaw": to_alaw})


class _CompandedEncoder:
    """Each sample as one byte."""

    def __init__(self, compand: Callable[[bytes], bytes]) -> None:
        self._compand = compand

    def header(self) -> bytes:
        return b""

    def feed(self, s16: bytes) -> bytes:
        return self._compand(s16)

    def finish(self) -> bytes:
        return b""


@dataclass(frozen=True, slots=True)
class _Settings:
    """How PyAV is to make a format."""

    container: str
    codec: str
    bit_rate: int | None = None
    codec_options: Mapping[str, str] = field(default_factory=dict)
    muxer_options: Mapping[str, str] = field(default_factory=dict)


_SETTINGS: Final[Mapping[str, _Settings]] = MappingProxyType(
    {
        # Without the ID3 tag nothing comes before the audio. Level 7 of 0 to 9 takes 8 ms of CPU time per second of audio where
        # the default, 5, takes 16, and at this bit rate comes nearer to the original.
        "mp3": _Settings("mp3", "libmp3lame", 64_000, {"compression_level": "7"}, {"id3v2_version": "0"}),
        # Ogg's default pages of 1 s would be 1 s of delay. Complexity 5 takes 5 ms per second of audio; the default, 10, 14 ms
        # for 30 % fewer bytes.
        "opus": _Settings("ogg", "libopus", 32_000, {"compression_level": "5"}, {"page_duration": "20000"}),
        # The default is 8 KiB of padding for tags that nobody writes, ahead of the first audio.
        "flac": _Settings("flac", "flac", muxer_options={"metadata_header_padding": "0"}),
        "aac": _Settings("adts", "aac", 64_000),
    }
)


class _Outbox:
    """Where a muxer writes what is then taken away. It has no `seek`, so muxers write what never needs to be rewritten."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, data: bytes) -> int:
        self._written += data
        return len(data)

    def take(self) -> bytes:
        taken = bytes(self._written)
        self._written.clear()
        return taken


class _AVEncoder:
    """PyAV's encoder and muxer over an outbox, or over a file, whose bytes are then found there.

    While it lives it has idle threads, one per CPU up to 16: PyAV cuts frames with a filter graph, which starts a pool.
    """

    def __init__(self, settings: _Settings, sample_rate: int, sink: _Outbox | io.BytesIO) -> None:
        import av
        from av.audio.stream import AudioStream

        self._sample_rate = sample_rate
        self._sink = sink
        self._samples = 0
        self._container = av.open(sink, "w", format=settings.container, options=dict(settings.muxer_options))
        stream = self._container.add_stream(settings.codec, sample_rate, dict(settings.codec_options), layout="mono")
        assert isinstance(stream, AudioStream)
        self._stream = stream
        # An abandoned encoder must go at once: container and stream refer to each other until closed, and until the cycle
        # collector found them, a FLAC encoder would keep 7 MB.
        weakref.finalize(self, self._container.close)
        if settings.bit_rate is not None:
            self._stream.bit_rate = settings.bit_rate

    def header(self) -> bytes:
        self._container.start_encoding()
        return self._taken()

    def feed(self, s16: bytes) -> bytes:
        if not s16:
            return b""
        from av import AudioFrame

        samples = np.frombuffer(s16, "<i2")
        frame = AudioFrame.from_ndarray(samples[np.newaxis], "s16", "mono")
        frame.sample_rate = self._sample_rate
        frame.pts = self._samples
        self._samples += len(samples)
        self._mux(self._stream.encode(frame))
        return self._taken()

    def finish(self) -> bytes:
        self._mux(self._stream.encode(None))
        self._container.close()
        return self._taken()

    def _mux(self, packets: Iterable[Packet[AudioStream]]) -> None:
        for packet in packets:
            self._container.mux(packet)

    def _taken(self) -> bytes:
        return self._sink.take() if isinstance(self._sink, _Outbox) else b""
