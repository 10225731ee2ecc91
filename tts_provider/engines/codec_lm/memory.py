"""Running out of memory: told apart from errors after which nothing works any more, and cleaned up after."""

from __future__ import annotations

import sys
from typing import Any, Final

import numpy as np

from tts_provider.engines.codec_lm.model import FinishReason, Output
from tts_provider.errors import Overloaded

__all__ = ["free_memory", "is_out_of_memory", "no_memory", "shed"]

RETRY_AFTER_MS: Final = 1_000
"""A request in ten ends within about so long and gives its memory back; a guess."""
_SIGNS: Final = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")
"""In messages of torch's errors: its allocator's and the driver's, cuBLAS' workspaces', the CPU allocator's."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory was short. The device works on after it."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS))


def free_memory() -> None:
    """Give back to the device what torch keeps for later; call it when the error, which holds tensors, is gone."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def shed() -> Overloaded:
    """What a request is told for which there was no memory."""
    return Overloaded("The device has no memory left for this request. Try again.", retry_after_ms=RETRY_AFTER_MS)


def no_memory(slot: int) -> Output:
    """What a model answers for a slot that it could not take in; it has forgotten it."""
    return Output(slot, np.zeros(0, np.float32), 0, FinishReason.MEMORY)
