"""What every dialect asks for: an utterance for a request. The rules that hold in all dialects are checked here, once."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import trio

from tts_provider.engines.base import Engine, SpeechOptions, VoiceRequest
from tts_provider.engines.catalog import Catalog, Entry, LoadReport
from tts_provider.errors import Draining, EmptyText, InvalidSampleRate, TextTooLong
from tts_provider.messages import MAX_KEYS, SpeechParameters
from tts_provider.server.metrics import MeasuredUtterance, Metrics
from tts_provider.settings import Settings
from tts_provider.streaming.containers import check_format
from tts_provider.streaming.text import TextSource, is_speakable
from tts_provider.streaming.utterance import Output, Utterance

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
        self.metrics = Metrics()
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

    def text_source(self, text: str | None = None) -> TextSource:
        """The text of a new request; complete when `text` is given.

        Raises:
            EmptyText: `text` holds nothing that can be spoken.
            TextTooLong: `text` is longer than one request may be.
        """
        source = TextSource(self.settings.max_text_chars)
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
    ) -> AsyncIterator[Utterance]:
        """The utterance for a request, with its engine loaded and kept while the block runs.

        Raises:
            TTSError: the request cannot be spoken; nothing was begun.
        """
        received_at = trio.current_time()
        entry = self._admit(parameters, format)
        self.active += 1
        try:
            with self.metrics.request(entry.name, received_at) as meter:
                async with self.catalog.use(entry.name, on_load) as engine:
                    choice = engine.resolve(VoiceRequest(parameters.lang, parameters.speaker, parameters.voice))
                    extra = {name: parameters.extra[name] for name in engine.capabilities.options & parameters.extra.keys()}
                    warnings = [*choice.warnings, *_warnings(parameters, engine)]
                    yield MeasuredUtterance(
                        meter,
                        engine,
                        replace(choice, warnings=tuple(warnings)),
                        SpeechOptions(speed=parameters.speed, words=parameters.timestamps, extra=extra),
                        Output(format, parameters.sample_rate, tap, self._encoders),
                        text,
                    )
        finally:
            self.active -= 1

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
