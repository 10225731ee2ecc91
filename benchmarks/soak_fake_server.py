"""A server as users run it, with the tests' tones for an engine: for soaks where espeak-ng is missing."""

from __future__ import annotations

import os

import trio

from tests.fake_engine import FakeEngine, entry
from tts_provider.logs import configure_logging
from tts_provider.server.lifecycle import serve
from tts_provider.settings import load_settings


async def main() -> None:
    settings = load_settings({}, os.environ)
    configure_logging(settings.log_level, settings.log_format)
    await serve(settings, entries=[entry(FakeEngine())])


if __name__ == "__main__":
    trio.run(main)
