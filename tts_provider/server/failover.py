"""The fallback chain: another engine speaks a request whose own cannot.

Opt-in, for another engine is another voice. It happens only while nothing of the request was delivered, no audio and no
sentence: voices are never spliced. It happens for failures of the engine or of the server, never for a request that is wrong,
and only to an engine that speaks the same language as the same speaker. The text may still be growing; it is read again from
its beginning. The reply tells who speaks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Final, Protocol

import structlog

from tts_provider.engines.base import QueueReport, VoiceRequest
from tts_provider.engines.catalog import Catalog, Entry
from tts_provider.errors import EmptyText, EngineError, Overloaded, RequestError, TTSError, UnsupportedLanguage
from tts_provider.messages import SpeechParameters
from tts_provider.streaming.events import Event, Started
from tts_provider.streaming.text import TextSource
from tts_provider.streaming.utterance import Deliver, DeliverNow, Summary, Utterance

__all__ = ["Chains", "FallbackSpeech", "OpenUtterance", "Speech"]

FALLS_BACK: Final = (EngineError, Overloaded)
"""What another engine may do better."""

log = structlog.get_logger(__name__)


class Speech(Protocol):
    """A request that can be spoken, by one engine or by the first of several that can."""

    async def run(self, deliver: Deliver, *, now: DeliverNow | None = None, queued: QueueReport | None = None) -> Summary:
        """Speak; the first event is `Started`. See `Utterance.run`."""


OpenUtterance = Callable[[Entry, SpeechParameters, tuple[str, ...]], AbstractAsyncContextManager[Utterance]]
"""Opens an utterance on one engine; the sentences are warnings for the client."""


class Chains:
    """Which engines step in for which, from the setting ``fallback``."""

    def __init__(self, lines: Iterable[str], catalog: Catalog) -> None:
        """
        Raises:
            UnknownModel: a line names an engine that does not exist.
        """
        self._general: list[Entry] = []
        self._own: dict[str, list[Entry]] = {}
        for line in lines:
            first, *others = [catalog.find(name.strip()) for name in line.split(">")]
            if others:
                self._own[first.name] = others
            else:
                self._general.append(first)

    def after(self, engine: str) -> list[Entry]:
        """The engines that step in for `engine`, in order; its own chain, or else the general one."""
        chain = {entry.name: entry for entry in self._own.get(engine, self._general) if entry.name != engine}
        return list(chain.values())


class FallbackSpeech:
    """A request with engines in reserve."""

    def __init__(
        self,
        catalog: Catalog,
        first: Entry,
        others: Iterable[Entry],
        parameters: SpeechParameters,
        text: TextSource,
        open_utterance: OpenUtterance,
        on_fallback: Callable[[str, str], None],
    ) -> None:
        """`on_fallback` hears of each engine that failed and the one that is tried in its place."""
        self._catalog = catalog
        self._first = first
        self._others = others
        self._parameters = parameters
        self._text = text
        self._open = open_utterance
        self._on_fallback = on_fallback
        self._lang: str | None = None
        """What the first engine would have spoken; None until it has said so."""

    async def run(self, deliver: Deliver, *, now: DeliverNow | None = None, queued: QueueReport | None = None) -> Summary:
        """Speak with the first engine that can. `now` is not asked: what comes first decides who speaks.

        Raises:
            TTSError: none can; the error is that of the engine that was asked for.
        """
        gate = _Gate(deliver, self._text)
        self._text.keep()
        try:
            async with self._open(self._first, self._parameters, ()) as utterance:
                self._lang = utterance.choice.lang
                return await utterance.run(gate.deliver, queued=queued)
        except FALLS_BACK as error:
            if gate.passed:
                raise
            failure = error
        lang = self._language_wanted()
        if lang is None:
            raise failure
        parameters = replace(self._parameters, lang=lang, voice=None, extra={})
        failed = self._first.name
        for entry in self._others:
            log.warning("engine.fallback", engine=failed, to=entry.name, code=failure.code, error=failure.message)
            self._on_fallback(failed, entry.name)
            self._text.rewind()
            try:
                async with self._open(
                    entry, replace(parameters, model=entry.name), self._warnings(entry, failure)
                ) as utterance:
                    if _primary(utterance.choice.lang) != _primary(lang):
                        raise UnsupportedLanguage(f"Engine '{entry.name}' does not speak '{lang}'.", field="lang")
                    return await utterance.run(gate.deliver, queued=queued)
            except EmptyText:
                raise
            except (*FALLS_BACK, RequestError) as error:  # a wrong request would have been told by the first engine
                if gate.passed:
                    raise
                log.warning("engine.fallback_failed", engine=entry.name, code=error.code, error=error.message)
            failed = entry.name
        raise failure

    def _language_wanted(self) -> str | None:
        """The language of the request; None when only the voice that it names could tell, and its engine does not."""
        if self._parameters.voice is None:
            return self._parameters.lang
        if self._lang is None and (engine := self._catalog.loaded(self._first.name)) is not None:
            request = VoiceRequest(self._parameters.lang, self._parameters.speaker, self._parameters.voice)
            self._lang = engine.resolve(request).lang
        return self._lang

    def _warnings(self, entry: Entry, failure: TTSError) -> tuple[str, ...]:
        warnings = [f"Engine '{self._first.name}' failed ({failure.code}); '{entry.name}' speaks instead."]
        if self._parameters.voice is not None:
            warnings.append(f"The voice asked for is one of '{self._first.name}'; speaker {self._parameters.speaker} speaks.")
        if self._parameters.extra:
            warnings.append(f"Options of '{self._first.name}' were left out.")
        return tuple(warnings)


def _primary(tag: str) -> str:
    """The language of a tag, without script and region."""
    return tag.replace("_", "-").split("-")[0].lower()


class _Gate:
    """Holds `Started` back until it is true for good: until something else is delivered."""

    def __init__(self, deliver: Deliver, text: TextSource) -> None:
        self._deliver = deliver
        self._text = text
        self._started: Started | None = None
        self.passed = False
        """Whether anything was delivered, so that nobody else may speak."""

    async def deliver(self, event: Event) -> None:
        if isinstance(event, Started):
            self._started = event
            return
        if not self.passed:
            self.passed = True
            self._text.let_go()
            if self._started is not None:
                await self._deliver(self._started)
        await self._deliver(event)
