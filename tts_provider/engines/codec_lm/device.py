"""Where a model computes, and in which precision. Imports torch: only what is imported when an engine loads may import this."""

from __future__ import annotations

from typing import Final

import torch

from tts_provider.errors import EngineUnavailable

__all__ = ["DTYPES", "choose_device", "choose_dtype"]

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def choose_device(name: str) -> torch.device:
    """The device for the setting: ``auto`` is the GPU if there is one.

    Raises:
        EngineUnavailable: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either, depending on how it was built
        raise EngineUnavailable(
            f"The device '{name}' cannot be used here. Use 'auto', 'cpu' or 'cuda'.", retryable=False
        ) from error
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The language model's dtype for the setting: ``auto`` is bf16 on a GPU and fp32 on the CPU, where bf16 gains nothing.

    Raises:
        EngineUnavailable: the name is unknown.
    """
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise EngineUnavailable(f"There is no dtype '{name}'. Use 'auto', {' or '.join(map(repr, DTYPES))}.", retryable=False)
    return DTYPES[name]
