"""Fixtures of the Edge engine's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.edge_service import EdgeService


@pytest.fixture(autouse=True)
def right_clock() -> Iterator[None]:
    """edge-tts keeps the clock's correction for the whole process: undo what a test made it learn."""
    yield
    from edge_tts.drm import DRM

    DRM.clock_skew_seconds = 0.0


@pytest.fixture
def service() -> Iterator[EdgeService]:
    """A fake service that answers at once."""
    with EdgeService() as service:
        yield service
        assert [event.detail for event in service.journal.events("invalid")] == []
