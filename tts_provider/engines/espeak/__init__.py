"""espeak-ng: the engine that is at hand everywhere. The library itself runs in worker processes, never in this one."""

from __future__ import annotations

from tts_provider.engines.espeak.engine import EspeakEngine
from tts_provider.engines.espeak.library import availability

__all__ = ["EspeakEngine", "availability"]
