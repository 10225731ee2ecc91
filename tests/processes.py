"""The server as a process: started as users start it, its log read, what it holds counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psutil

from tests.conftest import RunningServer
from tts_provider.server.lifecycle import ServerAddress
from tts_provider.settings import Settings

__all__ = ["END_S", "Process", "process"]

END_S = 15
"""For a process to end that was told to."""


class Process:
    """`python -m tts_provider` on a free port; its log is read all the time, as a full pipe would stop it."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self.child = child
        self.log: list[dict[str, Any]] = []
        """What it has logged so far."""
        self._logged = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        address = self.log_until("server.listening")
        self.server = RunningServer(ServerAddress(address["host"], address["port"]), Settings())
        self.system = psutil.Process(child.pid)

    @property
    def port(self) -> int:
        return self.server.address.port

    def _read_log(self) -> None:
        assert self.child.stderr is not None
        for line in self.child.stderr:
            with self._logged:
                try:
                    self.log.append(json.loads(line))
                except ValueError:  # not of the log: a traceback, a warning
                    self.log.append({"event": line.rstrip(), "level": "error"})
                self._logged.notify_all()
        with self._logged:
            self._ended = True
            self._logged.notify_all()

    def log_until(self, event: str) -> dict[str, Any]:
        """The first record of `event`, which must come. Blocks."""
        seen = 0
        with self._logged:
            while True:
                for record in self.log[seen:]:
                    if record["event"] == event:
                        return record
                seen = len(self.log)
                assert not self._ended, f"the process ended without {event}: {self.log[-3:]}"
                assert self._logged.wait(END_S), f"no {event} in time: {self.log[-3:]}"

    def whole_log(self) -> list[dict[str, Any]]:
        """All records of a process that has ended. Blocks."""
        self._reader.join(END_S)
        assert self._ended
        return self.log


@contextmanager
def process(*flags: str, model: str = "espeak", environment: Mapping[str, str] | None = None) -> Iterator[Process]:
    """A server that is killed at the end, if it has not ended by then; `environment` is added to this process' own."""
    command = [sys.executable, "-m", "tts_provider", "--port", "0", "--default-model", model, *flags]
    variables = {**os.environ, "TTS_LOG_FORMAT": "json", **(environment or {})}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=variables) as child:
        try:
            yield Process(child)
        finally:
            child.kill()
            child.wait()
