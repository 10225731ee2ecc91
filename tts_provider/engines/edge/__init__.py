"""Microsoft Edge's online voices: 322 of them in 142 locales, free of charge and of promises.

The service's protocol is spoken directly over trio-websocket; everything in it that Microsoft changes (address, token, headers,
SSML) is imported from the package edge-tts, so that its next release repairs this engine too. From the text down to the socket:

    engine      EdgeEngine: voices, sessions, the engine's life
    turns       one text becomes one turn: asked for, received, retried, decoded, pushed
    protocol    the service's messages; marks: words found again in the text; text: what may be sent; mp3: audio decoded
    connections  connections opened, opened ahead and refused; wire: one connection; dial: TCP, proxy, TLS
    voices      who speaks; voice_list: the service's list, kept on disk; snapshot: the list for an offline start
    service     what is imported from edge-tts; loaded in `EdgeEngine.run`, for it costs half a second
"""

from __future__ import annotations

from tts_provider.engines.edge.deadlines import Deadlines
from tts_provider.engines.edge.engine import EdgeEngine

__all__ = ["Deadlines", "EdgeEngine"]
