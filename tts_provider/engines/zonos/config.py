"""The shape of a Zonos checkpoint, read strictly from its ``config.json``.

Only the transformer variant is spoken here. Whatever would change the arithmetic (Mamba layers, RMS norm, biases, another
rotary layout) is refused with a sentence; keys that the published transformer carries but that change nothing are let through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from tts_provider.errors import EngineUnavailable

__all__ = [
    "CODEBOOKS",
    "CODEBOOK_SIZE",
    "CONDITIONERS",
    "EOS",
    "FRAME_RATE",
    "HEAD_WIDTH",
    "HOP",
    "MASK",
    "MAX_FRAMES",
    "MAX_PHONEMES",
    "SAMPLE_RATE",
    "VOCABULARY",
    "BackboneConfig",
    "ConditionerConfig",
    "ZonosConfig",
    "read_config",
]

SAMPLE_RATE: Final = 44_100
"""Hz of the DAC codec."""
HOP: Final = 512
"""Samples in one frame of codes."""
FRAME_RATE: Final = SAMPLE_RATE / HOP
"""Frames per second, 86.13."""
CODEBOOKS: Final = 9
CODEBOOK_SIZE: Final = 1024
EOS: Final = 1024
"""Code that ends the speech; only codebook 0 may say it."""
MASK: Final = 1025
"""Code of a place that holds no frame yet, or none any more."""
HEAD_WIDTH: Final = 1025
"""Codes that a head can say: all but `MASK`."""
VOCABULARY: Final = 1026
"""Codes that an embedding knows. Also the width of the noise, which makes draws equal to those of the original."""
MAX_FRAMES: Final = 86 * 30
"""The model was trained on up to 30 s; the original's cap."""

MAX_PHONEMES: Final = 700
"""Symbols in one prompt; 30 s of fast speech have some 600."""

ConditionerType = Literal["EspeakPhonemeConditioner", "PassthroughConditioner", "FourierConditioner", "IntegerConditioner"]

_TYPES: Final[Mapping[str, ConditionerType]] = {
    "EspeakPhonemeConditioner": "EspeakPhonemeConditioner",
    "PassthroughConditioner": "PassthroughConditioner",
    "FourierConditioner": "FourierConditioner",
    "IntegerConditioner": "IntegerConditioner",
}

CONDITIONERS: Final = ("espeak", "speaker", "emotion", "fmax", "pitch_std", "speaking_rate", "language_id")
"""What the transformer is told, in the order of the prefix."""

HYBRID_MESSAGE: Final = (
    "This is a hybrid Zonos checkpoint, with Mamba layers that need CUDA-only packages. "
    "Use 'Zyphra/Zonos-v0.1-transformer' or a checkpoint of the same shape."
)


@dataclass(frozen=True, slots=True)
class BackboneConfig:
    """The transformer's measures."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp_width: int
    norm_epsilon: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


@dataclass(frozen=True, slots=True)
class ConditionerConfig:
    """One part of the prefix."""

    type: ConditionerType
    name: str
    learned_absence: bool
    """Whether there is a vector for "not told"; the phonemes have none."""
    project: bool = False
    """Whether a linear layer follows."""
    cond_dim: int = 0
    """Width of what goes in, of a passthrough."""
    input_dim: int = 1
    """Numbers that go in, of a Fourier conditioner."""
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True, slots=True)
class ZonosConfig:
    """A checkpoint's shape."""

    backbone: BackboneConfig
    conditioners: tuple[ConditionerConfig, ...]


def read_config(data: object) -> ZonosConfig:
    """The shape that a parsed ``config.json`` tells.

    Raises:
        EngineUnavailable: it is no Zonos transformer; the message names the key.
    """
    top = _mapping(data, "config.json")
    backbone = _backbone(_mapping(top.get("backbone"), "backbone"))
    prefix = _mapping(top.get("prefix_conditioner"), "prefix_conditioner")
    if prefix.get("projection") != "linear":
        raise _refuse(f"prefix_conditioner.projection is {prefix.get('projection')!r}, not 'linear'")
    for key, expected in (("eos_token_id", EOS), ("masked_token_id", MASK)):
        if top.get(key, expected) != expected:
            raise _refuse(f"{key} is {top[key]!r}, not {expected}")
    entries = prefix.get("conditioners")
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise _refuse("prefix_conditioner.conditioners is no list")
    conditioners = tuple(_conditioner(_mapping(entry, f"conditioners[{index}]")) for index, entry in enumerate(entries))
    names = tuple(conditioner.name for conditioner in conditioners)
    if names != CONDITIONERS:
        raise _refuse(f"the conditioners are {', '.join(names)}, not {', '.join(CONDITIONERS)}")
    return ZonosConfig(backbone, conditioners)


def _backbone(data: Mapping[str, object]) -> BackboneConfig:
    layers = _positive(data, "n_layer")
    attention_layers = data.get("attn_layer_idx") or list(range(layers))
    if data.get("ssm_cfg") or attention_layers != list(range(layers)):
        raise EngineUnavailable(HYBRID_MESSAGE, retryable=False)
    if data.get("rms_norm", False):
        raise _refuse("backbone.rms_norm is set; only LayerNorm is known")
    attention = _mapping(data.get("attn_cfg"), "backbone.attn_cfg")
    heads, kv_heads, width = _positive(attention, "num_heads"), _positive(attention, "num_heads_kv"), _positive(data, "d_model")
    if width % heads or heads % kv_heads or (width // heads) % 2:
        raise _refuse(f"d_model {width}, num_heads {heads} and num_heads_kv {kv_heads} do not divide")
    expected = {
        "causal": True,
        "rotary_emb_dim": width // heads,
        "rotary_emb_interleaved": True,
        "qkv_proj_bias": False,
        "out_proj_bias": False,
    }
    for key, value in expected.items():
        if attention.get(key, value) != value:
            raise _refuse(f"backbone.attn_cfg.{key} is {attention[key]!r}, not {value!r}")
    epsilon = data.get("norm_epsilon", 1e-5)
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise _refuse(f"backbone.norm_epsilon is {epsilon!r}")
    return BackboneConfig(width, layers, heads, kv_heads, _positive(data, "attn_mlp_d_intermediate"), epsilon)


def _conditioner(data: Mapping[str, object]) -> ConditionerConfig:
    name, kind = data.get("name"), data.get("type")
    if not isinstance(name, str) or not isinstance(kind, str) or kind not in _TYPES:
        raise _refuse(f"a conditioner of type {kind!r} is not known")
    projection, absence = data.get("projection", "none"), data.get("uncond_type", "none")
    if projection not in ("none", "linear") or absence not in ("none", "learned"):
        raise _refuse(f"conditioner {name!r} has projection {projection!r} and uncond_type {absence!r}")
    low, high = _number(data, "min_val", 0.0), _number(data, "max_val", 512.0 if kind == "IntegerConditioner" else 1.0)
    if not low < high:
        raise _refuse(f"conditioner {name!r} has the range {low} to {high}")
    return ConditionerConfig(
        type=_TYPES[kind],
        name=name,
        learned_absence=absence == "learned",
        project=projection == "linear",
        cond_dim=_positive(data, "cond_dim") if data.get("cond_dim") is not None else 0,
        input_dim=_positive(data, "input_dim") if "input_dim" in data else 1,
        low=low,
        high=high,
    )


def _mapping(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise _refuse(f"{where} is no object")
    return value


def _positive(data: Mapping[str, object], key: str) -> int:
    value = data.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _refuse(f"{key} is {value!r}, not a positive integer")
    return value


def _number(data: Mapping[str, object], key: str, default: float) -> float:
    value = data.get(key, default)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise _refuse(f"{key} is {value!r}, not a number")
    return float(value)


def _refuse(what: str) -> EngineUnavailable:
    return EngineUnavailable(f"This is no Zonos transformer that can be spoken: {what}.", retryable=False)
