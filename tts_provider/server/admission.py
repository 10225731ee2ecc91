"""Who may use an engine, and when: a bounded number of places, and before them a bounded line that is fair among clients.

    asks ──a place is free──────────────▶ has a place ──▶ done, and the next in line is called
      │
      ├──the line is full, or too slow──▶ Overloaded, at once
      │
      └──▶ waits ──called───────────────▶ has a place
             ├──cancelled, client gone──▶ out of the line at once; the others move up
             ├──waited `queue_s`────────▶ Overloaded
             └──displaced───────────────▶ Overloaded: the line was full, and a client with fewer in it came

Too slow is a line in which the newcomer would wait longer than `queue_s`, as far as the last requests tell: nobody gains from
waiting for a refusal. Sockets are not counted here: it is the engines that are scarce.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from tts_provider.engines.base import Engine, QueueReport
from tts_provider.errors import Overloaded
from tts_provider.server.line import FairLine
from tts_provider.settings import Settings

__all__ = ["Admission", "Occupancy"]

MIN_QUEUE: Final = 8
"""Requests that may wait at least: a page of short requests at once is no overload, even of an engine with one slot."""
FIRST_HOLD_GUESS_S: Final = 5.0
"""How long a place is held, for `retry_after_ms` before a request has ended. Nobody is turned away because of it."""
HOLD_SMOOTHING: Final = 0.2
"""Share of the newest hold in the running mean: some five requests of memory."""
RETRY_RANGE_MS: Final = (500, 60_000)
"""Bounds of `retry_after_ms`: below half a second another try only adds load, above a minute the guess means nothing."""
TELL_PERIOD_S: Final = 0.25
"""Between two rounds of telling positions: a line of 2,000 may move a hundred times a second."""
TOLD_AT_ONCE: Final = 64
"""Positions told before other tasks have their turn: about a millisecond."""


@dataclass(frozen=True, slots=True)
class Occupancy:
    """An engine's places and line, at one moment."""

    used: int = 0
    """Places held."""
    waiting: int = 0
    """Requests in line."""
    shed: Mapping[str, int] = field(default_factory=dict)
    """Requests turned away so far, by reason: ``full``, ``slow``, ``waited``, ``displaced``."""


class Admission:
    """The places of all engines. `place` is how a request gets one; `run` keeps telling those who wait where they stand."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._places: dict[str, _Places] = {}
        self._moved = trio.Event()
        """Set when positions in some line have changed."""

    def total(self, engine: Engine) -> int:
        """How many requests may use `engine` at once: its slots, or `max_active` when it has none."""
        return engine.capabilities.slots or self._settings.max_active

    def occupancy(self, name: str) -> Occupancy:
        """What goes on at an engine."""
        places = self._places.get(name)
        return Occupancy(places.used, len(places.line), places.shed) if places is not None else Occupancy()

    def waiting(self) -> int:
        """Requests in line, for all engines."""
        return sum(len(places.line) for places in self._places.values())

    def turns_away(self, name: str) -> float | None:
        """Seconds until a new client should try an engine that would turn it away now; None when it would not."""
        places = self._places.get(name)
        newcomer = object()
        if places is None or places.refusal(newcomer) is None:
            return None
        return places.retry_after_ms(newcomer) / 1000

    @asynccontextmanager
    async def place(self, engine: Engine, client: Hashable, queued: QueueReport | None = None) -> AsyncIterator[None]:
        """Have a place at `engine` while the block runs, waiting for it in line where need be.

        Args:
            client: who takes turns with others in line: what it stands for is told apart by ``==``.
            queued: hears of the position in line, from 1, when it is given and when it changes. It must not wait.

        Raises:
            Overloaded: the line is full or too slow, or the request waited in it too long.
        """
        places = self._places.get(engine.name)
        if places is None:
            places = self._places[engine.name] = _Places(engine.name, self._settings, self._notify)
        places.total = self.total(engine)
        if not places.take():
            await places.wait(client, queued)
        since = trio.current_time()
        try:
            yield
        finally:
            places.leave(trio.current_time() - since)

    def _notify(self) -> None:
        self._moved.set()

    async def run(self) -> None:
        """Tell positions as they change, until cancelled."""
        while True:
            await self._moved.wait()
            self._moved = trio.Event()
            for places in list(self._places.values()):
                await places.tell()
            await trio.sleep(TELL_PERIOD_S)


class _State(enum.Enum):
    WAITING = enum.auto()
    CALLED = enum.auto()
    """Has a place."""
    DISPLACED = enum.auto()


@dataclass(slots=True, eq=False)
class _Waiter:
    """One request in line."""

    curious: bool
    """Whether it wants to know its position."""
    position: int
    """As it was told last."""
    state: _State = _State.WAITING
    changed: trio.Event = field(default_factory=trio.Event)
    """Set when there is a new state or position."""

    def move(self, state: _State) -> None:
        self.state = state
        self.changed.set()


class _Places:
    """One engine's places and line. Nobody is in line while a place is free."""

    def __init__(self, engine: str, settings: Settings, notify: Callable[[], None]) -> None:
        self.total = 0
        self.used = 0
        self.line: FairLine[_Waiter] = FairLine()
        self.shed: Counter[str] = Counter()
        self._engine = engine
        self._settings = settings
        self._notify = notify
        self._moved = False
        """Whether positions have changed since they were told."""
        self._mean_hold_s: float | None = None
        """None until a request has ended."""

    def take(self) -> bool:
        """Take a place if one is free and nobody waits for it."""
        self._call()
        if self.used >= self.total:
            return False
        self.used += 1
        return True

    async def wait(self, client: Hashable, queued: QueueReport | None) -> None:
        """Take a place as soon as it is this request's turn.

        Raises:
            Overloaded: it is not to be had.
        """
        self._make_room(client)
        waiter = _Waiter(queued is not None, self.line.next_position(client))
        self.line.add(client, waiter)
        self._has_moved()  # those of the same round who stood behind it
        try:
            with trio.move_on_after(self._settings.queue_s):
                while waiter.state is _State.WAITING:
                    if queued is not None:
                        queued(waiter.position)
                    waiter.changed = trio.Event()
                    await waiter.changed.wait()
        except BaseException:
            if waiter.state is _State.CALLED:  # called and cancelled in the same instant
                self.used -= 1
                self._call()
            elif waiter.state is _State.WAITING:
                self._drop(client, waiter)
            raise
        if waiter.state is _State.WAITING:
            self._drop(client, waiter)
            raise self._overloaded(client, "waited")
        if waiter.state is _State.DISPLACED:
            raise self._overloaded(client, "displaced")

    def leave(self, held_s: float) -> None:
        """Give a place back that was held for `held_s`."""
        mean = self._mean_hold_s
        self._mean_hold_s = held_s if mean is None else mean + HOLD_SMOOTHING * (held_s - mean)
        self.used -= 1
        self._call()

    def _call(self) -> None:
        """Give free places to those who wait."""
        while self.line and self.used < self.total:
            self.used += 1
            self.line.pop().move(_State.CALLED)
            self._has_moved()

    def _drop(self, client: Hashable, waiter: _Waiter) -> None:
        self.line.remove(client, waiter)
        self._has_moved()

    # --- Shedding ---

    def refusal(self, client: Hashable) -> str | None:
        """Why another request of `client` could not wait in line; None when it could, or need not."""
        if self.used < self.total:
            return None
        if self._mean_hold_s is not None and self._expected_s(client) > self._settings.queue_s:
            return "slow"
        if len(self.line) < self._limit or self._displaceable(client) is not None:
            return None
        return "full"

    def retry_after_ms(self, client: Hashable) -> int:
        """When another request of `client` could have a place, within `RETRY_RANGE_MS`."""
        low, high = RETRY_RANGE_MS
        return min(max(math.ceil(1000 * self._expected_s(client)), low), high)

    @property
    def _limit(self) -> int:
        """Requests that may wait."""
        settings = self._settings
        if not settings.queue_per_slot or not settings.queue_s:
            return 0
        return max(MIN_QUEUE, self.total * settings.queue_per_slot)

    def _expected_s(self, client: Hashable) -> float:
        """How long the next request of `client` would wait, going by how long places were held."""
        hold_s = FIRST_HOLD_GUESS_S if self._mean_hold_s is None else self._mean_hold_s
        return hold_s * self.line.next_position(client) / self.total

    def _displaceable(self, client: Hashable) -> Hashable | None:
        """Who has so many in line that its last one should make room for another request of `client`."""
        if not self.line:
            return None
        longest = self.line.longest()
        return longest if self.line.count(longest) > self.line.count(client) + 1 else None

    def _make_room(self, client: Hashable) -> None:
        if (reason := self.refusal(client)) is not None:
            raise self._overloaded(client, reason)
        if len(self.line) >= self._limit:
            self.line.pop_last(self._displaceable(client)).move(_State.DISPLACED)
            self._has_moved()

    def _overloaded(self, client: Hashable, reason: str) -> Overloaded:
        self.shed[reason] += 1
        retry_after_ms = self.retry_after_ms(client)
        return Overloaded(
            f"All places at engine '{self._engine}' are taken ({self.total}), and {len(self.line)} requests wait for one. "
            f"Try again in about {math.ceil(retry_after_ms / 1000)} s.",
            retry_after_ms=retry_after_ms,
        )

    # --- Positions ---

    def _has_moved(self) -> None:
        self._moved = True
        self._notify()

    async def tell(self) -> None:
        """Tell those who wait what their positions are now."""
        if not self._moved:
            return
        self._moved = False
        for position, waiter in enumerate(list(self.line), 1):
            if waiter.curious and waiter.position != position:
                waiter.position = position
                waiter.changed.set()
            if position % TOLD_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
