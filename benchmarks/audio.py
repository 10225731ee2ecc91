"""What the way of the audio costs: CPU time per block and per second of audio, and the delay that each step adds.

    python -m benchmarks.audio [--block-ms 100]

Times are the best of several rounds; compare ratios within one run rather than figures of two machines.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from tests.voice import speak
from tts_provider.engines.base import Samples
from tts_provider.streaming.containers import FORMATS, WavSpool, open_encoder
from tts_provider.streaming.pcm import Framer, Resampler, Trimmer, to_s16

SAMPLE_RATE: Final = 24000
ROUNDS: Final = 7
TEXT: Final = "The quick brown fox jumps over the lazy dog, and then it sleeps for an hour. "


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU time of trimming, resampling, framing and encoding.")
    parser.add_argument("--block-ms", type=int, default=100, help="audio per block (default: 100)")
    block_ms: int = parser.parse_args().block_ms
    speech = speak(2 * TEXT, SAMPLE_RATE).samples
    size = SAMPLE_RATE * block_ms // 1000
    blocks = [speech[start : start + size] for start in range(0, len(speech), size)]
    s16 = [to_s16(block) for block in blocks]
    print(
        f"{len(speech) / SAMPLE_RATE:.1f} s of audio at {SAMPLE_RATE} Hz in blocks of {block_ms} ms, best of {ROUNDS} rounds\n"
    )
    print("                        us/block   ms/audio s   x real time")
    steps: dict[str, Callable[[], object]] = {
        "Trimmer": partial(_trim, blocks),
        "Resampler 24k to 22.05k": partial(_resample, blocks, 22050),
        "Resampler 24k to 48k": partial(_resample, blocks, 48000),
        "Resampler 24k to 24k": partial(_resample, blocks, SAMPLE_RATE),
        "to_s16": partial(_convert, blocks),
        "Framer": partial(_frame, s16),
        "WavSpool": partial(_spool, s16),
        **{f"encode {name}": partial(_encode, name, s16) for name in FORMATS},
    }
    for name, step in steps.items():
        seconds = min(_cpu_seconds(step) for _ in range(ROUNDS))
        per_second = seconds / (len(speech) / SAMPLE_RATE)
        print(f"{name:23} {1e6 * seconds / len(blocks):9.1f} {1e3 * per_second:12.3f} {1 / max(per_second, 1e-9):13,.0f}")
    print("\n                        opening, ms   first bytes after, ms of audio   kbit/s")
    for name in FORMATS:
        _print_stream(name, speech)


def _cpu_seconds(step: Callable[[], object]) -> float:
    began = time.process_time()
    step()
    return time.process_time() - began


def _trim(blocks: list[Samples]) -> None:
    trimmer = Trimmer(SAMPLE_RATE)
    for block in blocks:
        trimmer.feed(block)
    trimmer.finish()


def _resample(blocks: list[Samples], to_rate: int) -> None:
    resampler = Resampler(SAMPLE_RATE, to_rate)
    for block in blocks:
        resampler.feed(block)
    resampler.finish()


def _convert(blocks: list[Samples]) -> None:
    for block in blocks:
        to_s16(block)


def _frame(s16: list[bytes]) -> None:
    framer = Framer(SAMPLE_RATE)
    for block in s16:
        framer.feed(block)
    framer.finish()


def _spool(s16: list[bytes]) -> None:
    spool = WavSpool(SAMPLE_RATE)
    for block in s16:
        spool.append(block)
    for _ in spool.read_in_pieces(800_000):
        pass
    spool.close()


def _encode(name: str, s16: list[bytes]) -> int:
    encoder = open_encoder(name, SAMPLE_RATE)
    return len(encoder.header()) + sum(len(encoder.feed(block)) for block in s16) + len(encoder.finish())


def _print_stream(name: str, speech: Samples) -> None:
    began = time.perf_counter()
    encoder = open_encoder(name, SAMPLE_RATE)
    sent = len(encoder.header())
    opening = time.perf_counter() - began
    first_ms = 0
    step = SAMPLE_RATE // 1000
    for start in range(0, len(speech), step):
        data = encoder.feed(to_s16(speech[start : start + step]))
        sent += len(data)
        if data and not first_ms:
            first_ms = start // step + 1
    sent += len(encoder.finish())
    bit_rate = sent * 8 / (len(speech) / SAMPLE_RATE)
    print(f"{name:23} {1e3 * opening:11.1f} {first_ms if first_ms > 1 else 0:32} {bit_rate / 1000:8.0f}")


if __name__ == "__main__":
    main()
