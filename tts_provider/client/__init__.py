"""The client: speech from a server, under asyncio and Trio alike.

    async with TTSClient(host="localhost", port=9000) as client:
        await client.generate_speech("Hello.", "hello.wav")             # as the replaced server's client had it
        async with client.stream("Hello again.") as speech:             # audio while it is made
            async for item in speech:
                if isinstance(item, bytes):
                    player.write(item)                                  # s16le mono at speech.sample_rate

Between two calls no task runs and no cancel scope is open, so every call may stand under a deadline of the caller's. A client
serves one request at a time: use one for each task. When the server has closed the connection in the meantime, or a request was
cancelled or timed out, the next request opens a new one.

Programs without an event loop use `speak` or `SyncTTSClient`.
"""

from __future__ import annotations

from tts_provider.client.client import TTSClient
from tts_provider.client.errors import (
    ConnectFailed,
    ConnectionLost,
    NotConnected,
    ServerTimeout,
    TTSClientError,
    TTSServerError,
    UnexpectedReply,
)
from tts_provider.client.stream import OnQueued, SpeechEvent, SpeechStream
from tts_provider.client.sync import SyncSpeechStream, SyncTTSClient, speak
from tts_provider.client.wire import RequestOptions
from tts_provider.messages import Flush, Queued, Sentence, ServerInfo, Streaming, Success, VoiceEntry, Words

__all__ = [
    "ConnectFailed",
    "ConnectionLost",
    "Flush",
    "NotConnected",
    "OnQueued",
    "Queued",
    "RequestOptions",
    "Sentence",
    "ServerInfo",
    "ServerTimeout",
    "SpeechEvent",
    "SpeechStream",
    "Streaming",
    "Success",
    "SyncSpeechStream",
    "SyncTTSClient",
    "TTSClient",
    "TTSClientError",
    "TTSServerError",
    "UnexpectedReply",
    "VoiceEntry",
    "Words",
    "speak",
]
