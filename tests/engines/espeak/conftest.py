"""The engine, loaded."""

from __future__ import annotations

import pytest
import trio

from tts_provider.engines.espeak import EspeakEngine


@pytest.fixture
async def engine(nursery: trio.Nursery) -> EspeakEngine:
    """An engine with one worker that runs until the end of the test."""
    engine = EspeakEngine()
    await nursery.start(engine.run, lambda done, doing: None)
    return engine
