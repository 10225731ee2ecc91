"""Sesame's CSM-1B: conversational English, streamed frame by frame, all listeners in one batch."""

from __future__ import annotations

from tts_provider.engines.sesame.engine import SesameEngine, SesameSession, availability

__all__ = ["SesameEngine", "SesameSession", "availability"]
