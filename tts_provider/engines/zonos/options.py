"""What a client may set for one request in `SpeechOptions.extra`, checked against its ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tts_provider.errors import InvalidRequest

__all__ = ["DEFAULT_SPEAKING_RATE", "EMOTIONS", "OPTIONS", "ZonosOptions", "read_options"]

EMOTIONS: Final = ("happiness", "sadness", "disgust", "fear", "surprise", "anger", "other", "neutral")
DEFAULT_EMOTION: Final = (0.3077, 0.0256, 0.0256, 0.0256, 0.0256, 0.0256, 0.2564, 0.3077)
"""The original's."""
DEFAULT_SPEAKING_RATE: Final = 15.0
"""Phonemes per second; 10 is slow, 30 very fast."""
SPEAKING_RATE_RANGE: Final = (5.0, 40.0)
"""The model knows 0 to 40; below 5 it does not speak but drag."""
MAX_SECONDS: Final = 30.0
"""What the model was trained on."""
MAX_SEED: Final = 2**63 - 1

_NUMBERS: Final[Mapping[str, tuple[float, float]]] = {
    "speaking_rate": SPEAKING_RATE_RANGE,
    "pitch_std": (0.0, 400.0),
    "fmax": (0.0, 24_000.0),
    "cfg_scale": (1.0, 10.0),
    "max_seconds": (1.0, MAX_SECONDS),
}
_SAMPLING: Final[Mapping[str, tuple[float, float]]] = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "top_k": (0, 1025),
    "min_p": (0.0, 1.0),
    "linear": (0.0, 1.0),
    "conf": (-2.0, 2.0),
    "quad": (-2.0, 2.0),
    "repetition_penalty": (1.0, 10.0),
}
OPTIONS: Final = frozenset({"emotion", "seed", "sampling", *_NUMBERS})


@dataclass(frozen=True, slots=True)
class ZonosOptions:
    """One request's wishes."""

    emotion: tuple[float, ...] = DEFAULT_EMOTION
    """Shares of `EMOTIONS`; only their proportions count."""
    speaking_rate: float = DEFAULT_SPEAKING_RATE
    """Phonemes per second, the request's speed included."""
    pitch_std: float = 20.0
    """Hz: 20 to 45 is calm, 60 to 150 lively."""
    fmax: float = 22_050.0
    """Hz: how far up the recording's spectrum went; 22050 for cloned voices."""
    cfg_scale: float = 2.0
    """How strongly the voice and the rest is followed; 1 does not insist."""
    max_seconds: float = MAX_SECONDS
    """Longest that one chunk may get."""
    seed: int | None = None
    """None: another one each time."""
    sampling: Mapping[str, float] | None = None
    """Settings of the sampler by their names here; None takes the defaults."""


def read_options(extra: Mapping[str, object], speed: float = 1.0) -> ZonosOptions:
    """The options in `extra`, with `speed` in the speaking rate, which stops at the model's limits.

    Raises:
        InvalidRequest: one is of the wrong type or out of range; the message tells the range.
    """
    numbers = {name: _number(extra[name], name, *_NUMBERS[name]) for name in _NUMBERS if extra.get(name) is not None}
    rate = numbers.pop("speaking_rate", DEFAULT_SPEAKING_RATE) * speed
    low, high = SPEAKING_RATE_RANGE
    return ZonosOptions(
        emotion=_emotion(extra["emotion"]) if extra.get("emotion") is not None else DEFAULT_EMOTION,
        speaking_rate=min(max(rate, low), high),
        seed=_integer(extra["seed"], "seed", 0, MAX_SEED) if extra.get("seed") is not None else None,
        sampling=_sampling(extra["sampling"]) if extra.get("sampling") is not None else None,
        **numbers,
    )


def _emotion(value: object) -> tuple[float, ...]:
    if isinstance(value, Mapping):
        unknown = sorted(str(name) for name in value if name not in EMOTIONS)
        if unknown:
            raise InvalidRequest(f"'emotion' knows no {unknown[0]!r}. Emotions: {', '.join(EMOTIONS)}.", field="emotion")
        shares = tuple(_number(value.get(name, 0.0), "emotion", 0.0, 1.0) for name in EMOTIONS)
    elif isinstance(value, Sequence) and not isinstance(value, str) and len(value) == len(EMOTIONS):
        shares = tuple(_number(share, "emotion", 0.0, 1.0) for share in value)
    else:
        raise InvalidRequest(
            f"'emotion' must be {len(EMOTIONS)} numbers from 0 to 1, or an object of {', '.join(EMOTIONS)}.", field="emotion"
        )
    if not sum(shares) > 0:
        raise InvalidRequest("'emotion' must have at least one share above 0.", field="emotion")
    return shares


def _sampling(value: object) -> Mapping[str, float]:
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"'sampling' must be an object of {', '.join(_SAMPLING)}.", field="sampling")
    unknown = sorted(str(name) for name in value if name not in _SAMPLING)
    if unknown:
        raise InvalidRequest(f"'sampling' knows no {unknown[0]!r}. Settings: {', '.join(_SAMPLING)}.", field="sampling")
    settings: dict[str, float] = {}
    for name, (low, high) in _SAMPLING.items():
        if name in value:
            read = _integer if name == "top_k" else _number
            settings[name] = read(value[name], f"sampling.{name}", low, high)
    return settings


def _number(value: object, name: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise InvalidRequest(f"'{name}' must be a number from {low:g} to {high:g}.", field=name.partition(".")[0])
    return float(value)


def _integer(value: object, name: str, low: float, high: float) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidRequest(f"'{name}' must be an integer from {low} to {high}.", field=name.partition(".")[0])
    return value
