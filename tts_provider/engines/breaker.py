"""The circuit breaker of one engine: after failures that are the engine's own, nobody asks it until a probe has succeeded.

    closed ──several texts failed in a row, or half of all requests──▶ open ──cool-down──▶ one probe ──succeeded──▶ closed
       └─────the engine said that it can serve nobody──────────────────▶  ▲                  │
                                                                          └──longer──────failed

What counts is a failure that says something about the engine. A request that was wrong says nothing, and neither does an error
that is the text's (`retryable` is false) or a server that had no place. One text that keeps failing counts once, for it may be
the text that is bad, unless it was spoken before: so a bad text cannot take an engine from everybody.

No input or output and no tasks here; whoever probes asks `due` and tells `probe_failed` or `close`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from tts_provider.errors import EngineError, EngineUnavailable, TTSError

__all__ = ["Breaker"]

WINDOW_S: Final = 30.0
"""How long an outcome counts."""
FAILURES_IN_A_ROW: Final = 5
"""Different texts that fail, with no success between, before the breaker opens."""
LEAST_REQUESTS: Final = 10
"""Requests in the window before their share of failures counts."""
FAILED_SHARE: Final = 0.5
"""Share of failures that opens the breaker though some requests succeed."""
MAX_OUTCOMES: Final = 1000
"""Outcomes remembered of the window."""
MAX_GOOD_TEXTS: Final = 256
"""Texts remembered that could be spoken."""
FIRST_COOL_DOWN_S: Final = 5.0
"""From the opening to the first probe; doubled by each probe that fails."""
MAX_COOL_DOWN_S: Final = 60.0
LEAST_WAIT_S: Final = 1.0
"""What a client is told to wait at least: a probe that is under way takes about that."""
CRASHES: Final = 3
"""Crashes within `CRASH_WINDOW_S` that open the breaker; before that the engine is only loaded again."""
CRASH_WINDOW_S: Final = 60.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Outcome:
    time: float
    failed: bool
    key: object
    """What makes two failures one."""


class Breaker:
    """What is known of one engine's health. Times are Trio's clock."""

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self.due: float | None = None
        """When the next probe is due; None while closed."""
        self.reason: str | None = None
        """What went wrong last; None while closed. Kept as text, for errors are reworded on their way to a client."""
        self._opened = trio.Event()
        self._outcomes: deque[_Outcome] = deque(maxlen=MAX_OUTCOMES)
        self._good: OrderedDict[int, None] = OrderedDict()
        """Hashes of texts that were spoken, the last one last."""
        self._crashes: deque[float] = deque(maxlen=CRASHES)
        self._cool_down_s = FIRST_COOL_DOWN_S
        self._closed_at = -float("inf")

    @property
    def open(self) -> bool:
        """Whether nobody is to ask the engine now."""
        return self.due is not None

    async def wait_open(self) -> None:
        """Return once the breaker is open."""
        await self._opened.wait()

    def check(self) -> None:
        """Return while the engine may be asked.

        Raises:
            EngineUnavailable: the breaker is open; says when another try makes sense.
        """
        if self.due is not None:
            wait_s = max(self.due - trio.current_time(), LEAST_WAIT_S)
            raise EngineUnavailable(
                f"Engine '{self.engine}' keeps failing and is left alone for a while.",
                field="model",
                retry_after_ms=round(1000 * wait_s),
            )

    def succeeded(self, text: str) -> None:
        """Note that a request was spoken; `text` is the last of it that was heard."""
        key = hash(text)
        self._good[key] = None
        self._good.move_to_end(key)
        if len(self._good) > MAX_GOOD_TEXTS:
            self._good.popitem(last=False)
        self._outcomes.append(_Outcome(trio.current_time(), False, None))

    def failed(self, error: BaseException, text: str) -> None:
        """Note that a request failed; `text` is what was being spoken then, empty when it had not come so far."""
        if self.open or not isinstance(error, EngineError):
            return
        if error.everyone:
            self.trip(error)
        elif error.retryable:
            suspect = bool(text) and hash(text) not in self._good
            self._outcomes.append(_Outcome(trio.current_time(), True, hash(text) if suspect else object()))
            if self._bad():
                self.trip(error)

    def crashed(self, error: TTSError) -> None:
        """Note that the engine ended by itself."""
        now = trio.current_time()
        self._crashes.append(now)
        if len(self._crashes) == CRASHES and self._crashes[0] > now - CRASH_WINDOW_S and not self.open:
            self.trip(error)

    def trip(self, error: TTSError) -> None:
        """Open, because of `error`."""
        now = trio.current_time()
        # One that closes and opens again at once is not healthy, whatever its probes say.
        again = now - self._closed_at < WINDOW_S
        self._cool_down_s = min(2 * self._cool_down_s, MAX_COOL_DOWN_S) if again else FIRST_COOL_DOWN_S
        self.due = now + self._cool_down_s
        self.reason = error.message
        self._outcomes.clear()
        self._opened.set()
        log.error("engine.failing", engine=self.engine, code=error.code, error=error.message, probe_s=self._cool_down_s)

    def probe_failed(self, error: TTSError) -> None:
        """Stay open for longer."""
        self._cool_down_s = min(2 * self._cool_down_s, MAX_COOL_DOWN_S)
        self.due = trio.current_time() + self._cool_down_s
        self.reason = error.message
        log.warning("engine.probe_failed", engine=self.engine, error=error.message, probe_s=self._cool_down_s)

    def close(self) -> None:
        """Let requests through again."""
        self.due = self.reason = None
        self._opened = trio.Event()
        self._crashes.clear()
        self._closed_at = trio.current_time()
        log.info("engine.recovered", engine=self.engine)

    def _bad(self) -> bool:
        horizon = trio.current_time() - WINDOW_S
        recent = [outcome for outcome in self._outcomes if outcome.time > horizon]
        failed = {outcome.key for outcome in recent if outcome.failed}
        if len(failed) < FAILURES_IN_A_ROW:
            return False
        last_success = max((index for index, outcome in enumerate(recent) if not outcome.failed), default=-1)
        in_a_row = {outcome.key for outcome in recent[last_success + 1 :]}
        succeeded = sum(not outcome.failed for outcome in recent)
        many = len(failed) + succeeded >= LEAST_REQUESTS and len(failed) >= FAILED_SHARE * (len(failed) + succeeded)
        return len(in_a_row) >= FAILURES_IN_A_ROW or many
