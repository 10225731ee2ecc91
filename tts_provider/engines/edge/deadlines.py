"""How long the engine waits for the service."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Deadlines"]


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Longest waits in seconds. edge-tts has none that work: a stalled service hangs it for ever."""

    connect_s: float = 10.0
    """To an accepted handshake: name, TCP, proxy, TLS and upgrade."""
    first_audio_s: float = 10.0
    """From the start of a turn to its first audio, all retries included."""
    attempt_s: float = 6.0
    """The same for one attempt, so that a turn that the service forgot leaves time for another."""
    gap_s: float = 15.0
    """Between two messages of a turn that has begun."""
    slot_s: float = 30.0
    """In the queue for a turn."""
    voices_s: float = 10.0
    """For the list of voices, from the dial to its last byte."""
    close_s: float = 1.0
    """For the service's answer to a goodbye; nobody waits for it."""
