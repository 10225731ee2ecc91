"""A fake of Microsoft Edge's speech service, for tests and benchmarks.

It serves real MP3 (a tone for each sentence), word and sentence boundaries, the list of voices, and on request every failure
that was seen in the field. The unmodified edge-tts talks to it, which the tests beside the Edge engine prove. It checks what a
client sends as strictly as the service is known to: what it refuses stands in its journal as "invalid" or "rejected".

Run by itself: ``python -m tests.edge_service --port 8765 --first-byte 0.3 --pace 20``.
"""

from __future__ import annotations

from tests.edge_service.certificate import authority_file
from tests.edge_service.journal import Event, Journal, Stats
from tests.edge_service.plan import Fault, Plan, Rule
from tests.edge_service.proxy import ConnectProxy
from tests.edge_service.server import SOCKET_PATH, VOICES_PATH, Settings, VoicesAnswer
from tests.edge_service.service import EdgeService, serve
from tests.edge_service.speech import sentences_of, speak, tone_of

__all__ = [
    "SOCKET_PATH",
    "VOICES_PATH",
    "ConnectProxy",
    "EdgeService",
    "Event",
    "Fault",
    "Journal",
    "Plan",
    "Rule",
    "Settings",
    "Stats",
    "VoicesAnswer",
    "authority_file",
    "sentences_of",
    "serve",
    "speak",
    "tone_of",
]
