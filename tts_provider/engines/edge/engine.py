"""The engine "edge"."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from tts_provider.engines.base import (
    Capabilities,
    ProgressReport,
    QueueReport,
    Session,
    SpeechOptions,
    Voice,
    VoiceChoice,
    VoiceRequest,
)
from tts_provider.engines.edge.deadlines import Deadlines
from tts_provider.engines.edge.dial import Address, Proxy
from tts_provider.engines.edge.voices import Catalogue, ListedVoice
from tts_provider.errors import EngineUnavailable, InvalidRequest

if TYPE_CHECKING:
    from tts_provider.engines.edge.upstream import Upstream
    from tts_provider.engines.edge.voice_list import VoiceCache

__all__ = ["EdgeEngine"]

SAMPLE_RATE: Final = 24_000


class EdgeEngine:
    """Microsoft Edge's online voices.

    Args:
        endpoint: where the service is, as ``wss://host:port`` or ``ws://host:port``; the service's own path is appended, and
            the list of voices is fetched from there too. Microsoft's own when None.
        max_turns: how many turns all requests together have under way at once. Microsoft tells no limit; more than 40 were
            called spam by the author of edge-tts, and about 500 brought HTTP 429. Lower it to be more polite.
        preconnect: how many connections are kept open ahead, which spares a request the handshakes (some 150 ms).
        cache_dir: where the list of voices is kept; the user's cache directory when None.
        proxy: an HTTP proxy as ``http://[user:password@]host:port``. The environment's proxy variables are not read.
        deadlines: how long the engine waits for the service.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        max_turns: int = 64,
        preconnect: int = 0,
        cache_dir: Path | None = None,
        proxy: str | None = None,
        deadlines: Deadlines | None = None,
    ) -> None:
        if max_turns < 1:
            raise ValueError(f"expected at least one turn at a time, not {max_turns}")
        if preconnect < 0:
            raise ValueError(f"expected a number of connections, not {preconnect}")
        self._address = None if endpoint is None else Address.parse(endpoint)
        self._max_turns = max_turns
        self._preconnect = preconnect
        self._cache_dir = cache_dir
        self._proxy = None if proxy is None else Proxy.parse(proxy)
        self._deadlines = deadlines or Deadlines()
        self._catalogue = Catalogue()
        self._upstream: Upstream | None = None

    @property
    def name(self) -> str:
        """``edge``."""
        return "edge"

    @property
    def capabilities(self) -> Capabilities:
        """What the service can do."""
        return Capabilities(
            sample_rate=SAMPLE_RATE,
            max_chunk_weight=1000,  # some 75 s of audio; a longer turn costs more when it fails
            max_group_weight=600,  # each turn costs a connection, and the service counts turns
            parallel_chunks=2,
            speed=True,
            word_timings="exact",
            encodings=frozenset({"mp3"}),
        )

    async def run(self, report: ProgressReport, *, task_status: trio.TaskStatus[None]) -> None:
        """Import edge-tts, take the voices known from last time, and serve; see `Engine.run`. Needs no network to start."""
        report(None, "importing edge-tts")
        upstream, cache = await trio.to_thread.run_sync(self._load, limiter=trio.CapacityLimiter(1))
        async with trio.open_nursery() as nursery:
            await nursery.start(upstream.run, cache)
            self._upstream = upstream
            try:
                report(1.0, "ready")
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._upstream = None

    def _load(self) -> tuple[Upstream, VoiceCache | None]:
        """Import what is heavy; blocks for half a second."""
        try:
            from tts_provider.engines.edge.upstream import Upstream, own_address
            from tts_provider.engines.edge.voice_list import VoiceCache, default_cache_directory
        except ImportError as error:
            message = "The Edge engine needs the packages edge-tts (7.3.1 or later) and av: pip install -U edge-tts av"
            raise EngineUnavailable(message) from error
        address = self._address or own_address()
        try:
            cache: VoiceCache | None = VoiceCache(self._cache_dir or default_cache_directory(), address.netloc)
        except RuntimeError:  # no home directory: the list is fetched anew after each start
            cache = None
        upstream = Upstream(
            address=address,
            proxy=self._proxy,
            deadlines=self._deadlines,
            max_turns=self._max_turns,
            preconnect=self._preconnect,
            use_voices=self._use_voices,
        )
        return upstream, cache

    def _use_voices(self, voices: Sequence[ListedVoice]) -> None:
        self._catalogue = Catalogue(voices)

    def voices(self) -> Sequence[Voice]:
        """All voices that the service had at the last look, by locale."""
        return self._catalogue.voices

    def resolve(self, request: VoiceRequest) -> VoiceChoice:
        """Decide who speaks; see `Engine.resolve`."""
        return self._catalogue.resolve(request)

    @asynccontextmanager
    async def session(
        self, choice: VoiceChoice, options: SpeechOptions, queued: QueueReport | None = None
    ) -> AsyncIterator[Session]:
        """Open a session; see `Engine.session`. It never waits here: turns wait for their slot one by one."""
        if options.encoding not in (None, "mp3"):
            raise InvalidRequest(f"Edge does not encode as '{options.encoding}', only as 'mp3'.", field="format")
        if self._upstream is None:
            raise EngineUnavailable("The Edge engine is not running.")
        full_name = self._catalogue.full_name(choice.voice)
        yield self._upstream.session(full_name, options.speed, encoded=options.encoding is not None)
