"""Logging: structlog on standard error, as text for people and as JSON for machines.

Whatever is logged, and whoever made it: a record is one line (as text, its traceback follows in indented lines), and no secret
is in it. The records of libraries, which speak through the standard library, take the same way.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from functools import lru_cache
from itertools import islice
from typing import Any, Final

import structlog

from tts_provider.redaction import HIDDEN, is_secret_name, redactor, secrets_of

__all__ = ["Forwarder", "configure_logging", "processors"]

MAX_VALUE_CHARS: Final = 16_384
"""Of one value: a deep traceback is shorter, and what a client sent must not fill a disk."""
MAX_ITEMS: Final = 64
"""Of a list or an object."""
MAX_DEPTH: Final = 4
"""Of lists and objects in a value; below that they are shown as Python shows them."""
KNOWN_NAMES: Final = 1_024
"""Of fields, cleaned once; there are some dozens, and what clients make up replaces what they made up before."""
INDENT: Final = "    "

_PLAIN: Final = re.compile(r"[^\s\"'=\\]+")
_COLOURS: Final = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "31;1"}

EventDict = MutableMapping[str, Any]


def configure_logging(level: str, format: str, secrets: Iterable[str] = ()) -> None:
    """Set the process's logging up. `level` and `format` as in `settings.Settings`; `secrets`: what no line may hold."""
    as_text = format == "text" or (format == "auto" and sys.stderr.isatty())
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=processors(as_text, [*secrets, *secrets_of(os.environ)], colours=as_text and sys.stderr.isatty()),
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # The libraries' debug output costs time on each frame.
    logging.basicConfig(handlers=[Forwarder(structlog.get_logger())], level=max(threshold, logging.WARNING))
    logging.captureWarnings(True)


def processors(as_text: bool, secrets: Iterable[str] = (), *, colours: bool = False) -> list[structlog.types.Processor]:
    """What a record goes through from the call to the line."""
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _Cleaner(redactor(secrets)),
        _TextRenderer(colours) if as_text else _render_json,
    ]


class Forwarder(logging.Handler):
    """Hands the standard library's records to structlog."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # arguments that do not fit; the record is worth something all the same
            message = f"{record.msg!r} {record.args!r}"
        more = {"exc_info": record.exc_info} if record.exc_info and record.exc_info[0] is not None else {}
        level = max(logging.DEBUG, min(logging.CRITICAL, record.levelno // 10 * 10))
        self._logger.log(level, message, logger=record.name, **more)


class _Cleaner:
    """Makes of each value one that can be shown: no secret in it, not too long, nothing that a strict reader refuses."""

    def __init__(self, redact: Callable[[str], str]) -> None:
        self._redact = redact
        self._name = lru_cache(KNOWN_NAMES)(self._text)

    def __call__(self, _: Any, __: str, record: EventDict) -> EventDict:
        return self._clean_items(record, 0)

    def _clean_items(self, items: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        return {self._name(str(name)): self._named(str(name), value, depth) for name, value in islice(items.items(), MAX_ITEMS)}

    def _named(self, name: str, value: Any, depth: int) -> Any:
        if isinstance(value, str | bytes) and is_secret_name(name):
            return HIDDEN
        return self._clean(value, depth)

    def _clean(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float) and type(value) in (int, float) and math.isfinite(value) and abs(value) < 2**63:
            return value
        if isinstance(value, str):
            return self._text(value)
        if depth < MAX_DEPTH and isinstance(value, Mapping):
            return self._clean_items(value, depth + 1)
        if depth < MAX_DEPTH and isinstance(value, list | tuple | set | frozenset):
            return [self._clean(item, depth + 1) for item in islice(value, MAX_ITEMS)]
        try:
            return self._text(repr(value))
        except Exception:
            return f"<{type(value).__name__}>"

    def _text(self, text: str) -> str:
        if len(text) > MAX_VALUE_CHARS:
            # The end of a traceback tells most.
            cut = len(text) - MAX_VALUE_CHARS
            text = f"{text[: MAX_VALUE_CHARS // 2]}... {cut} characters ...{text[-MAX_VALUE_CHARS // 2 :]}"
        try:
            text.encode()
        except UnicodeEncodeError:  # half a surrogate pair
            text = text.encode("utf-8", "backslashreplace").decode()
        return self._redact(text)


def _render_json(_: Any, __: str, record: EventDict) -> str:
    # ASCII: all that a reader might take for the end of a line is escaped.
    return json.dumps(record, ensure_ascii=True, allow_nan=False)


class _TextRenderer:
    """``2026-01-31T12:00:00.000000Z info     server.listening host=127.0.0.1 port=9000``."""

    def __init__(self, colours: bool) -> None:
        self._colours = colours

    def __call__(self, _: Any, __: str, record: EventDict) -> str:
        record = dict(record)
        time, level, event = (str(record.pop(name, "")) for name in ("timestamp", "level", "event"))
        exception = record.pop("exception", None)
        line = " ".join(
            [
                self._coloured("2", _escape(time)),
                self._coloured(_COLOURS.get(level, "0"), f"{_escape(level):<8}"),
                self._coloured("1", _escape(event)),
                *(f"{_escape(name)}={_quote(value)}" for name, value in record.items()),
            ]
        )
        traceback = [INDENT + _escape(text) for text in str(exception).split("\n")] if exception is not None else []
        return "\n".join([line, *traceback])

    def _coloured(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours else text


def _quote(value: Any) -> str:
    if isinstance(value, str):
        return _escape(value) if _PLAIN.fullmatch(value) else _escape(json.dumps(value, ensure_ascii=False))
    return _escape(json.dumps(value, ensure_ascii=False))


def _escape(text: str) -> str:
    """`text` with everything escaped that moves a cursor, ends a line or turns the direction of writing."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
