"""`TTSClient`, whose description is the one of `tts_provider.client`."""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, Unpack

import anyio
import msgspec

from tts_provider.client.errors import (
    TTSClientError,
    TTSServerError,
    UnexpectedReply,
)
from tts_provider.client.files import wav_header, written_whole
from tts_provider.client.session import ClientSession, logger
from tts_provider.client.stream import OnQueued, SpeechStream, TextPump
from tts_provider.client.websocket import ServerAddress
from tts_provider.client.wire import INFO, PRELOADED, VOICES, RequestOptions, decode
from tts_provider.messages import (
    DEFAULT_LANG,
    DEFAULT_SAMPLE_RATE,
    Flush,
    Info,
    Preload,
    Preloaded,
    ServerInfo,
    Success,
    VoiceEntry,
    Voices,
)

__all__ = ["DEFAULT_PORT", "DEFAULT_TIMEOUT_S", "TTSClient"]

DEFAULT_PORT: Final = 9000
DEFAULT_TIMEOUT_S: Final = 60.0
"""As the replaced client had it."""
NO_STREAM: Final = "The server does not stream; it sends whole files only."


class TTSClient:
    """A client of one server."""

    def __init__(
        self,
        host: str = "localhost",
        port: int = DEFAULT_PORT,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        *,
        api_key: str | None = None,
    ) -> None:
        """
        Args:
            timeout: seconds for connecting, and then for each pause in which the server makes no progress; None: no limit.
            api_key: for a server that asks for one; None takes ``TTS_API_KEY`` from the environment, if it is there.

        Raises:
            ValueError: the key cannot be one.
        """
        self._session = ClientSession(ServerAddress(host, port), timeout, api_key=api_key)
        self.timeout: Final = timeout

    @classmethod
    def from_url(
        cls,
        url: str,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        *,
        ssl_context: ssl.SSLContext | None = None,
        api_key: str | None = None,
    ) -> Self:
        """A client for the server at ``ws://host:port/path`` or ``wss://host``.

        `ssl_context`: for a certificate that this machine does not trust by itself:
        ``ssl.create_default_context(cafile="authority.pem")``.

        Raises:
            ValueError: `url` is no such URL, or the key cannot be one.
        """
        client = cls(timeout=timeout, api_key=api_key)
        client._session = ClientSession(ServerAddress.parse(url), timeout, ssl_context, api_key)
        return client

    @property
    def host(self) -> str:
        return self._session.address.host

    @property
    def port(self) -> int:
        return self._session.address.port

    @property
    def uri(self) -> str:
        return str(self._session.address)

    # --- Connection ---

    def is_connected(self) -> bool:
        """Whether the connection is open as far as is known; the server may have closed an idle one."""
        return self._session.connected

    async def connect(self) -> bool:
        """Connect to the server, and say whether that succeeded; why not is logged. ``async with client`` raises instead."""
        try:
            await self._session.connect()
        except TTSClientError as error:
            logger.error("Failed to connect to the TTS server: %s", error)
            return False
        return True

    async def disconnect(self) -> None:
        """Close the connection, if there is one. A request that another task has under way ends with `ConnectionLost`."""
        await self._session.disconnect()

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            ConnectFailed, ServerTimeout: that is not possible.
        """
        await self._session.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.disconnect()

    # --- What the replaced client had ---

    async def generate_speech(
        self,
        text: str,
        output_path: str | PathLike[str],
        speaker: int = 0,
        sample_rate: int = DEFAULT_SAMPLE_RATE,
        response_mode: str = "stream",
        model: str | None = None,
        lang: str = DEFAULT_LANG,
        **kwargs: Any,
    ) -> bool:
        """Speak `text` into the WAV file `output_path`; False when the server could not, which is logged. `save` says why.

        Args:
            response_mode: taken and ignored; the replaced server did too.
            kwargs: `voice`, `speed` and `format` as in `RequestOptions`; all others are options of the engine.

        Raises:
            NotConnected: `connect` was not called, or failed.
            ConnectionLost, ServerTimeout, UnexpectedReply: the connection ended.
            OSError: the file cannot be written.
        """
        options: RequestOptions = {"model": model or kwargs.pop("model_type", None), "speaker": speaker, "lang": lang}
        options["sample_rate"] = sample_rate
        options["voice"], options["speed"] = kwargs.pop("voice", None), kwargs.pop("speed", 1.0)
        options["format"] = kwargs.pop("format", None)
        options["extra"] = {**(kwargs.pop("extra_params", None) or {}), **kwargs}
        try:
            await self.save(text, output_path, **options)
        except TTSServerError as error:
            logger.error("TTS generation failed: %s", error)
            return False
        return True

    async def get_server_info(self) -> dict[str, Any]:
        """What the server says about itself and its models, as it says it; `info` is the typed form.

        Raises:
            TTSClientError: the server could not be asked.
        """
        async with self._session.turn():
            return await self._session.ask(Info(), _as_object)

    # --- Speech ---

    async def save(
        self, text: str, path: str | PathLike[str], *, on_queued: OnQueued | None = None, **options: Unpack[RequestOptions]
    ) -> Success:
        """Speak `text` into the file `path`. The file appears when it is whole; missing folders are made.

        Raises:
            TTSServerError: the server refuses or fails.
            TTSClientError: the connection could not be had or ended.
            OSError: the file cannot be written.
        """
        async with self._session.turn():
            with written_whole(Path(path)) as file:
                success, header = await self._speak(text, options, file.write, on_queued)
                if header and file.seekable():
                    file.seek(0)
                    file.write(header)
                return success

    async def speak(self, text: str, *, on_queued: OnQueued | None = None, **options: Unpack[RequestOptions]) -> bytes:
        """The file that speaks `text`: WAV unless `format` says otherwise.

        Raises:
            TTSClientError: as for `save`.
        """
        file = bytearray()

        async with self._session.turn():
            _, header = await self._speak(text, options, file.extend, on_queued)
        file[: len(header)] = header
        return bytes(file)

    async def _speak(
        self, text: str, options: RequestOptions, write: Callable[[bytes], object], on_queued: OnQueued | None
    ) -> tuple[Success, bytes]:
        """Write the file that speaks `text`; also the bytes that must then stand at its beginning.

        It is streamed, because then the server's progress shows: a long text may take far longer than `timeout`.
        """
        as_wav = (options.get("format") or "wav").lower() == "wav"
        if as_wav:
            options = options | {"format": "pcm"}
        speech, file = await self._session.speak(text, options, on_queued)
        async with speech:
            if file is not None:
                await speech.receive_file(file.length_bytes, write)
                return file, b""
            for warning in speech.streaming.warnings:
                logger.warning("%s", warning)
            if as_wav:
                write(wav_header(speech.sample_rate))
            async for item in speech:
                if isinstance(item, bytes):
                    write(item)
        assert speech.success is not None
        return speech.success, wav_header(speech.sample_rate, speech.success.length_bytes) if as_wav else b""

    @asynccontextmanager
    async def stream(
        self, text: str, *, on_queued: OnQueued | None = None, **options: Unpack[RequestOptions]
    ) -> AsyncIterator[SpeechStream]:
        """The speech of `text` while it is made. Entering waits until the server has begun; leaving early cancels.

        Raises:
            TTSServerError: the server refuses.
            TTSClientError: the connection could not be had or ended.
        """
        async with self._session.turn():
            speech, file = await self._session.speak(text, options, on_queued)
            async with speech:
                if file is not None:
                    raise UnexpectedReply(NO_STREAM)
                yield speech

    @asynccontextmanager
    async def speak_text_stream(
        self, source: AsyncIterable[str | Flush], *, on_queued: OnQueued | None = None, **options: Unpack[RequestOptions]
    ) -> AsyncIterator[SpeechStream]:
        """The speech of a text that is still being written, such as a language model's tokens.

        Each sentence is spoken as soon as it is complete; a `Flush` among the pieces speaks what there is at once. `source`
        is read beside the block, as fast as it yields, and closed with it if it is a generator. What it raises is raised to
        whoever iterates over the speech. Leaving early cancels.

        Raises:
            TTSServerError: the server refuses.
            TTSClientError: the connection could not be had or ended.
        """
        async with self._session.turn():
            socket, speech = await self._session.begin(options, on_queued)
            try:
                failure: Exception | None = None
                async with anyio.create_task_group() as tasks:
                    pump = TextPump(socket, source, speech, self._session.patience)
                    tasks.start_soon(pump.run)
                    try:
                        if await speech.begin() is not None:
                            raise UnexpectedReply(NO_STREAM)
                        pump.be_patient()
                        yield speech
                    except Exception as error:
                        failure = error  # raised outside the task group, so that nobody gets it in an ExceptionGroup
                    tasks.cancel_scope.cancel()
                if failure is not None:
                    raise failure
                await speech.leave()
            except BaseException:
                # Pieces may be on their way to a request that has ended; their errors would be taken for the next one's.
                await socket.drop()
                raise

    # --- About the server ---

    async def info(self) -> ServerInfo:
        """What the server says about itself and its models.

        Raises:
            TTSClientError: the server could not be asked.
        """
        async with self._session.turn():
            return await self._session.ask(Info(), lambda reply: decode(reply, INFO))

    async def voices(self, model: str | None = None, lang: str | None = None) -> Sequence[VoiceEntry]:
        """The voices that the server has, of one model or language if given.

        Raises:
            TTSServerError: there is no such model or language.
            TTSClientError: the server could not be asked.
        """
        async with self._session.turn():
            return (await self._session.ask(Voices(model, lang), lambda reply: decode(reply, VOICES))).voices

    async def preload(self, model: str | None = None) -> Preloaded:
        """Have the server load a model, and wait until it is ready. That may take minutes, so `timeout` does not count.

        Raises:
            TTSServerError: it cannot be loaded.
            TTSClientError: the server could not be asked.
        """
        async with self._session.turn():
            return await self._session.ask(Preload(model), lambda reply: decode(reply, PRELOADED), patience=math.inf)


def _as_object(reply: str | bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(reply, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise UnexpectedReply("The server's reply is no JSON object.") from error
