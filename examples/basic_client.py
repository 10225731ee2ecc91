"""Speech into files, with the methods that the replaced server's client had.

python -m tts_provider                    # in one shell
python examples/basic_client.py           # in another
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from tts_provider.client import TTSClient


async def main() -> int:
    parser = argparse.ArgumentParser(description="Speak a text into a file with each of the engines named.")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--model", action="append", help="engine, may be repeated (default: the server's)")
    parser.add_argument("--text", default="Hello, this is a test.")
    parser.add_argument("--output-dir", type=Path, default=Path())
    args = parser.parse_args()

    client = TTSClient(host=args.host, port=args.port)
    if not await client.connect():
        return 1
    try:
        info = await client.get_server_info()
        print(f"Available models: {', '.join(info['available_models'])}")
        failed = 0
        for model in args.model or [info["current_model"]["name"]]:
            path = args.output_dir / f"output_{model}.wav"
            if await client.generate_speech(text=args.text, output_path=path, model=model, speaker=1):
                print(f"Wrote {path}")
            else:  # why is in the log
                failed += 1
        return 1 if failed else 0
    finally:
        await client.disconnect()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
