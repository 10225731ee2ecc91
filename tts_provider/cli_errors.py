"""How the command line tells what went wrong: one sentence on standard error and an exit status, never a traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable
from typing import Final

from tts_provider.settings import SettingsError

__all__ = ["FAILED", "INTERRUPTED", "MISUSED", "report", "sentence"]

FAILED: Final = 1
"""Exit status of a command that failed."""
MISUSED: Final = 2
"""For a mistake on the command line or in the settings."""
INTERRUPTED: Final = 130
"""For Ctrl-C, as shells have it."""


def report(error: BaseException) -> int:
    """Say on standard error what went wrong; the exit status."""
    errors = list(_leaves(error))
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in errors):
        return INTERRUPTED
    leaf = errors[0]
    if isinstance(leaf, BrokenPipeError):  # whoever read our output has left; what is buffered has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    print(f"tts-provider: {sentence(leaf)}", file=sys.stderr)
    return MISUSED if isinstance(leaf, SettingsError) else FAILED


def _leaves(error: BaseException) -> Iterable[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def sentence(error: BaseException) -> str:
    """What `error`, or the first of its group, means to whoever gave the command."""
    error = next(iter(_leaves(error)))
    if isinstance(error, ImportError):
        return f"The installation is not complete ({error}); install the package again."
    import trio

    from tts_provider.client import TTSClientError
    from tts_provider.errors import TTSError
    from tts_provider.playback import PlaybackError

    match error:
        case SettingsError() | TTSClientError() | TTSError() | PlaybackError():
            return str(error)
        case OSError(errno=errno.EADDRINUSE):
            return "The port is taken, perhaps by a server that runs already; choose another with --port."
        case OSError(strerror=str(reason)):
            return f"{error.filename}: {reason}." if error.filename is not None else f"{reason}."
        case trio.TooSlowError():
            return "The server does not answer in time."
        case UnicodeDecodeError():
            return "The text is not UTF-8."
    return f"Internal error: {type(error).__name__}: {error}"
