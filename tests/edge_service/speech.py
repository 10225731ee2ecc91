"""Spoken text as the fake makes it: a tone for each sentence, a burst for each word, encoded as the service does.

A sentence's frequency depends on its words only (`tone_of`), so a test can hear in decoded audio which sentences were spoken
and in what order. A word's boundary is exactly where its burst is in the decoded audio.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Final

import av
import numpy as np
import numpy.typing as npt

__all__ = [
    "BIT_RATE",
    "CHARACTER_S",
    "FRAME_BYTES",
    "FRAME_SAMPLES",
    "HEAD_S",
    "SAMPLE_RATE",
    "TAIL_S",
    "Boundary",
    "Speech",
    "seconds_of",
    "sentences_of",
    "speak",
    "tone_of",
]

SAMPLE_RATE: Final = 24_000
BIT_RATE: Final = 48_000
FRAME_BYTES: Final = 144
"""One MP3 frame: constant bit rate, no padding at these rates."""
FRAME_SAMPLES: Final = 576

HEAD_S: Final = 0.176
"""Silence before the first word, as heard after decoding; the real service has 0.172 to 0.185 s."""
TAIL_S: Final = 0.80
"""Silence after the last word; the real service has 0.79 to 0.85 s."""
CHARACTER_S: Final = 0.075
SENTENCE_PAUSE_S: Final = 0.2
CODEC_DELAY_SAMPLES: Final = 1105
"""What LAME and a decoder add in front: 576 + 529."""
EDGE_S: Final = 0.012
"""Silence at each side of a word's burst, so that neighbours can be told apart."""
RAMP_S: Final = 0.004
AMPLITUDE: Final = 0.3

_SENTENCE: Final = re.compile(r"[^.!?。！？]+[.!?。！？]*")
_WORD: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{1,2}|\w+(?:['’.-]\w+)*|[&<>%+=€$]")


@dataclass(frozen=True, slots=True)
class Boundary:
    """A word or a sentence: its span in the text and its place in the decoded audio, seconds."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Speech:
    """A text, spoken."""

    mp3: bytes
    words: tuple[Boundary, ...]
    sentences: tuple[Boundary, ...]

    @property
    def seconds(self) -> float:
        """How long it lasts, decoded."""
        return seconds_of(self.mp3)


def seconds_of(mp3: bytes) -> float:
    """How long encoded audio lasts."""
    return len(mp3) / FRAME_BYTES * FRAME_SAMPLES / SAMPLE_RATE


def sentences_of(text: str) -> list[str]:
    """The sentences as the fake cuts them; only those with a word in them."""
    return [match.group().strip() for match in _SENTENCE.finditer(text) if _WORD.search(match.group())]


def tone_of(sentence: str) -> float:
    """Frequency in Hz in which the fake says `sentence`: a multiple of 50 between 300 and 2250."""
    words = " ".join(_WORD.findall(sentence))
    return 300.0 + 50.0 * (zlib.crc32(words.encode()) % 40)


def speak(text: str, rate: float = 1.0, character_s: float = CHARACTER_S) -> Speech:
    """Say `text`, `rate` times as fast as usual; a text without any word gives no audio at all.

    LAME takes about 10 ms for a second of audio, so a long text that is only to be sent should have short characters.
    """
    words: list[Boundary] = []
    sentences: list[Boundary] = []
    tones: list[float] = []
    pauses = 0.0
    for sentence in _SENTENCE.finditer(text):
        found = list(_WORD.finditer(sentence.group()))
        if not found:
            continue
        tone = tone_of(sentence.group())
        first = len(words)
        for word in found:
            start_s, end_s = (
                HEAD_S + ((sentence.start() + offset) * character_s + pauses) / rate for offset in (word.start(), word.end())
            )
            words.append(Boundary(word.group(), start_s, end_s))
            tones.append(tone)
        sentences.append(Boundary(sentence.group().strip(), words[first].start_s, words[-1].end_s))
        pauses += SENTENCE_PAUSE_S
    if not words:
        return Speech(b"", (), ())
    return Speech(_encode(_bursts(words, tones)), tuple(words), tuple(sentences))


def _bursts(words: list[Boundary], tones: list[float]) -> npt.NDArray[np.float32]:
    samples = np.zeros(round((words[-1].end_s + TAIL_S) * SAMPLE_RATE), np.float32)
    for word, tone in zip(words, tones, strict=True):
        edge_s = min(EDGE_S, (word.end_s - word.start_s) / 4)
        start, end = (round(second * SAMPLE_RATE) for second in (word.start_s + edge_s, word.end_s - edge_s))
        time = np.arange(end - start) / SAMPLE_RATE
        ramp = np.minimum(1.0, np.minimum(time, time[::-1]) / RAMP_S)
        samples[start:end] = AMPLITUDE * ramp * np.sin(2 * np.pi * tone * time)
    return samples[CODEC_DELAY_SAMPLES:]


def _encode(samples: npt.NDArray[np.float32]) -> bytes:
    encoder = av.CodecContext.create("libmp3lame", "w")
    assert isinstance(encoder, av.AudioCodecContext)
    encoder.sample_rate = SAMPLE_RATE
    encoder.format = "s16p"
    encoder.layout = "mono"
    encoder.bit_rate = BIT_RATE
    pcm = (samples * 32767).astype(np.int16)
    packets = []
    for start in range(0, len(pcm), FRAME_SAMPLES):
        block = pcm[start : start + FRAME_SAMPLES]
        frame = av.AudioFrame.from_ndarray(block.reshape(1, -1), format="s16p", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        frame.pts = start
        packets.extend(encoder.encode(frame))
    packets.extend(encoder.encode(None))
    return b"".join(bytes(packet) for packet in packets)
