"""Microsoft Edge's online voices: 322 of them in 142 locales, free of charge and of promises.

The service's protocol is spoken directly over trio-websocket; everything in it that Microsoft changes (address, token, headers,
SSML) is imported from the package edge-tts, so that its next release repairs this engine too. From the text down to the socket:

    engine       EdgeEngine: its life, its voices, its sessions
    voices       who speaks; voice_list: the service's list, kept on disk; snapshot: the list for an offline start
    upstream     the engine while it runs: a chunk becomes one turn or several; all from here on is loaded in `EdgeEngine.run`
    turns        a turn: asked for, received, tried again, checked, decoded and pushed; turn: its audio on the way
    slots        how many turns at once; gate: the circuit breaker; deadlines and failures: what they are called
    text         what may be sent; marks: words found again in it; protocol: the service's messages; mp3: audio decoded
    connections  opened when needed or ahead; wire: one connection; tap and frames: its messages; dial: TCP, proxy, TLS
    service      everything that is imported from edge-tts
"""

from __future__ import annotations

from tts_provider.engines.edge.deadlines import Deadlines
from tts_provider.engines.edge.engine import EdgeEngine

__all__ = ["Deadlines", "EdgeEngine"]
