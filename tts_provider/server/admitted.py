"""An engine as one request of a client sees it: a session begins when the request has a place."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from tts_provider.engines.base import (
    Capabilities,
    Engine,
    ProgressReport,
    QueueReport,
    Session,
    SpeechOptions,
    Voice,
    VoiceChoice,
    VoiceRequest,
)
from tts_provider.server.admission import Admission

__all__ = ["AdmittedEngine"]


@dataclass(frozen=True, slots=True)
class AdmittedEngine:
    """`engine` behind `admission`. Implements `Engine`."""

    engine: Engine
    admission: Admission
    client: Hashable
    """Who takes turns with others; see `Admission.place`."""

    @property
    def name(self) -> str:
        return self.engine.name

    @property
    def capabilities(self) -> Capabilities:
        return self.engine.capabilities

    async def run(self, report: ProgressReport, *, task_status: trio.TaskStatus[None]) -> None:
        await self.engine.run(report, task_status=task_status)

    def voices(self) -> Sequence[Voice]:
        return self.engine.voices()

    def resolve(self, request: VoiceRequest) -> VoiceChoice:
        return self.engine.resolve(request)

    @asynccontextmanager
    async def session(
        self, choice: VoiceChoice, options: SpeechOptions, queued: QueueReport | None = None
    ) -> AsyncIterator[Session]:
        """Take a place, then open the session; see `Engine.session`. The engine has no more sessions than slots.

        Raises:
            Overloaded: no place can be had in time.
        """
        async with (
            self.admission.place(self.engine, self.client, queued),
            self.engine.session(choice, options, queued) as session,
        ):
            yield session
