"""The client for programs without an event loop."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from os import PathLike
from types import TracebackType
from typing import Self, Unpack

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from tts_provider.client.client import DEFAULT_PORT, DEFAULT_TIMEOUT_S, TTSClient
from tts_provider.client.errors import NotConnected
from tts_provider.client.stream import SpeechEvent, SpeechStream
from tts_provider.client.wire import RequestOptions
from tts_provider.messages import ServerInfo, Streaming, Success, VoiceEntry

__all__ = ["SyncSpeechStream", "SyncTTSClient", "speak"]


class SyncSpeechStream:
    """`SpeechStream` for programs without an event loop."""

    def __init__(self, portal: BlockingPortal, speech: SpeechStream) -> None:
        self._portal = portal
        self._speech = speech

    @property
    def streaming(self) -> Streaming:
        return self._speech.streaming

    @property
    def sample_rate(self) -> int:
        """Hz of the audio."""
        return self._speech.sample_rate

    @property
    def success(self) -> Success | None:
        return self._speech.success

    def __iter__(self) -> SyncSpeechStream:
        return self

    def __next__(self) -> SpeechEvent:
        try:
            return self._portal.call(self._speech.__anext__)
        except StopAsyncIteration:
            raise StopIteration from None


class SyncTTSClient:
    """`TTSClient` for programs without an event loop, as a context manager; one runs in a thread meanwhile."""

    def __init__(
        self,
        host: str = "localhost",
        port: int = DEFAULT_PORT,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        *,
        api_key: str | None = None,
    ) -> None:
        """As `TTSClient`."""
        self._client = TTSClient(host, port, timeout, api_key=api_key)
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None

    @classmethod
    def from_url(
        cls,
        url: str,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        *,
        ssl_context: ssl.SSLContext | None = None,
        api_key: str | None = None,
    ) -> Self:
        """As `TTSClient.from_url`."""
        client = cls(timeout=timeout, api_key=api_key)
        client._client = TTSClient.from_url(url, timeout, ssl_context=ssl_context, api_key=api_key)
        return client

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            ConnectFailed, ServerTimeout: that is not possible.
        """
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal())
            stack.enter_context(self._portal.wrap_async_context_manager(self._client))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._stack.close()
        self._portal = None

    def save(self, text: str, path: str | PathLike[str], **options: Unpack[RequestOptions]) -> Success:
        """As `TTSClient.save`."""
        return self._run.call(partial(self._client.save, text, path, **options))

    def speak(self, text: str, **options: Unpack[RequestOptions]) -> bytes:
        """As `TTSClient.speak`."""
        return self._run.call(partial(self._client.speak, text, **options))

    @contextmanager
    def stream(self, text: str, **options: Unpack[RequestOptions]) -> Iterator[SyncSpeechStream]:
        """As `TTSClient.stream`."""
        with self._run.wrap_async_context_manager(self._client.stream(text, **options)) as speech:
            yield SyncSpeechStream(self._run, speech)

    def info(self) -> ServerInfo:
        """As `TTSClient.info`."""
        return self._run.call(self._client.info)

    def voices(self, model: str | None = None, lang: str | None = None) -> Sequence[VoiceEntry]:
        """As `TTSClient.voices`."""
        return self._run.call(self._client.voices, model, lang)

    @property
    def _run(self) -> BlockingPortal:
        if self._portal is None:
            raise NotConnected("Use the client as a context manager: with SyncTTSClient() as client.")
        return self._portal


def speak(
    text: str,
    *,
    host: str = "localhost",
    port: int = DEFAULT_PORT,
    timeout: float | None = DEFAULT_TIMEOUT_S,
    api_key: str | None = None,
    **options: Unpack[RequestOptions],
) -> bytes:
    """The file that speaks `text`, WAV unless `format` says otherwise, from the server at `host` and `port`.

    Raises:
        TTSClientError: as for `TTSClient.save`.
    """

    async def run() -> bytes:
        async with TTSClient(host, port, timeout, api_key=api_key) as client:
            return await client.speak(text, **options)

    return anyio.run(run)
