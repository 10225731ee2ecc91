"""What a client may set for one request in `SpeechOptions.extra`, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tts_provider.errors import InvalidRequest

__all__ = ["MAX_TEMPERATURE", "MAX_TOP_K", "OPTIONS", "SamplingOptions", "sampling_options"]

OPTIONS: Final = frozenset({"seed", "temperature", "top_k"})
MAX_TEMPERATURE: Final = 2.0
"""Above it, CSM's codes are noise."""
MAX_TOP_K: Final = 256
"""Candidates looked at per code; more would change next to nothing at a sane temperature."""
MAX_SEED: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How one request samples."""

    temperature: float
    top_k: int
    seed: int | None = None
    """None: the voice decides."""


def sampling_options(extra: Mapping[str, object], defaults: SamplingOptions) -> SamplingOptions:
    """`defaults` with what `extra` says.

    Raises:
        InvalidRequest: an option is of the wrong type or out of range.
    """
    temperature = _number(extra, "temperature", defaults.temperature, 0, MAX_TEMPERATURE)
    top_k = _integer(extra, "top_k", defaults.top_k, 1, MAX_TOP_K)
    seed = _integer(extra, "seed", 0, 0, MAX_SEED) if extra.get("seed") is not None else defaults.seed
    return SamplingOptions(temperature, top_k, seed)


def _number(extra: Mapping[str, object], name: str, default: float, low: float, high: float) -> float:
    value = extra.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise InvalidRequest(f"'{name}' must be a number from {low:g} to {high:g}.", field=name)
    return float(value)


def _integer(extra: Mapping[str, object], name: str, default: int, low: int, high: int) -> int:
    value = extra.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidRequest(f"'{name}' must be an integer from {low} to {high}.", field=name)
    return value
