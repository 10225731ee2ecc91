"""Memory that runs out, for models that speak frame by frame."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch", reason="needs the sesame or the zonos extra")


class Short:
    """Wraps a method so that its call of that number finds no memory."""

    def __init__(self, method: Callable[..., object], number: int) -> None:
        self._method = method
        self._left = number

    def __call__(self, *args: object, **kwargs: object) -> object:
        self._left -= 1
        if self._left == 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self._method(*args, **kwargs)
