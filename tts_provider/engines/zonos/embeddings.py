"""What Zonos knows of a voice, 128 numbers: heard once from its recording, then kept.

Kept in memory and on disk under the hash of the recording's bytes, so a renamed file is known and a changed one is heard anew.
Hearing costs a second of a GPU or a minute of a CPU, and a net of 396 MB, which is loaded for it and let go after.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import secrets
import struct
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Final, Protocol, TypeVar

import trio

from tts_provider.engines.base import Samples
from tts_provider.engines.zonos.speakers import Recording, decode, read_file

__all__ = ["VOICE_NUMBERS", "Encoder", "SpeakerEmbeddings"]

logger = logging.getLogger(__name__)

PREPARATION: Final = "1"
"""Version of everything between the file and the net; a new one makes old embeddings unknown."""
MEMORY: Final = 512
"""Voices kept in memory, 5 KB each."""
VOICE_NUMBERS: Final = 128
_FILE: Final = struct.Struct(f"<8s{VOICE_NUMBERS}f32s")
_MAGIC: Final = b"zonosv1\n"

Voice = tuple[float, ...]
KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")


class Encoder(Protocol):
    """A loaded speaker net; blocking."""

    def embed(self, samples: Samples, rate: int) -> Sequence[float]:
        """The 128 numbers of the voice in mono `samples`."""


class SpeakerEmbeddings:
    """Embeddings of recordings, each computed once, however many ask for it at the same time."""

    def __init__(self, load_encoder: Callable[[], Encoder], revision: str, folder: Path | None) -> None:
        """
        Args:
            load_encoder: loads the net; blocking, called in a thread.
            revision: names the net; another one has other embeddings.
            folder: where to keep them; None keeps them in memory only.
        """
        self._load_encoder = load_encoder
        self._revision = revision
        self._folder = folder
        self._voices: OrderedDict[str, Voice] = OrderedDict()
        self._keys: OrderedDict[tuple[str, int, int, int], str] = OrderedDict()
        # One at a time for all: a second of one request's wait is cheaper than two nets in memory.
        self._turn = trio.Lock()
        self._limiter = trio.CapacityLimiter(1)
        self._encoder: Encoder | None = None
        self.heard = 0
        """Recordings that went through the net so far."""

    async def voice(self, path: Path, speaker: str) -> Voice:
        """The embedding of the recording at `path`.

        Raises:
            SynthesisFailed: it is not usable; the message says why, naming `speaker`.
            EngineUnavailable: the net cannot be loaded.
        """
        known = self._remembered(path)
        if known is not None:
            return known
        async with self._turn:
            known = self._remembered(path)
            if known is not None:
                return known
            try:
                return await self._learn(path, speaker)
            finally:
                if not self._turn.statistics().tasks_waiting:
                    self._encoder = None  # nobody needs it now; the cache makes the next need rare

    def _remembered(self, path: Path) -> Voice | None:
        """The embedding of a file that looks as it did when it was read."""
        key = self._keys.get(_looks(path))
        voice = None if key is None else self._voices.get(key)
        if key is not None and voice is not None:
            self._voices.move_to_end(key)
        return voice

    async def _learn(self, path: Path, speaker: str) -> Voice:
        looks = _looks(path)
        data = await trio.to_thread.run_sync(read_file, path, speaker, limiter=self._limiter)
        key = hashlib.sha256(b"\0".join([PREPARATION.encode(), self._revision.encode(), data])).hexdigest()
        voice = self._voices.get(key)
        if voice is None:
            voice = await trio.to_thread.run_sync(self._load, key, limiter=self._limiter)
        if voice is None:
            recording = await decode(data, speaker)
            voice = await trio.to_thread.run_sync(self._hear, recording, limiter=self._limiter)
            self.heard += 1
            await trio.to_thread.run_sync(self._save, key, voice, limiter=self._limiter)
        _keep(self._voices, key, voice)
        _keep(self._keys, looks, key)
        return voice

    def _hear(self, recording: Recording) -> Voice:
        if self._encoder is None:
            self._encoder = self._load_encoder()
        return tuple(map(float, self._encoder.embed(recording.samples, recording.rate)))

    def _load(self, key: str) -> Voice | None:
        """The embedding on disk, or None: not there, or damaged."""
        if self._folder is None:
            return None
        try:
            content = (self._folder / f"{key}.voice").read_bytes()
        except OSError:
            return None
        if len(content) != _FILE.size or hashlib.sha256(content[:-32]).digest() != content[-32:]:
            logger.warning("The kept embedding %s is damaged; the recording is heard again", key)
            return None
        return tuple(_FILE.unpack(content)[1:-1])

    def _save(self, key: str, voice: Voice) -> None:
        if self._folder is None or not all(map(math.isfinite, voice)):
            return
        content = _FILE.pack(_MAGIC, *voice, b"")[:-32]
        part = self._folder / f"{key}.{secrets.token_hex(4)}.part"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            part.write_bytes(content + hashlib.sha256(content).digest())
            part.replace(self._folder / f"{key}.voice")  # at once, so that nobody reads half of it
        except OSError:  # a full or read-only disk: the voice works, it is only not kept
            logger.warning("The embedding of a voice could not be kept in %s", self._folder, exc_info=True)
            with contextlib.suppress(OSError):
                part.unlink()


def _looks(path: Path) -> tuple[str, int, int, int]:
    """What changes when a file is replaced or written: asked in place of reading it again."""
    try:
        status = os.stat(path)
    except OSError:
        return (str(path), 0, 0, 0)
    return (str(path), status.st_ino, status.st_size, status.st_mtime_ns)


def _keep(table: OrderedDict[KeyT, ValueT], key: KeyT, value: ValueT) -> None:
    """Add to a table of the last `MEMORY` entries."""
    table[key] = value
    table.move_to_end(key)
    while len(table) > MEMORY:
        table.popitem(last=False)
