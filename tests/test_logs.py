"""Logs: whatever is logged is one record, without a secret, and can be read by a strict reader."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
from typing import Any

import msgspec
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tts_provider.logs import MAX_VALUE_CHARS, Forwarder, processors

SECRET = "s3cr3t-value-of-ours"
NASTY = "a\nb\r\n2026-01-01T00:00:00Z error admin.forged\x1b[2J\x85\u2028\u2029\x00\ud800\u202e"

TEXT_HEAD = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z (debug|info|warning|error|critical) +")


class Log:
    """A logger and what it has written."""

    def __init__(self, as_text: bool) -> None:
        self.file = io.StringIO()
        self.logger: Any = structlog.wrap_logger(
            structlog.PrintLogger(self.file),
            processors=processors(as_text, [SECRET]),
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        )

    @property
    def lines(self) -> list[str]:
        """Ended by what any reader may take for the end of a line."""
        return self.file.getvalue().removesuffix("\n").splitlines()

    @property
    def record(self) -> dict[str, Any]:
        """The only record, in JSON."""
        (line,) = self.lines
        return msgspec.json.decode(line, type=dict[str, Any])


class Rude:
    """Cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("No.")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.builds(Rude),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers() | st.none(), inner, max_size=3),
    max_leaves=5,
)
characters = st.characters()  # surrogates and controls too
texts = st.text(characters)
names = texts.filter(lambda name: name not in ("event", "exc_info", "self", "timestamp", "level", "exception"))
patiently = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@patiently
@given(event=texts, fields=st.dictionaries(names, values, max_size=4))
def test_a_record_is_one_line_of_strict_json(event: str, fields: dict[str, Any]) -> None:
    log = Log(as_text=False)
    log.logger.bind(**fields).info(event)
    assert log.file.getvalue().isascii()
    assert log.record["level"] == "info"


@patiently
@given(event=texts, fields=st.dictionaries(names, values, max_size=4))
def test_a_record_as_text_is_one_printable_line(event: str, fields: dict[str, Any]) -> None:
    log = Log(as_text=True)
    log.logger.bind(**fields).info(event)
    (line,) = log.lines
    assert line.isprintable()
    assert TEXT_HEAD.match(line)


@patiently
@given(message=texts)
def test_a_traceback_cannot_pass_for_a_record(message: str) -> None:
    """As JSON it is a field; as text its lines are indented, whatever the exception says."""
    for as_text in (False, True):
        log = Log(as_text)
        try:
            raise ValueError(message)
        except ValueError:
            log.logger.exception("fault")
        head, *rest = log.lines
        if as_text:
            assert TEXT_HEAD.match(head)
            assert rest
            assert all(line.startswith("    ") and line.isprintable() for line in rest)
        else:
            assert rest == []
            assert "ValueError" in log.record["exception"]


@pytest.mark.parametrize("as_text", [False, True])
def test_nothing_that_a_client_says_splits_a_line(as_text: bool) -> None:
    log = Log(as_text)
    log.logger.info(NASTY, field=NASTY, nested=[{NASTY: NASTY}], raw=NASTY.encode("utf-8", "surrogatepass"))
    (line,) = log.lines
    assert line.isprintable()
    assert line.count("admin.forged") >= 4


def test_records_of_libraries_take_the_same_way() -> None:
    """Their arguments, their tracebacks, and even those whose arguments do not fit."""
    log = Log(as_text=False)
    logger = logging.Logger("some.library")
    logger.addHandler(Forwarder(log.logger))
    logger.warning("%s of %d", NASTY, 3)
    logger.error("%d", "no number", exc_info=True)
    try:
        raise OSError(NASTY, SECRET)
    except OSError:
        logger.exception("It failed with %s.", SECRET)
    logger.log(35, "between")
    logger.debug("not wanted")
    records = [msgspec.json.decode(line, type=dict[str, Any]) for line in log.lines]
    assert [record["level"] for record in records] == ["warning", "error", "error", "warning"]
    assert {record["logger"] for record in records} == {"some.library"}
    assert "admin.forged" in records[0]["event"]
    assert "no number" in records[1]["event"]
    assert "OSError" in records[2]["exception"]
    assert SECRET not in log.file.getvalue()


@pytest.mark.parametrize("as_text", [False, True])
def test_no_secret_gets_into_a_record(as_text: bool) -> None:
    """Wherever it stands: in the event, a field, a name, inside, in an exception and in its cause."""
    log = Log(as_text)
    log.logger.info(f"about {SECRET}", value=SECRET, **{SECRET: 1}, inside=[{"deep": (SECRET, SECRET.encode())}])
    log.logger.info("other", api_key="another", headers={"Authorization": "Bearer another"}, url="wss://x?Sec-MS-GEC=another")
    try:
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            raise ValueError("Authorization: Bearer another") from error
    except ValueError:
        log.logger.exception("fault")
    written = log.file.getvalue()
    assert SECRET not in written
    assert "another" not in written.replace("During handling", "")
    assert written.count("[hidden]") >= 9


def test_a_huge_value_is_cut_in_the_middle() -> None:
    log = Log(as_text=False)
    log.logger.info("event", text="begin" + "x" * 5_000_000 + "end", many=list(range(10_000)), deep=nested(100))
    assert len(log.file.getvalue()) < 2 * MAX_VALUE_CHARS
    assert log.record["text"].startswith("begin")
    assert log.record["text"].endswith("end")


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


# --- A process ---

PROGRAM = """
import logging, os, sys, warnings
import structlog
from tts_provider.logs import configure_logging
configure_logging(sys.argv[1], sys.argv[2], ["given-secret"])
structlog.contextvars.bind_contextvars(request="r1")
structlog.get_logger("a").info("started", token_file="x", given="given-secret", environment=dict(os.environ))
structlog.get_logger("a").debug("not at info")
logging.getLogger("lib").warning("two\\nlines %s", os.environ["HF_TOKEN"])
logging.getLogger("lib").info("libraries are heard from warnings on")
warnings.warn("careful\\nnow")
"""


def run(level: str, format: str) -> list[str]:
    """The lines that a process writes to standard error."""
    environment = {**os.environ, "HF_TOKEN": "from-the-environment", "TTS_API_KEYS": "key-number-one,key-number-two"}
    command = [sys.executable, "-W", "always", "-c", PROGRAM, level, format]
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True, env=environment)
    for secret in ("given-secret", "from-the-environment", "key-number-one", "key-number-two"):
        assert secret not in result.stderr
    return result.stderr.splitlines()


def test_a_process_writes_json_and_nothing_else() -> None:
    records = [json.loads(line) for line in run("info", "auto")]
    assert [record["level"] for record in records] == ["info", "warning", "warning"]
    assert records[0]["request"] == "r1"
    assert records[1]["event"] == "two\nlines [hidden]"
    assert "careful\nnow" in records[2]["event"]


def test_a_process_writes_text_where_it_is_told_to() -> None:
    lines = run("warning", "text")
    assert len(lines) == 2
    assert all(TEXT_HEAD.match(line) for line in lines)
