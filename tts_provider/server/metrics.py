"""What the server measures of itself, for Prometheus. Each server has a registry of its own; nothing is global.

A hook costs about a microsecond; what is known anyway (open connections, engines' states and slots) is read when somebody asks.

An *underrun* is counted from the server's side: a listener who began to play with the first audio would have run dry, because
the engine made the next audio too late. Time that the client itself took is not held against the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import trio
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tts_provider.engines.base import Engine, QueueReport, SpeechOptions, VoiceChoice
from tts_provider.errors import Busy, Draining, Overloaded, TTSError
from tts_provider.server.admission import Occupancy
from tts_provider.streaming.events import AudioFrame, Event
from tts_provider.streaming.text import TextSource
from tts_provider.streaming.utterance import Deliver, DeliverNow, Output, Summary, Utterance

__all__ = ["CONTENT_TYPE", "EngineReading", "MeasuredUtterance", "Meter", "Metrics", "Reading"]

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

COUNT_S: Final = 1.0
"""Of audio between two updates of a request's counters: two updates for each frame were a fifth of its cost."""
LAG_PERIOD_S: Final = 1.0
"""Between two measurements of the event loop's lag."""

FIRST_AUDIO_BUCKETS: Final = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
QUEUE_BUCKETS: Final = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
LAG_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

SHED: Final = (Overloaded, Busy, Draining)
"""Errors that turn work away which another time would be taken."""


@dataclass(frozen=True, slots=True)
class EngineReading:
    """An engine, read when somebody asks."""

    name: str
    state: str
    slots: int | None
    """How many requests it can speak at once; None while it is not loaded."""
    occupancy: Occupancy = field(default_factory=Occupancy)


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read when somebody asks."""

    connections: int
    turned_away: int
    faults: int
    engines: tuple[EngineReading, ...]


class Metrics:
    """A server's instruments, and their exposition."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(f"tts_{name}", meaning, labels, registry=self.registry)

        def histogram(name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"tts_{name}", meaning, labels, buckets=buckets, registry=self.registry)

        self._first_audio = histogram(
            "first_audio_seconds", "From a request to its first audio.", FIRST_AUDIO_BUCKETS, "engine"
        )
        self._queue = histogram("queue_seconds", "From a request to its place at the engine.", QUEUE_BUCKETS, "engine")
        self._active = Gauge("tts_active_streams", "Requests being spoken.", ["engine"], registry=self.registry)
        self._requests = counter("requests", "Requests that ended: done, failed or cancelled.", "engine", "outcome")
        self._bytes = counter("audio_bytes", "Bytes of audio handed to clients.", "engine")
        self._seconds = counter("audio_seconds", "Seconds of audio handed to clients.", "engine")
        self._underruns = counter("underruns", "Times that a listener would have run dry.", "engine")
        self._errors = counter("errors", "Errors that clients were told of.", "code")
        self._shed = counter("shed", "Work turned away because of the server's state, by reason.", "reason")
        self._fallbacks = counter("fallbacks", "Requests that another engine was asked to speak.", "engine", "to")
        self._instruments: dict[str, _Instruments] = {}
        self._lag = histogram("event_loop_lag_seconds", "How late the event loop wakes a task.", LAG_BUCKETS)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def read_with(self, read: Callable[[], Reading]) -> None:
        """Have `read` called at each exposition."""
        self.registry.register(_ReadingCollector(read))

    def told(self, error: TTSError) -> None:
        """Count an error that a client is told of."""
        self._errors.labels(error.code).inc()
        if isinstance(error, SHED):
            self._shed.labels(error.code).inc()

    def fell_back(self, engine: str, to: str) -> None:
        """Count a request of `engine` that `to` is asked to speak."""
        self._fallbacks.labels(engine, to).inc()

    @contextmanager
    def request(self, engine: str, received_at: float) -> Iterator[Meter]:
        """Count a request of `engine`, and how it ends. `received_at`: when it came, on Trio's clock."""
        instruments = self._instruments.get(engine) or self._label(engine)
        instruments.active.inc()
        outcome = "cancelled"
        meter = Meter(received_at, instruments)
        try:
            yield meter
            outcome = "done"
        except Exception:
            outcome = "failed"
            raise
        finally:
            meter.count()
            instruments.active.dec()
            self._requests.labels(engine, outcome).inc()

    def _label(self, engine: str) -> _Instruments:
        self._instruments[engine] = made = _Instruments(
            queue=self._queue.labels(engine),
            first_audio=self._first_audio.labels(engine),
            byte_count=self._bytes.labels(engine),
            seconds=self._seconds.labels(engine),
            underruns=self._underruns.labels(engine),
            active=self._active.labels(engine),
        )
        return made

    async def watch_loop(self) -> None:
        """Measure the event loop's lag until cancelled."""
        while True:
            due = trio.current_time() + LAG_PERIOD_S
            await trio.sleep_until(due)
            self._lag.observe(trio.current_time() - due)


@dataclass(frozen=True, slots=True)
class _Instruments:
    """Those of one engine: to look one up by its label costs as much as to use it."""

    queue: Histogram
    first_audio: Histogram
    byte_count: Counter
    seconds: Counter
    underruns: Counter
    active: Gauge


@dataclass(slots=True)
class Meter:
    """One request's measurements, and the clock of somebody who plays what its engine makes."""

    received_at: float
    instruments: _Instruments
    first_audio_at: float | None = None
    """When the first audio was there; None before."""
    _playing_since: float | None = None
    """When playing began, moved on by each underrun and by the time that the client took; None before the first audio."""
    _played_s: float = 0.0
    """Seconds of audio delivered."""
    _counted_s: float = 0.0
    _uncounted_bytes: int = 0

    @property
    def audio_s(self) -> float:
        """Seconds of audio that the client took."""
        return self._played_s

    def audio_made(self, now: float) -> None:
        """Audio is about to be delivered."""
        if self._playing_since is None:
            self._playing_since = self.first_audio_at = now
            self.instruments.first_audio.observe(now - self.received_at)
        elif (late_s := now - self._playing_since - self._played_s) > 0:
            self.instruments.underruns.inc()
            self._playing_since += late_s

    def audio_taken(self, byte_count: int, total_s: float, waited_s: float) -> None:
        """The client took the audio after `waited_s`; it now has `total_s` of it."""
        assert self._playing_since is not None
        self._playing_since += waited_s
        self._played_s = total_s
        self._uncounted_bytes += byte_count
        if total_s >= self._counted_s + COUNT_S:
            self.count()

    def count(self) -> None:
        """Bring the counters up to date."""
        self.instruments.byte_count.inc(self._uncounted_bytes)
        self.instruments.seconds.inc(self._played_s - self._counted_s)
        self._uncounted_bytes, self._counted_s = 0, self._played_s


class MeasuredUtterance(Utterance):
    """An utterance that tells a meter how it goes."""

    def __init__(
        self,
        meter: Meter,
        engine: Engine,
        choice: VoiceChoice,
        options: SpeechOptions,
        output: Output,
        text: TextSource,
    ) -> None:
        super().__init__(engine, choice, options, output, text)
        self._meter = meter

    async def run(self, deliver: Deliver, *, now: DeliverNow | None = None, queued: QueueReport | None = None) -> Summary:
        loaded_at = trio.current_time()
        summary = await super().run(deliver, now=now, queued=queued)
        # The wait for the client's own text is not the engine's.
        self._meter.instruments.queue.observe(loaded_at - self._meter.received_at + summary.session_at - summary.asked_at)
        return summary

    async def _hand_over(self, events: list[Event], deliver: Deliver, now: DeliverNow | None = None) -> None:
        size = _audio_bytes(events)
        if not size:
            await super()._hand_over(events, deliver, now)
            return
        made_at = trio.current_time()
        self._meter.audio_made(made_at)
        await super()._hand_over(events, deliver, now)
        self._meter.audio_taken(size, self._renderer.duration_ms / 1000, trio.current_time() - made_at)

    def _hand_over_now(self, events: list[Event], now: DeliverNow) -> list[Event]:
        left = super()._hand_over_now(events, now)
        if size := _audio_bytes(events[: len(events) - len(left)] if left else events):
            self._meter.audio_made(trio.current_time())
            self._meter.audio_taken(size, self._renderer.duration_ms / 1000, 0.0)
        return left


def _audio_bytes(events: list[Event]) -> int:
    size = 0
    for event in events:
        if isinstance(event, AudioFrame):
            size += len(event.data)
    return size


class _ReadingCollector(Collector):
    """Turns a `Reading` into metrics, without state of its own."""

    def __init__(self, read: Callable[[], Reading]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        reading = self._read()
        yield GaugeMetricFamily("tts_connections", "Open connections.", value=reading.connections)
        yield CounterMetricFamily("tts_connections_turned_away", "Refused, as there were too many.", value=reading.turned_away)
        yield CounterMetricFamily("tts_connection_faults", "Ended by an error of the server's own.", value=reading.faults)
        slots = GaugeMetricFamily("tts_engine_slots", "Requests that a loaded engine speaks at once.", labels=["engine"])
        states = GaugeMetricFamily("tts_engine_state", "1 for the state that an engine is in.", labels=["engine", "state"])
        used = GaugeMetricFamily("tts_engine_slots_used", "Requests that an engine speaks.", labels=["engine"])
        waiting = GaugeMetricFamily("tts_queue_length", "Requests that wait for an engine's slot.", labels=["engine"])
        shed = CounterMetricFamily("tts_queue_shed", "Requests that got no slot, by reason.", labels=["engine", "reason"])
        for engine in reading.engines:
            states.add_metric([engine.name, engine.state], 1)
            used.add_metric([engine.name], engine.occupancy.used)
            waiting.add_metric([engine.name], engine.occupancy.waiting)
            for reason, times in engine.occupancy.shed.items():
                shed.add_metric([engine.name, reason], times)
            if engine.slots is not None:
                slots.add_metric([engine.name], engine.slots)
        yield from (slots, used, waiting, shed, states)
