"""The engines' health: a breaker for each, probes in the background, and engines that crashed brought back.

A probe speaks a fixed short text with any voice of the engine, never a user's, off every request's path and one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from tts_provider.engines.base import Engine, SpeechOptions, VoiceChoice, VoiceRequest
from tts_provider.engines.breaker import Breaker
from tts_provider.engines.catalog import Catalog
from tts_provider.errors import InternalError, RequestError, SynthesisTimeout, TTSError
from tts_provider.streaming.events import Event
from tts_provider.streaming.text import TextSource
from tts_provider.streaming.utterance import Output, Utterance

__all__ = ["FAILING", "Health", "Watched"]

FAILING: Final = "failing"
"""The state of an engine whose breaker is open, in `info` and in the metrics."""
PROBE_TEXT: Final = "Hello."
PROBE_S: Final = 30.0
"""For a probe, its load and its wait for a place included: what the core gives any request until its first audio."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Watched:
    """A request whose end will tell something about its engine."""

    utterance: Utterance | None = None


class Health:
    """The health of a catalog's engines. `run` is its life; without it nothing is probed."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._breakers = {entry.name: Breaker(entry.name) for entry in catalog.entries}
        self._crashed = {entry.name: trio.Event() for entry in catalog.entries}
        """Set while an engine that crashed has not come back."""
        catalog.on_crash = self._note_crash

    def state(self, name: str) -> str:
        """The engine's state, as the wire calls it."""
        return FAILING if self._breakers[name].open else self._catalog.state(name).value

    def detail(self, name: str) -> str | None:
        """Why an engine is unavailable or failing."""
        return self._breakers[name].reason or self._catalog.detail(name)

    def works(self, name: str) -> bool:
        """Whether a request of the engine is worth a try: it neither fails all the time nor has it just crashed."""
        return not self._breakers[name].open and not self._crashed[name].is_set()

    @contextmanager
    def watch(self, name: str) -> Iterator[Watched]:
        """Learn from how the block ends; nothing from a client that leaves or a request that was wrong.

        Raises:
            EngineUnavailable: the engine is failing; the block was not begun.
        """
        breaker = self._breakers[name]
        breaker.check()
        watched = Watched()
        try:
            yield watched
        except Exception as error:
            breaker.failed(error, watched.utterance.speaking if watched.utterance is not None else "")
            raise
        else:
            if watched.utterance is not None and watched.utterance.heard:
                breaker.succeeded(watched.utterance.speaking)

    async def run(self) -> None:
        """Probe and bring back until cancelled."""
        async with trio.open_nursery() as nursery:
            for breaker in self._breakers.values():
                nursery.start_soon(self._probe_when_open, breaker)
                nursery.start_soon(self._bring_back, breaker)

    def _note_crash(self, name: str, error: TTSError) -> None:
        self._breakers[name].crashed(error)
        self._crashed[name].set()

    async def _bring_back(self, breaker: Breaker) -> None:
        """Load an engine that crashed, so that the next request need not wait for it."""
        name = breaker.engine
        while True:
            await self._crashed[name].wait()
            if not breaker.open:
                try:
                    await self._catalog.preload(name)
                except TTSError as error:
                    breaker.trip(error)
            # From here on its breaker alone says how it is; a crash of just now was counted there.
            self._crashed[name] = trio.Event()

    async def _probe_when_open(self, breaker: Breaker) -> None:
        while True:
            await breaker.wait_open()
            assert breaker.due is not None
            await trio.sleep_until(breaker.due)
            failure = await self._probe(breaker.engine)
            if failure is None:
                breaker.close()
            else:
                breaker.probe_failed(failure)

    async def _probe(self, name: str) -> TTSError | None:
        """Have the engine say something; returns what went wrong."""
        with trio.move_on_after(PROBE_S):
            try:
                async with self._catalog.use(name) as engine:
                    choice = _any_voice(engine)
                    if choice is not None:  # without a voice a request will tell
                        await _say(engine, choice)
            except TTSError as error:
                return error
            except Exception:
                log.exception("engine.probe_fault", engine=name)
                return InternalError("The engine could not be probed.")
            return None
        return SynthesisTimeout(f"Engine '{name}' did not speak within {PROBE_S:.0f} seconds.")


def _any_voice(engine: Engine) -> VoiceChoice | None:
    try:
        return engine.resolve(VoiceRequest())
    except RequestError:
        voices = engine.voices()
        return VoiceChoice(voices[0], voices[0].language) if voices else None


async def _say(engine: Engine, choice: VoiceChoice) -> None:
    text = TextSource(len(PROBE_TEXT))
    text.append(PROBE_TEXT)
    text.end()
    output = Output("pcm", engine.capabilities.sample_rate)

    async def ignore(event: Event) -> None:
        """Nobody listens."""

    await Utterance(engine, choice, SpeechOptions(), output, text).run(ignore)
