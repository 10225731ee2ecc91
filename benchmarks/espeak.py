"""espeak-ng through the server: time to first audio, and seconds of audio per second of wall time.

python -m benchmarks.espeak [--clients 8] [--requests 200]
"""

from __future__ import annotations

import argparse
import statistics
import time

import trio

from benchmarks.harness import Heard, connection, hear, long_text, machine, milliseconds, server, side_by_side

SHORT = "Hello, this is a short sentence."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--sentences", type=int, default=60)
    arguments = parser.parse_args()

    async def one_after_the_other() -> list[Heard]:
        async with connection(running.port) as websocket:
            return [await hear(websocket, SHORT, model="espeak") for _ in range(arguments.requests)]

    print(machine())
    with server(default_model="espeak", preload="espeak") as running:
        time.sleep(0.3)
        heard = trio.run(one_after_the_other)[5:]
        print(
            f"first audio, one client, ms p50 p95: {milliseconds([h.first_audio_s for h in heard])}   ({len(heard)} requests)"
        )
        cpu = running.cpu_s()
        together, wall = side_by_side(running.port, arguments.clients, long_text(arguments.sentences), model="espeak")
        audio = sum(h.audio_s for h in together)
        print(
            f"{arguments.clients} clients, {arguments.sentences} sentences each: {audio:.0f} s of audio in {wall:.2f} s, "
            f"{audio / wall:.0f} x real time, {1000 * (running.cpu_s() - cpu) / audio:.2f} ms CPU per audio second; "
            f"first audio p50 {1000 * statistics.median(h.first_audio_s for h in together):.1f} ms; "
            f"peak {running.peak_rss_mb():.0f} MB"
        )


if __name__ == "__main__":
    main()
