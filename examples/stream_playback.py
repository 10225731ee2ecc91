"""Speech that plays while the rest of it is made, and how long the first sound took.

python examples/stream_playback.py "Hello there. This sentence is made while you hear the first."
"""

from __future__ import annotations

import argparse
import time

import anyio

from tts_provider.client import Sentence, Success, TTSClient
from tts_provider.playback import open_player

TEXT = "You hear this sentence already. This one is being made. And nobody has thought of this one yet."


async def main() -> None:
    parser = argparse.ArgumentParser(description="Play a text while it is being spoken.")
    parser.add_argument("text", nargs="?", default=TEXT)
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--model", help="engine (default: the server's)")
    parser.add_argument("--no-play", action="store_true", help="throw the audio away")
    args = parser.parse_args()

    async with TTSClient(args.host, args.port) as client:
        asked = time.perf_counter()
        async with client.stream(args.text, model=args.model) as speech:
            print(f"{speech.streaming.model} speaks as {speech.streaming.voice}, {speech.sample_rate} Hz")
            async with open_player(speech.sample_rate, "null" if args.no_play else None) as player:
                first = True
                async for item in speech:
                    if isinstance(item, bytes):
                        if first:
                            print(f"first audio after {1000 * (time.perf_counter() - asked):.0f} ms")
                            first = False
                        await player.play(item)  # waits when 10 s are ahead; the server then waits too
                    elif isinstance(item, Sentence):
                        print(f"{item.start_ms / 1000:6.2f} s  {item.text}")
                    elif isinstance(item, Success):
                        print(f"all of it after {1000 * (time.perf_counter() - asked):.0f} ms")
                await player.drain()
                print(f"played by {player.name}, {player.underruns} underruns")


if __name__ == "__main__":
    anyio.run(main)
