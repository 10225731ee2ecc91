"""What the fake does wrong, and when: rules that tests add."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

__all__ = ["HANDSHAKE_FAULTS", "Fault", "Plan", "Rule"]

HandshakeFault = Literal["forbidden", "too_many", "unavailable", "not_found", "vanish", "stall_handshake", "garbage_http"]
"""403, 429, 503, 404, hanging up, silence, and bytes that are not HTTP."""

TurnFault = Literal[
    "no_audio",  # turn.start, turn.end, nothing between
    "hang_start",  # nothing at all after the request
    "hang_mid",  # silence after a part of the audio
    "drop_start",  # connection reset before the audio
    "drop",  # connection reset in the middle
    "close",  # closed properly, in the middle, without turn.end
    "close_start",  # closed properly before the audio
    "truncate",  # turn.end in the middle; the metadata had come ahead
    "truncate_words",  # turn.end in the middle; the metadata ends there too
    "short_frame",  # a binary message of one byte
    "bad_frame",  # a header longer than its message
    "content_type",  # audio that says it is something else
    "no_content_type",  # data, but no content type
    "empty_audio",  # an audio message without audio
    "audio_path",  # a binary message that is not audio
    "unknown_path",  # a text message that nobody knows
    "no_header",  # a text message without headers
    "bad_metadata",  # metadata that is not JSON
    "unknown_metadata",  # metadata of an unknown type
    "garbage",  # audio that is not MP3
    "half_garbage",  # MP3 first, then something else
    "half_tags",  # MP3 first, then nothing but tags, which decoders pass over in silence
    "oversize",  # one message of 2 MiB
]

Fault = HandshakeFault | TurnFault | Literal["slow"]

HANDSHAKE_FAULTS: Final = frozenset(get_args(HandshakeFault))


@dataclass(frozen=True, slots=True)
class Rule:
    """A fault, and the requests that meet it. A fault of the handshake cannot look at text or voice."""

    fault: Fault
    contains: str = ""
    """Only for texts in which this occurs."""
    voice: str = ""
    """Only for voices in whose full name this occurs."""
    skip: int = 0
    """How many matching requests pass unharmed first."""
    times: int | None = None
    """How many are hit; None for all."""
    after: float = 0.5
    """For faults in the middle: the share of the audio sent before."""
    delay_s: float = 0.0
    """For "slow": how much later than usual the first byte comes."""
    retry_after: str | None = None
    """Value of the Retry-After header, for "too_many" and "unavailable"."""


@dataclass(slots=True)
class Plan:
    """The rules in force; may be changed from any thread."""

    _rules: list[Rule] = field(default_factory=list)
    _seen: dict[int, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, *rules: Rule) -> None:
        """Put more rules in force, after those that are."""
        with self._lock:
            self._rules.extend(rules)

    def clear(self) -> None:
        """Do nothing wrong any more."""
        with self._lock:
            self._rules.clear()
            self._seen.clear()

    def for_handshake(self) -> Rule | None:
        """The rule that a new connection meets, if any; counts it."""
        with self._lock:
            return self._first(lambda rule: rule.fault in HANDSHAKE_FAULTS)

    def for_turn(self, text: str, voice: str) -> Rule | None:
        """The rule that a turn meets, if any; counts it."""
        with self._lock:
            return self._first(
                lambda rule: rule.fault not in HANDSHAKE_FAULTS and rule.contains in text and rule.voice in voice
            )

    def _first(self, concerns: Callable[[Rule], bool]) -> Rule | None:
        for index, rule in enumerate(self._rules):
            if not concerns(rule):
                continue
            seen = self._seen.get(index, 0)
            self._seen[index] = seen + 1
            if seen >= rule.skip and (rule.times is None or seen < rule.skip + rule.times):
                return rule
        return None
