"""A player that is only arithmetic: would audio that arrives like this have been heard without a gap?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Playback", "simulate_player"]


@dataclass(frozen=True, slots=True)
class Playback:
    """How a player fared that plays while the audio arrives."""

    first_audio_s: float
    underruns: int
    stalled_s: float
    real_time_factor: float
    """Time from 0 to the last arrival against the audio's length; below 1 is faster than real time."""
    smallest_lead_s: float
    """Least audio in hand when a frame arrived, after the start; negative by how long the player had run dry."""


def simulate_player(arrivals: Sequence[tuple[float, int]], sample_rate: int, preroll_s: float = 0.15) -> Playback:
    """A player's fate with frames that arrive as ``(seconds since the request, samples)``, in order.

    It starts once it holds `preroll_s` (or all there is), and after running dry starts again with the next frame.
    """
    if not arrivals:
        return Playback(float("inf"), 0, 0.0, float("inf"), 0.0)
    total = 0.0
    playing_since: float | None = None  # the wall time at which sample 0 would have had to sound
    underruns, stalled, lead = 0, 0.0, float("inf")
    for when, count in arrivals:
        if playing_since is not None:
            spare = playing_since + total - when
            lead = min(lead, spare)
            if spare < 0:
                underruns, stalled, playing_since = underruns + 1, stalled - spare, playing_since - spare
        total += count / sample_rate
        if playing_since is None and total >= preroll_s:
            playing_since = when
    return Playback(
        first_audio_s=arrivals[0][0],
        underruns=underruns,
        stalled_s=stalled,
        real_time_factor=arrivals[-1][0] / max(total, 1e-9),
        smallest_lead_s=lead if lead < float("inf") else 0.0,
    )
