"""Run the fake by itself; its first line on stdout is its endpoint."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal

from tests.edge_service.journal import Journal
from tests.edge_service.plan import Plan
from tests.edge_service.server import Settings
from tests.edge_service.service import serve


def main() -> None:
    """Parse the command line and serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tests.edge_service", description="A fake of Edge's speech service.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--connect-delay", type=float, default=0.0, help="seconds before a handshake is answered")
    parser.add_argument("--first-byte", type=float, default=0.0, help="seconds from a request to its first audio")
    parser.add_argument("--pace", type=float, help="times real time at which audio is sent; all at once without it")
    parser.add_argument("--message-bytes", type=int, default=720)
    parser.add_argument("--tls", action="store_true")
    arguments = parser.parse_args()
    settings = Settings(
        connect_delay_s=arguments.connect_delay,
        first_byte_s=arguments.first_byte,
        pace=arguments.pace,
        message_bytes=arguments.message_bytes,
    )
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(settings, arguments.port, arguments.tls))


async def _serve(settings: Settings, port: int, tls: bool) -> None:
    runner, port = await serve(settings, Plan(), Journal(), port=port, tls=tls)
    print(f"{'wss' if tls else 'ws'}://127.0.0.1:{port}", flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    main()
