"""What every dialect asks for: an utterance for a request. The rules that hold in all dialects are checked here, once."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Final

import trio

from tts_provider.engines.base import Engine, SpeechOptions, VoiceRequest
from tts_provider.engines.catalog import Catalog, EngineState, Entry, LoadReport
from tts_provider.errors import Draining, EmptyText, InvalidSampleRate, TextTooLong
from tts_provider.messages import MAX_KEYS, SpeechParameters
from tts_provider.server.admission import Admission
from tts_provider.server.admitted import AdmittedEngine
from tts_provider.server.failover import Chains, FallbackSpeech, Speech
from tts_provider.server.health import Health
from tts_provider.server.metrics import MeasuredUtterance, Metrics
from tts_provider.server.request_log import TracedText, log_request
from tts_provider.server.voices import Voices
from tts_provider.settings import Settings
from tts_provider.streaming.containers import check_format
from tts_provider.streaming.events import AudioFrame, Event, Started
from tts_provider.streaming.text import TextSource, is_speakable
from tts_provider.streaming.utterance import Output, Summary, Utterance
from tts_provider.turnstile import Turnstile

__all__ = ["SpeechService"]

MIN_SAMPLE_RATE: Final = 8_000
MAX_SAMPLE_RATE: Final = 192_000
"""Hz. Below is no speech; above no player."""
MAX_SHOWN: Final = 40
"""Characters of a client's own word in a warning."""


class SpeechService:
    """The server's one way to speech, shared by all connections."""

    def __init__(self, catalog: Catalog, settings: Settings) -> None:
        self.catalog = catalog
        self.settings = settings
        self.draining = False
        """Whether the server is going away and takes no new request."""
        self.active = 0
        """Requests being spoken."""
        self.admission = Admission(settings)
        self.metrics = Metrics()
        self.voices = Voices(catalog)
        self.health = Health(catalog)
        self._turnstile = Turnstile()
        self._chains = Chains(settings.fallback, catalog)
        self._encoders = trio.CapacityLimiter(os.cpu_count() or 1)

    @property
    def limits(self) -> dict[str, int | float]:
        """What clients are held to, as `info` echoes it."""
        settings = self.settings
        return {
            "max_message_bytes": settings.max_message_bytes,
            "max_fragments": settings.max_fragments,
            "max_frames_per_s": settings.max_frames_per_s,
            "max_pings_per_s": settings.max_pings_per_s,
            "max_commands_per_s": settings.max_commands_per_s,
            "max_text_chars": settings.max_text_chars,
            "max_queued_requests": settings.max_queued_requests,
            "max_streams": settings.max_streams,
            "max_active": settings.max_active,
            "queue_per_slot": settings.queue_per_slot,
            "queue_s": settings.queue_s,
            "min_sample_rate": MIN_SAMPLE_RATE,
            "max_sample_rate": MAX_SAMPLE_RATE,
            "max_fields": MAX_KEYS,
            "max_connections": settings.max_connections,
            "max_connections_per_address": settings.max_connections_per_address,
            "handshake_s": settings.handshake_s,
            "idle_s": settings.idle_s,
            "send_stall_s": settings.send_stall_s,
            "ping_interval_s": settings.ping_interval_s,
            "ping_timeout_s": settings.ping_timeout_s,
            "close_s": settings.close_s,
        }

    def turns_away(self) -> float | None:
        """Seconds until a newcomer should come back, while every engine would turn it away; None while one would not."""
        waits_s = []
        for entry in self.catalog.entries:
            wait_s = self.admission.turns_away(entry.name)
            if wait_s is not None:
                waits_s.append(wait_s)
            elif self.catalog.state(entry.name) is not EngineState.UNAVAILABLE:
                return None
        return min(waits_s, default=None)

    def text_source(self, text: str | None = None) -> TextSource:
        """The text of a new request; complete when `text` is given.

        Raises:
            EmptyText: `text` holds nothing that can be spoken.
            TextTooLong: `text` is longer than one request may be.
        """
        source = TracedText(self.settings.max_text_chars, keep=self.settings.log_text)
        if text is not None:
            self._check(text)
            source.append(text)
            source.end()
        return source

    def _check(self, text: str) -> None:
        limit = self.settings.max_text_chars
        if len(text) > limit:
            raise TextTooLong(f"The text is too long: {len(text)} characters, at most {limit}.", field="text")
        if not is_speakable(text):
            raise EmptyText("Text cannot be empty", field="text")

    @asynccontextmanager
    async def utterance(
        self,
        parameters: SpeechParameters,
        format: str,
        text: TextSource,
        *,
        on_load: LoadReport | None = None,
        tap: Callable[[bytes], None] | None = None,
        client: Hashable = None,
    ) -> AsyncIterator[Speech]:
        """The speech of a request; where no other engine may step in, its engine is loaded and kept while the block runs.

        Args:
            client: what stands for the connection. Where requests wait for the engine, those of one client take turns with
                those of others. None is a client that asks once, as over HTTP.

        Raises:
            TTSError: the request cannot be spoken; nothing was begun.
        """
        received_at = trio.current_time()
        await self._turnstile.pass_through()  # so that not all of a crowd are answered with its last
        entry = self._admit(parameters, format)
        output = Output(format, parameters.sample_rate, tap, self._encoders)
        who = object() if client is None else client

        def open_utterance(
            entry: Entry, parameters: SpeechParameters, warnings: tuple[str, ...]
        ) -> AbstractAsyncContextManager[Utterance]:
            return self._on_engine(entry, parameters, output, text, received_at, on_load, who, warnings)

        others = self._chains.after(entry.name)
        self.active += 1
        try:
            if others:
                yield FallbackSpeech(self.catalog, entry, others, parameters, text, open_utterance, self.metrics.fell_back)
            else:
                async with open_utterance(entry, parameters, ()) as utterance:
                    yield utterance
        finally:
            self.active -= 1

    async def speak(
        self,
        parameters: SpeechParameters,
        format: str,
        text: TextSource,
        send: Callable[[bytes], Awaitable[None]],
        *,
        on_start: Callable[[Started], None] = lambda _: None,
        client: Hashable = None,
    ) -> Summary:
        """Speak a request for a client who wants audio alone, which goes to `send`; `on_start` hears before who speaks.

        `client` as for `utterance`.

        Raises:
            TTSError: it could not be spoken; what was sent before is good.
        """

        async def deliver(event: Event) -> None:
            if isinstance(event, AudioFrame):
                await send(event.data)
            elif isinstance(event, Started):
                on_start(event)

        if text.failure is not None:
            raise text.failure
        async with self.utterance(parameters, format, text, client=client) as speech:
            return await speech.run(deliver)

    @asynccontextmanager
    async def _on_engine(
        self,
        entry: Entry,
        parameters: SpeechParameters,
        output: Output,
        text: TextSource,
        received_at: float,
        on_load: LoadReport | None,
        client: Hashable,
        told: tuple[str, ...],
    ) -> AsyncIterator[Utterance]:
        """The utterance on one engine, with the warnings `told` before the engine's own."""
        with (
            self.health.watch(entry.name) as watched,
            self.metrics.request(entry.name, received_at) as meter,
            log_request(text, meter, engine=entry.name) as line,
        ):
            async with self.catalog.use(entry.name, on_load) as engine:
                choice = engine.resolve(VoiceRequest(parameters.lang, parameters.speaker, parameters.voice))
                line["voice"] = choice.voice.id
                extra = {name: parameters.extra[name] for name in engine.capabilities.options & parameters.extra.keys()}
                warnings = [*told, *choice.warnings, *_warnings(parameters, engine)]
                watched.utterance = MeasuredUtterance(
                    meter,
                    AdmittedEngine(engine, self.admission, client),
                    replace(choice, warnings=tuple(warnings)),
                    SpeechOptions(speed=parameters.speed, words=parameters.timestamps, extra=extra),
                    output,
                    text,
                )
                yield watched.utterance

    @property
    def ready(self) -> bool:
        """Whether a request of the default engine would be taken and has a chance, by that engine or one in its place."""
        default = self.catalog.default
        candidates = [default, *(entry.name for entry in self._chains.after(default))]
        return not self.draining and any(
            self.health.works(name) and self.admission.turns_away(name) is None for name in candidates
        )

    def _admit(self, parameters: SpeechParameters, format: str) -> Entry:
        if self.draining:
            raise Draining("The server is going away and takes no new requests.")
        entry = self.catalog.find(parameters.model)
        if not MIN_SAMPLE_RATE <= parameters.sample_rate <= MAX_SAMPLE_RATE:
            raise InvalidSampleRate(
                f"'sample_rate' must be from {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz, such as 24000.", field="sample_rate"
            )
        check_format(format, parameters.sample_rate)
        return entry


def _warnings(parameters: SpeechParameters, engine: Engine) -> list[str]:
    """What was asked for and this engine cannot do, in sentences for the client."""
    warnings = []
    unknown = sorted(parameters.extra.keys() - engine.capabilities.options)
    if unknown:
        shown = ", ".join(name[:MAX_SHOWN] for name in unknown)
        warnings.append(f"Ignored, as engine '{engine.name}' has no such options: {shown}.")
    if parameters.speed != 1.0 and not engine.capabilities.speed:
        warnings.append(f"Engine '{engine.name}' speaks at its own speed only.")
    return warnings
