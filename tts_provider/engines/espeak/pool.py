"""The workers and who waits for them: each worker speaks one text at a time, first come, first served.

A text is spoken at the worker's own speed, hundreds of times faster than anybody listens, and waits in memory for its
listener. So a sentence holds a worker for some milliseconds, however slow its listener is, and one that nobody wants any more
is simply heard to its end. A worker that dies takes one text with it: that text fails, and another worker takes its place.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from tts_provider.engines.espeak.library import INSTALL, Library
from tts_provider.engines.espeak.process import Frame, Worker, WorkerDied, WorkerRefused, open_worker
from tts_provider.engines.espeak.quarantine import Quarantine
from tts_provider.engines.espeak.speech import EndlessSpeech, Speech
from tts_provider.errors import EngineError, EngineUnavailable, SynthesisFailed, SynthesisTimeout

__all__ = ["About", "Pool"]

_log = logging.getLogger(__name__)

TEXT_TIMEOUT: Final = 5.0
"""Seconds for a worker to speak one text. A sentence takes 0.01; 240 random characters at half speed took up to 1 on a busy
machine."""

UNWANTED_TIMEOUT: Final = 0.1
"""Seconds for a worker to finish a text that nobody wants any more; then a new worker is the quicker way."""

QUEUE_TIMEOUT: Final = 10.0
"""Seconds to wait for a free worker; more than a thousand sentences are spoken in that time."""

FIRST_BACKOFF: Final = 0.05
"""Seconds before the next start after a worker that died without having had a text; doubled each time."""

MAX_BACKOFF: Final = 5.0
"""Seconds; half of what a listener waits for a worker."""


@dataclass(frozen=True, slots=True)
class About:
    """What the first worker told about the library."""

    version: str
    sample_rate: int
    listing: bytes
    """The payload of `VOICES`."""


class Pool:
    """Workers under supervision. `serve` runs once for each of them, in a nursery of the engine."""

    def __init__(self, library: Library) -> None:
        self._library = library
        # Unbuffered: who waits for a worker waits in `send`, in order, and leaves the queue by being cancelled.
        self._entrance, self._queue = trio.open_memory_channel[Speech](0)
        self._orphans: deque[Speech] = deque()
        self._quarantine = Quarantine()
        self._about: About | None = None

    async def speak(self, order: bytes, text: bytes) -> Speech:
        """Wait for a worker and give it the text; the caller must `leave` the speech in the end.

        Raises:
            EngineError: no worker will speak it.
        """
        if text in self._quarantine:
            raise SynthesisFailed("espeak-ng has failed on this text twice; it is not tried again.", retryable=False)
        speech = Speech(order, text)
        try:
            with trio.fail_after(QUEUE_TIMEOUT):
                await self._entrance.send(speech)
        except trio.TooSlowError:
            raise SynthesisTimeout(f"No espeak-ng worker was free within {QUEUE_TIMEOUT:g} s.") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise _unloaded() from None
        return speech

    def close(self) -> None:
        """Turn away everybody who waits for a worker."""
        self._queue.close()
        self._entrance.close()
        self._fail_orphans(_unloaded())

    async def serve(self, *, task_status: trio.TaskStatus[About] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep one worker at work until cancelled, replacing it whenever it ends; says through `task_status` what it is.

        Raises:
            EngineUnavailable: the very first worker of the pool does not start.
        """
        backoff = 0.0
        while True:
            had_text = False
            try:
                async with open_worker(self._library) as worker:
                    if self._about is None:
                        self._about = About(worker.version, worker.sample_rate, await worker.list_voices())
                    task_status.started(self._about)
                    task_status = trio.TASK_STATUS_IGNORED
                    had_text = await self._work(worker)
            except (WorkerDied, WorkerRefused) as failure:
                if self._about is None:
                    _log.warning("espeak-ng worker: %s", failure)
                    raise EngineUnavailable(f"espeak-ng cannot be used on this machine. {INSTALL}") from failure
                _log.warning("espeak-ng worker cannot be replaced: %s", failure)
                self._fail_orphans(_ended_from_outside())
            # A text that ends its worker costs no pause: whoever comes next should not wait for somebody else's text.
            backoff = 0.0 if had_text else min(MAX_BACKOFF, max(FIRST_BACKOFF, 2 * backoff))
            await trio.sleep(backoff)

    async def _work(self, worker: Worker) -> bool:
        """Have the worker speak what is asked for until it ends; returns whether it had any text."""
        had_text = dead = False
        idle = trio.CancelScope()

        async def watch() -> None:
            nonlocal dead
            await worker.exited()
            dead = True
            idle.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            while not dead:
                speech = self._orphans.popleft() if self._orphans else None
                if speech is None:
                    with trio.CancelScope() as idle:
                        speech = await self._queue.receive()
                if speech is None:
                    _log.warning("espeak-ng worker ended while idle")
                    break
                had_text = True
                if not await self._have_spoken(worker, speech):
                    break
            nursery.cancel_scope.cancel()
        return had_text

    async def _have_spoken(self, worker: Worker, speech: Speech) -> bool:
        """Speak one text; returns whether the worker can speak another."""
        wanted = True
        try:
            with trio.fail_after(TEXT_TIMEOUT) as limit:

                def deliver(frames: Sequence[Frame]) -> None:
                    nonlocal wanted
                    if not speech.deliver(frames) and wanted:
                        wanted = False
                        limit.deadline = min(limit.deadline, trio.current_time() + UNWANTED_TIMEOUT)

                samples = await worker.say(speech.order, deliver)
        except WorkerRefused as refusal:
            speech.fail(SynthesisFailed(f"espeak-ng did not speak the text. {refusal}", retryable=False))
            return True
        except (trio.TooSlowError, EndlessSpeech):
            if wanted:
                self._blame(speech, "did not come to an end")
            speech.fail(SynthesisTimeout("espeak-ng did not come to an end of this text.", retryable=False))
            return False
        except WorkerDied as death:
            if death.by_itself:
                self._blame(speech, str(death))
                speech.fail(SynthesisFailed("espeak-ng crashed on this text.", retryable=False))
            elif speech.untouched and not speech.orphaned:
                speech.orphaned = True
                self._orphans.append(speech)
            else:
                speech.fail(_ended_from_outside())
            return False
        except trio.Cancelled:
            speech.fail(_unloaded())
            raise
        speech.finish(samples)
        return True

    def _fail_orphans(self, error: EngineError) -> None:
        while self._orphans:
            self._orphans.popleft().fail(error)

    def _blame(self, speech: Speech, how: str) -> None:
        self._quarantine.blame(speech.text)
        _log.warning("espeak-ng worker %s; text of %d bytes", how, len(speech.text))


def _ended_from_outside() -> SynthesisFailed:
    return SynthesisFailed("espeak-ng was ended from outside while it spoke this text.")


def _unloaded() -> EngineUnavailable:
    return EngineUnavailable("Engine 'espeak' is being unloaded.")
