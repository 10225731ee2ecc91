"""A language model that speaks while it thinks, and can be interrupted.

Its tokens go to the server as they come; each sentence is spoken as soon as it is complete. When the listener interrupts
("barge-in"), the model, the engine and the player stop; the next answer uses the same connection.

python examples/llm_stream.py                            # press Enter to interrupt
python examples/llm_stream.py --interrupt-after 3        # after so many seconds of speech
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import AsyncIterator

import trio

from tts_provider.client import RequestOptions, Sentence, TTSClient
from tts_provider.playback import Player, open_player

SAMPLE_RATE = 24_000
ANSWER = (
    "The sea is salty because rivers wash minerals out of the rocks. Rain is slightly acid, so it dissolves a little of every "
    "stone that it runs over. The rivers carry that to the sea, where the water evaporates and the salt stays behind. "
    "That has gone on for about four billion years. Some of it also comes from vents in the ocean floor."
)
SECOND_ANSWER = "Of course. In short: rivers bring the salt, and the sun takes only the water away."


async def language_model(answer: str) -> AsyncIterator[str]:
    """Stands for a real one: its tokens, about thirty a second."""
    for token in re.findall(r"\s*\S{1,6}", answer):
        await trio.sleep(0.03)
        yield token


async def wait_for_enter() -> None:
    """Return when the listener presses Enter; never, where nobody can."""
    if not sys.stdin.isatty():
        await trio.sleep_forever()
    await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)


async def answer(client: TTSClient, player: Player, text: str, args: argparse.Namespace) -> bool:
    """Speak `text`; whether it was heard to its end."""
    heard = 0
    options: RequestOptions = {"model": args.model, "sample_rate": SAMPLE_RATE}
    async with trio.open_nursery() as nursery:
        interruption = trio.CancelScope()

        async def listen_for_barge_in() -> None:
            await wait_for_enter()
            interruption.cancel()

        nursery.start_soon(listen_for_barge_in)
        async with client.speak_text_stream(language_model(text), **options) as speech:
            with interruption:  # within the block: leaving it tells the server to stop, and the connection lives on
                async for item in speech:
                    if isinstance(item, bytes):
                        heard += len(item)
                        await player.play(item)
                    elif isinstance(item, Sentence):
                        print(f"  {item.text}", flush=True)
                    if args.interrupt_after is not None and heard > args.interrupt_after * 2 * SAMPLE_RATE:
                        interruption.cancel()
                await player.drain()
        nursery.cancel_scope.cancel()
    await player.stop()
    return not interruption.cancelled_caught


async def main() -> None:
    parser = argparse.ArgumentParser(description="Speak a language model's answer while it is being written.")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--model", help="speech engine (default: the server's)")
    parser.add_argument("--interrupt-after", type=float, metavar="S", help="interrupt after so many seconds of speech")
    parser.add_argument("--no-play", action="store_true", help="throw the audio away")
    args = parser.parse_args()

    async with TTSClient(args.host, args.port) as client, open_player(SAMPLE_RATE, "null" if args.no_play else None) as player:
        print("Why is the sea salty?")
        if not await answer(client, player, ANSWER, args):
            args.interrupt_after = None
            print("(interrupted)\nShorter, please!")
            await answer(client, player, SECOND_ANSWER, args)


if __name__ == "__main__":
    trio.run(main)
