"""What may leave a dialect's work."""

from __future__ import annotations

import pytest
import structlog.testing
import trio
import trio.lowlevel

from tts_provider.errors import EmptyText, InternalError, TTSError
from tts_provider.server.failures import faults_as_errors
from tts_provider.server.websocket import Closed


@pytest.mark.parametrize(
    ("raised", "left"),
    [
        (EmptyText("No."), EmptyText),
        (Closed(), Closed),
        (ExceptionGroup("", [ExceptionGroup("", [EmptyText("No.")])]), EmptyText),
        (ExceptionGroup("", [EmptyText("No."), Closed()]), Closed),
        (ExceptionGroup("", [EmptyText("No."), ValueError("/secret")]), EmptyText),
        (ValueError("/secret"), InternalError),
        (ExceptionGroup("", [ValueError("/secret")]), InternalError),
    ],
)
def test_only_what_can_be_told_leaves(raised: Exception, left: type[Exception]) -> None:
    """A client that has gone before all else. A fault of ours is logged and tells nothing."""
    with structlog.testing.capture_logs() as logs, pytest.raises(left) as caught, faults_as_errors():
        raise raised
    assert "secret" not in str(caught.value)
    assert [entry["event"] for entry in logs] == ["request.fault"] * (left is InternalError)


async def test_who_is_cancelled_tells_nothing_more() -> None:
    """An error that comes of being cancelled is not raised in its place."""

    async def fail_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            raise EmptyText("No.") from None

    with trio.CancelScope() as scope, faults_as_errors():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_when_cancelled)
            nursery.start_soon(trio.sleep_forever)
            await trio.lowlevel.checkpoint()
            scope.cancel()
    assert scope.cancelled_caught
    with pytest.raises(TTSError), faults_as_errors():
        raise EmptyText("No.")
