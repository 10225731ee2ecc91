"""The engine while it runs: what `EdgeEngine.run` loads, and the only way from there to edge-tts and PyAV."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from tts_provider.engines.base import Sink, SpeechChunk
from tts_provider.engines.edge import service
from tts_provider.engines.edge.connections import Connections
from tts_provider.engines.edge.deadlines import Deadlines
from tts_provider.engines.edge.dial import Address, Dialer, Proxy
from tts_provider.engines.edge.slots import TurnSlots
from tts_provider.engines.edge.text import MAX_TEXT_BYTES, split_units, xml_safe
from tts_provider.engines.edge.turns import Order, TurnMaker
from tts_provider.engines.edge.voice_list import VoiceCache, keep_voices_fresh
from tts_provider.engines.edge.voices import ListedVoice

__all__ = ["EdgeSession", "Upstream", "own_address"]

_VOICES_THREADS = 1
"""For reading and writing the list of voices."""


def own_address() -> Address:
    """Where Microsoft's service is."""
    return Address.parse(f"wss://{service.HOST}")


class Upstream:
    """Everything between a chunk of text and the service, for all sessions of an engine."""

    def __init__(
        self,
        *,
        address: Address,
        proxy: Proxy | None,
        deadlines: Deadlines,
        max_turns: int,
        preconnect: int,
        use_voices: Callable[[Sequence[ListedVoice]], None],
    ) -> None:
        self._dialer = Dialer(address, proxy)
        self._deadlines = deadlines
        self._use_voices = use_voices
        self._connections = Connections(self._dialer, deadlines, preconnect)
        self._turns = TurnMaker(self._connections, TurnSlots(max_turns), deadlines)

    async def run(self, cache: VoiceCache | None, *, task_status: trio.TaskStatus[None]) -> None:
        """Load the voices that are at hand, start, and keep connections and voices until cancelled."""
        limiter = trio.CapacityLimiter(_VOICES_THREADS)
        await trio.to_thread.run_sync(self._dialer.prepare, limiter=limiter)
        kept = None if cache is None else await trio.to_thread.run_sync(cache.load, limiter=limiter)
        if kept is not None:
            self._use_voices(kept[1])
        async with trio.open_nursery() as nursery:
            await nursery.start(self._connections.run)
            nursery.start_soon(
                keep_voices_fresh,
                self._dialer,
                cache,
                None if kept is None else kept[0],
                self._deadlines.voices_s,
                limiter,
                self._use_voices,
            )
            task_status.started()

    def session(self, voice: str, speed: float, *, encoded: bool) -> EdgeSession:
        """A session in which the voice of that full name speaks."""
        return EdgeSession(self._turns, voice, speed, encoded=encoded)


class EdgeSession:
    """One request's hold on the service: nothing but who speaks and how, for each turn has a connection of its own."""

    def __init__(self, turns: TurnMaker, voice: str, speed: float, *, encoded: bool) -> None:
        self._turns = turns
        self._voice = voice
        self._speed = speed
        self._encoded = encoded

    async def say(self, chunk: SpeechChunk, sink: Sink) -> None:
        """Speak `chunk` in as many turns as it needs; see `Session.say`. A chunk without letter or digit makes no sound."""
        text = service.cleaned(xml_safe(chunk.text))
        start_s = 0.0
        # Half the speed is twice the audio for a text, and the limit is there to stay below ten minutes of it.
        for unit in split_units(text, service.escaped, int(MAX_TEXT_BYTES * min(1.0, self._speed))):
            first = chunk.index == 0 and start_s == 0.0
            order = Order(self._voice, self._speed, unit.text, unit.start, start_s, first)
            start_s += await self._turns.speak(order, sink, encoded=self._encoded)
