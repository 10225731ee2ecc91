"""What happened at the fake, with times, readable from any thread while it runs."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Literal

__all__ = ["Event", "Journal", "Kind", "Stats"]

Kind = Literal[
    "connected",  # a client asks for a WebSocket
    "rejected",  # and does not get one
    "opened",  # and gets one
    "turn",  # a request for speech; detail is its text
    "invalid",  # the client broke a rule; detail says which
    "fault",  # a rule of the plan was carried out; detail is the fault
    "end",  # a turn was sent to its end
    "left",  # the connection is gone, whoever closed it
    "voices",  # the list of voices was asked for
]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""

    kind: Kind
    at: float
    """`time.monotonic()`, which is the same clock in every process of the machine."""
    connection: int
    """Numbered from 1; 0 for what is no WebSocket."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Stats:
    """Sums over the fake's life."""

    connections: int
    peak_connections: int
    turns: int
    peak_turns: int
    open_connections: int
    invalid: int


class Journal:
    """Events in order, and a way to wait for one."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._changed = threading.Condition()
        self._open: set[int] = set()
        self._turning: set[int] = set()
        self._peak_connections = 0
        self._peak_turns = 0

    def note(self, kind: Kind, connection: int = 0, detail: str = "") -> None:
        """Write down that something happened now."""
        event = Event(kind, time.monotonic(), connection, detail)
        with self._changed:
            self._events.append(event)
            if kind == "connected":
                self._open.add(connection)
            elif kind == "turn":
                self._turning.add(connection)
            elif kind in ("end", "left", "rejected"):
                self._turning.discard(connection)
                if kind != "end":
                    self._open.discard(connection)
            self._peak_connections = max(self._peak_connections, len(self._open))
            self._peak_turns = max(self._peak_turns, len(self._turning))
            self._changed.notify_all()

    def events(self, kind: Kind | None = None) -> list[Event]:
        """All events so far, or those of one kind."""
        with self._changed:
            return [event for event in self._events if kind is None or event.kind == kind]

    def wait(self, kind: Kind, count: int = 1, timeout_s: float = 5.0) -> list[Event]:
        """Block until `count` events of a kind have happened, and return them.

        Raises:
            TimeoutError: they have not.
        """
        with self._changed:

            def there() -> bool:
                return sum(event.kind == kind for event in self._events) >= count

            if not self._changed.wait_for(there, timeout_s):
                raise TimeoutError(f"no {count} events {kind!r} in {timeout_s} s; there were {self._events}")
        return self.events(kind)

    @property
    def open_connections(self) -> int:
        """Clients connected now."""
        with self._changed:
            return len(self._open)

    def stats(self) -> Stats:
        """Sums so far."""
        with self._changed:
            kinds = [event.kind for event in self._events]
            return Stats(
                connections=kinds.count("connected"),
                peak_connections=self._peak_connections,
                turns=kinds.count("turn"),
                peak_turns=self._peak_turns,
                open_connections=len(self._open),
                invalid=kinds.count("invalid"),
            )

    def clear(self) -> None:
        """Forget the events; what is open stays open."""
        with self._changed:
            self._events.clear()
            self._peak_connections = len(self._open)
            self._peak_turns = len(self._turning)
