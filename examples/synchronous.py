"""Speech without an event loop: a file, and audio while it is made.

python examples/synchronous.py --output hello.wav
"""

from __future__ import annotations

import argparse

from tts_provider.client import SyncTTSClient, TTSClientError


def main() -> None:
    parser = argparse.ArgumentParser(description="Use the server from ordinary blocking code.")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--model", help="engine (default: the server's)")
    parser.add_argument("--output", default="hello.wav")
    args = parser.parse_args()

    with SyncTTSClient(args.host, args.port) as client:
        for voice in client.voices(args.model)[:5]:
            print(f"{voice.model}: {voice.id} ({voice.lang})")
        success = client.save("Hello from ordinary code.", args.output, model=args.model)
        print(f"Wrote {args.output}, {(success.duration_ms or 0) / 1000:.1f} s")
        with client.stream("Block by block.", model=args.model) as speech:
            print(f"{sum(isinstance(item, bytes) for item in speech)} blocks at {speech.sample_rate} Hz")


if __name__ == "__main__":
    try:
        main()
    except TTSClientError as error:
        raise SystemExit(f"That did not work: {error}") from None
