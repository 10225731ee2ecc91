"""What may leave a dialect's work: the client's going, and errors that a client can be told. All else is a fault of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from tts_provider.errors import InternalError, TTSError
from tts_provider.server.websocket import Closed

__all__ = ["faults_as_errors"]

log = structlog.get_logger(__name__)


@contextmanager
def faults_as_errors() -> Iterator[None]:
    """Have nothing leave the block but `Closed` and `TTSError`, out of the groups that nurseries make of them.

    A fault of ours is logged, and leaves as `InternalError`.
    """
    try:
        yield
    except (Closed, TTSError):
        raise
    except Exception as error:
        leaves = _leaves(error)
        for leaf in leaves:
            if isinstance(leaf, Closed):
                raise leaf from error
        for leaf in leaves:
            if isinstance(leaf, TTSError):
                raise leaf from error
        log.exception("request.fault")
        raise InternalError("Something went wrong in the server.") from error
    except BaseExceptionGroup as group:  # cancelled as well: whoever cancelled it decides what the client is told
        _, rest = group.split(TTSError)
        raise rest or group from None


def _leaves(error: Exception) -> list[Exception]:
    if isinstance(error, ExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
