"""Fixtures of the client's tests."""

from __future__ import annotations

import socket

import anyio
import pytest

from tests.client.helpers import Run


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine function under one of the event loops."""
    return lambda main: anyio.run(main, backend=request.param)


@pytest.fixture
def unused_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
