"""The engines by name: loaded when somebody needs them, once, and unloaded when nobody does.

States of an engine, and what moves it:

    unavailable   it cannot work here; the reason says what to install
    unloaded  ──use, preload──▶  loading  ──loaded──▶  ready  ──idle long enough──▶  unloaded
                                 loading  ──failed──▶  unloaded   (everyone who waited gets the error; the next use tries again)
                                                       ready  ──died──▶  unloaded
"""

from __future__ import annotations

import enum
import math
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import structlog
import trio

from tts_provider.engines.base import Engine
from tts_provider.errors import EngineUnavailable, TTSError, UnknownModel

__all__ = ["Catalog", "EngineState", "Entry", "LoadReport"]

FIRST_REPORT_S: Final = 0.5
"""Before a waiting client is told of a load: a light engine is ready sooner, and nobody needs to know."""
LOAD_REPORT_S: Final = 1.0
"""Between two reports of a load to one waiting client."""

log = structlog.get_logger(__name__)

LoadReport = Callable[[float | None, int], None]
"""Called while a client waits for a load: the share done (0 to 1; None when unknown) and the client's place, from 1."""


class EngineState(enum.Enum):
    UNAVAILABLE = "unavailable"
    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the catalog."""

    name: str
    """Canonical name, lower case."""
    sample_rate: int
    """Hz of the engine's own audio, known without loading it."""
    create: Callable[[], Engine]
    """Makes the engine, without loading it."""
    aliases: tuple[str, ...] = ()
    unavailable: Callable[[], str | None] = lambda: None
    """Why the engine cannot work here, with the command that changes that; None when it can. Cheap."""
    light: bool = False
    """Whether loading it is a matter of milliseconds, so that listing its voices may load it."""
    speakers: Mapping[str, str] = field(default_factory=dict)
    """The unified speaker ids it has, each with a description."""


class _Slot:
    """One engine's state."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.engine: Engine | None = None
        self.loading = False
        self.progress: float | None = None
        self.waiting = 0
        """Clients that wait for the load."""
        self.changed = trio.Event()
        """Set, and replaced, at each progress and at the end of a load."""
        self.failure: TTSError | None = None
        """Why the last load failed."""
        self.users = 0
        self.idle_since = math.inf
        self.scope: trio.CancelScope | None = None
        """Round the running engine; cancelling it unloads."""
        self.stopping = False
        """Cancelled, and not yet gone."""

    def notify(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class Catalog:
    """All engines of a server. `run` is its life; `use` is how a request gets an engine."""

    def __init__(self, entries: Iterable[Entry], *, default: str, idle_unload_s: float = math.inf) -> None:
        """`default`: the engine of requests that name none, by any of its names.

        Raises:
            UnknownModel: there is no engine of that name.
        """
        self._slots = {entry.name: _Slot(entry) for entry in entries}
        self._names = {name: entry.name for entry in self.entries for name in (entry.name, *entry.aliases)}
        self._idle_unload_s = idle_unload_s
        self._nursery: trio.Nursery | None = None
        self.on_crash: Callable[[str, TTSError], None] = lambda name, error: None
        """Called when an engine that was ready has ended by an error, with its name."""
        self.default = self.find(default).name

    @property
    def entries(self) -> list[Entry]:
        return [slot.entry for slot in self._slots.values()]

    def find(self, model: str | None) -> Entry:
        """The entry that a client means by `model`, in any capitals; the default for None.

        Raises:
            UnknownModel: there is none of that name.
        """
        if model is None:
            model = self.default
        name = self._names.get(model.lower())
        if name is None:
            raise UnknownModel(f"There is no such model. Models: {', '.join(sorted(self._names))}.", field="model")
        return self._slots[name].entry

    def state(self, name: str) -> EngineState:
        slot = self._slots[name]
        if slot.engine is not None:
            return EngineState.READY
        if slot.loading:
            return EngineState.LOADING
        return EngineState.UNAVAILABLE if slot.entry.unavailable() else EngineState.UNLOADED

    def detail(self, name: str) -> str | None:
        """Why an engine is unavailable, or why its last load failed."""
        slot = self._slots[name]
        return slot.entry.unavailable() or (slot.failure.message if slot.failure else None)

    def loaded(self, name: str) -> Engine | None:
        """The engine, if it is ready."""
        return self._slots[name].engine

    def waiting(self) -> int:
        """Requests that wait for an engine to load."""
        return sum(slot.waiting for slot in self._slots.values())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the loaded engines until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await self._unload_idle()
            finally:
                self._nursery = None

    async def _unload_idle(self) -> None:
        if not math.isfinite(self._idle_unload_s):
            await trio.sleep_forever()
        while True:
            now = trio.current_time()
            idle = [slot for slot in self._slots.values() if slot.engine and slot.scope and not slot.users]
            due = [slot.idle_since + self._idle_unload_s for slot in idle]
            for slot in idle:
                if slot.scope and slot.idle_since + self._idle_unload_s <= now:
                    log.info("engine.unload", engine=slot.entry.name)
                    slot.engine, slot.stopping = None, True
                    slot.scope.cancel(reason="idle")
            # Nothing due: an engine that falls idle from now on is due no sooner than a whole period from now.
            await trio.sleep_until(min([time for time in due if time > now], default=now + self._idle_unload_s))

    @asynccontextmanager
    async def use(self, name: str, report: LoadReport | None = None) -> AsyncIterator[Engine]:
        """The engine, loaded if need be and kept while the block runs. `report` hears of the load.

        Raises:
            EngineUnavailable: it cannot be loaded; the message says what to do.
        """
        slot = self._slots[name]
        slot.users += 1
        try:
            yield slot.engine or await self._load(slot, report)
        finally:
            slot.users -= 1
            slot.idle_since = trio.current_time()

    async def preload(self, name: str) -> None:
        """Load an engine without using it yet.

        Raises:
            EngineUnavailable: it cannot be loaded.
        """
        async with self.use(name):
            pass

    async def _load(self, slot: _Slot, report: LoadReport | None) -> Engine:
        reason = slot.entry.unavailable()
        if reason is not None:
            raise EngineUnavailable(reason, field="model", retryable=False)
        if self._nursery is None:
            raise EngineUnavailable("The server is not running.")
        while slot.stopping:
            await slot.changed.wait()
        if not slot.loading:
            slot.loading, slot.progress, slot.failure = True, None, None
            self._nursery.start_soon(self._run_engine, slot)
        slot.waiting += 1
        place = slot.waiting
        next_report = trio.current_time() + (FIRST_REPORT_S if report else math.inf)
        try:
            while slot.loading:
                with trio.move_on_at(next_report):
                    await slot.changed.wait()
                if report is not None and slot.loading and trio.current_time() >= next_report:
                    report(slot.progress, place)
                    next_report = trio.current_time() + LOAD_REPORT_S
        finally:
            slot.waiting -= 1
        if slot.engine is None:
            raise slot.failure or EngineUnavailable(f"Engine '{slot.entry.name}' stopped while it was loading.")
        return slot.engine

    async def _run_engine(self, slot: _Slot) -> None:
        """Load the engine and keep it. Its end, whatever the reason, leaves the slot unloaded and the server alive."""
        name = slot.entry.name
        crashed = False

        def report(done: float | None, what: str) -> None:
            slot.progress = done
            slot.notify()

        try:
            with trio.CancelScope() as scope:
                engine = slot.entry.create()
                if engine.capabilities.sample_rate != slot.entry.sample_rate:
                    raise EngineUnavailable(
                        f"Engine '{name}' speaks at {engine.capabilities.sample_rate} Hz, not at {slot.entry.sample_rate}."
                    )
                async with trio.open_nursery() as nursery:
                    log.info("engine.load", engine=name)
                    await nursery.start(engine.run, report)
                    slot.engine, slot.scope, slot.idle_since = engine, scope, trio.current_time()
                    slot.loading = False
                    log.info("engine.ready", engine=name)
                    slot.notify()
        except Exception as error:
            slot.failure = _load_error(error, name)
            crashed = slot.engine is not None
            log.error("engine.stopped", engine=name, error=slot.failure.message, exc_info=not isinstance(error, TTSError))
        finally:
            slot.engine = slot.scope = None
            slot.loading = slot.stopping = False
            slot.notify()
        if crashed and slot.failure is not None:
            self.on_crash(name, slot.failure)


def _load_error(error: BaseException, name: str) -> TTSError:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, TTSError) else EngineUnavailable(f"Engine '{name}' could not be loaded.")
