"""A WebSocket text-to-speech server with interchangeable engines."""

from __future__ import annotations

__version__ = "0.1.0"
