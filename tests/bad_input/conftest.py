"""Every test of bad input also asserts that the server had no fault of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog.testing


@pytest.fixture(autouse=True)
def log() -> Iterator[list[structlog.typing.EventDict]]:
    """What the server logs; at the end there must be no fault in it, neither of a connection nor of a request."""
    with structlog.testing.capture_logs() as records:
        yield records
    assert [record for record in records if record["event"].endswith((".fault", ".no_response"))] == []
