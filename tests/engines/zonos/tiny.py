"""A Zonos of a few thousand parameters, with weights that numpy makes: the same on every machine and torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

WIDTH = 64
HEADS = 4
KV_HEADS = 2

CONFIG: dict[str, Any] = {
    "backbone": {
        "d_model": WIDTH,
        "d_intermediate": 0,
        "attn_mlp_d_intermediate": 96,
        "n_layer": 3,
        "ssm_cfg": {},
        "attn_layer_idx": [0, 1, 2],
        "attn_cfg": {
            "causal": True,
            "num_heads": HEADS,
            "num_heads_kv": KV_HEADS,
            "rotary_emb_dim": WIDTH // HEADS,
            "rotary_emb_interleaved": True,
            "qkv_proj_bias": False,
            "out_proj_bias": False,
        },
        "rms_norm": False,
        "residual_in_fp32": False,
        "norm_epsilon": 1e-5,
    },
    "prefix_conditioner": {
        "conditioners": [
            {"type": "EspeakPhonemeConditioner", "name": "espeak"},
            {
                "type": "PassthroughConditioner",
                "name": "speaker",
                "cond_dim": 128,
                "uncond_type": "learned",
                "projection": "linear",
            },
            {"type": "FourierConditioner", "name": "emotion", "input_dim": 8, "uncond_type": "learned"},
            {"type": "FourierConditioner", "name": "fmax", "min_val": 0, "max_val": 24000, "uncond_type": "learned"},
            {"type": "FourierConditioner", "name": "pitch_std", "min_val": 0, "max_val": 400, "uncond_type": "learned"},
            {"type": "FourierConditioner", "name": "speaking_rate", "min_val": 0, "max_val": 40, "uncond_type": "learned"},
            {"type": "IntegerConditioner", "name": "language_id", "min_val": -1, "max_val": 126, "uncond_type": "learned"},
        ],
        "projection": "linear",
    },
    "eos_token_id": 1024,
    "masked_token_id": 1025,
}

Array = npt.NDArray[np.float32]


def weights(shapes: Mapping[str, tuple[int, ...]], seed: int, eos_gain: float = 1.0) -> dict[str, Array]:
    """A value for every parameter: normal, scaled so that logits spread over a few units.

    `eos_gain` above 1 makes the end of speech likelier: it lengthens the head's row of that code.
    """
    random = np.random.RandomState(seed)
    out: dict[str, Array] = {}
    for name in sorted(shapes):
        shape = shapes[name]
        value = random.standard_normal(shape)
        if "norm" in name:
            value = 0.1 * value + (1.0 if name.endswith("weight") else 0.0)
        elif name.startswith("heads."):
            value *= 2.5 / np.sqrt(shape[-1])
        elif len(shape) > 1 and not name.startswith(("embeddings.", "prefix_conditioner.conditioners")):
            value /= np.sqrt(shape[-1])
        out[name] = value.astype(np.float32)
    if "heads.0.weight" in out:
        out["heads.0.weight"][1024] *= eos_gain
    return out


class NumpyNoise:
    """Exponential noise of numpy's frozen generator, column by column, from the first column said on."""

    def __init__(self, seed: int, eos_at: int | None = None) -> None:
        """`eos_at`: in this column, from 0, codebook 0 says the end, if it has any probability at all."""
        self._random = np.random.RandomState(seed)
        self._eos_at = eos_at
        self._columns = 0

    def column(self) -> Array:
        noise = self._random.exponential(size=(9, 1026)).astype(np.float32)
        if self._columns == self._eos_at:
            noise[0, 1024] = 1e-30
        self._columns += 1
        return noise
