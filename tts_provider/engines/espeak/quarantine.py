"""Texts that end workers, remembered so that they are not tried for ever."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Final

__all__ = ["Quarantine"]

LETHAL: Final = 2
"""Workers that a text may end. The first may have been an accident."""

MAX_TEXTS: Final = 256
"""Texts that are remembered, the latest ones, by 16 bytes of hash each: a record of crashes is no record of what was said."""


class Quarantine:
    """How many workers each text has ended."""

    def __init__(self) -> None:
        self._ended: OrderedDict[bytes, int] = OrderedDict()

    def blame(self, text: bytes) -> None:
        """Note that `text` has ended a worker."""
        key = _key(text)
        self._ended[key] = self._ended.pop(key, 0) + 1
        if len(self._ended) > MAX_TEXTS:
            self._ended.popitem(last=False)

    def __contains__(self, text: bytes) -> bool:
        """Whether `text` is not to be tried any more."""
        if not self._ended:  # nearly always, and then nothing is hashed
            return False
        key = _key(text)
        if self._ended.get(key, 0) < LETHAL:
            return False
        self._ended.move_to_end(key)
        return True


def _key(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).digest()
