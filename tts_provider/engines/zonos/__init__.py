"""Zonos: voice cloning from a few seconds of audio, streamed and batched, on torch and transformers' DAC codec."""

from __future__ import annotations

from tts_provider.engines.zonos.engine import ZonosEngine, availability

__all__ = ["ZonosEngine", "availability"]
