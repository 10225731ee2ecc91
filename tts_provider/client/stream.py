"""Speech that arrives while it is made."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from types import TracebackType
from typing import Final

import anyio

from tts_provider.client.errors import TTSClientError, TTSServerError, UnexpectedReply
from tts_provider.client.websocket import WebSocket
from tts_provider.client.wire import SPEECH, SpeechReply, decode
from tts_provider.messages import (
    Append,
    Cancel,
    Cancelled,
    End,
    Flush,
    Queued,
    Sentence,
    Streaming,
    Success,
    Words,
    encode_request,
)

__all__ = ["OnQueued", "SpeechEvent", "SpeechStream", "TextPump"]

CANCEL_S: Final = 1.0
"""Seconds for the server's word that a request is cancelled; after that the connection is closed, which cancels too."""
SOURCE_CLOSE_S: Final = 1.0
"""Seconds for a generator of text to clean up when nobody wants its text any more."""

SpeechEvent = bytes | Sentence | Words | Success
"""What a stream yields: a block of audio, or what is to be known about it."""

OnQueued = Callable[[Queued], object]
"""Called each time the server says why it does not speak yet, with the place in the queue or the progress of the loading."""


class SpeechStream:
    """Iterate over it once: blocks of audio as ``bytes``, and events, in the order in which a listener needs them.

    A `Sentence` comes before the audio that speaks it; `Words` come when ``timestamps`` were asked for, before the audio that
    follows them; `Success` is the last item. PCM blocks are s16le mono and hold whole samples. Leaving the ``async with``
    block early cancels the request where it is made.

    The server waits for a slow listener, but drops one that takes nothing for long (its setting ``send_stall_s``, 10 s).
    """

    def __init__(self, socket: WebSocket, request_id: str, on_queued: OnQueued | None) -> None:
        self._socket = socket
        self._on_queued = on_queued
        self._streaming: Streaming | None = None
        self._reading: anyio.CancelScope | None = None
        self._errors: list[Exception] = []
        self._length = 0
        self.request_id = request_id
        self.ended = False
        """Whether the server has said its last word about this request."""
        self.success: Success | None = None
        """The last item; None before."""

    @property
    def streaming(self) -> Streaming:
        """The server's first answer: the model, the voice, the language, the format, and warnings about what was asked."""
        if self._streaming is None:
            raise RuntimeError("The stream has not begun.")
        return self._streaming

    @property
    def sample_rate(self) -> int:
        """Hz of the audio."""
        return self.streaming.sample_rate

    def __aiter__(self) -> SpeechStream:
        return self

    async def __anext__(self) -> SpeechEvent:
        """The next block or event.

        Raises:
            TTSServerError: the request failed; what came before is good.
            ConnectionLost, ServerTimeout, UnexpectedReply: the connection ended.
            Exception: what the source of the text raised, for a stream that speaks one.
        """
        while not self.ended:
            message = await self._receive()
            if isinstance(message, bytes):
                self._length += len(message)
                if message:
                    return message
                continue
            reply = self._decode(message)
            match reply:
                case Success():
                    self.ended, self.success = True, reply
                    if reply.length_bytes != self._length:
                        raise UnexpectedReply(f"{self._length} bytes of audio came, where {reply.length_bytes} were sent.")
                    return reply
                case Sentence() | Words():
                    return reply
                case Queued():
                    self._tell(reply)
                case Streaming() | Cancelled():
                    raise UnexpectedReply(f"The server said '{type(reply).__name__}' in the middle of a request.")
        raise StopAsyncIteration

    async def begin(self) -> Success | None:
        """Wait for the server's first answer. None when the stream begins; otherwise the server is one that cannot stream, as
        the replaced one, and what it says about the file that follows.

        Raises:
            TTSClientError: as for ``__anext__``.
        """
        while True:
            reply = self._decode(await self._receive())
            match reply:
                case Streaming():
                    self._streaming = reply
                    return None
                case Success():
                    return reply
                case Queued():
                    self._tell(reply)
                case _:
                    raise UnexpectedReply(f"The server said '{type(reply).__name__}' where a stream should begin.")

    async def receive_file(self, length: int, write: Callable[[bytes], object]) -> None:
        """Write the `length` bytes that follow the `Success` which `begin` returned.

        Raises:
            UnexpectedReply: other than that many came.
            TTSClientError: as for ``__anext__``.
        """
        left = length
        while left:
            message = await self._receive()
            if isinstance(message, str):
                raise UnexpectedReply(f"The server sent text where {left} bytes of audio were due.")
            if len(message) > left:
                raise UnexpectedReply(f"The server sent more than the {length} bytes that it had announced.")
            left -= len(message)
            write(message)
        self.ended = True

    async def __aenter__(self) -> SpeechStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the connection without a word of this request on it, or closed."""
        if error is None or (isinstance(error, Exception) and not isinstance(error, TTSClientError)):
            await self.leave()
        elif not self.ended:
            await self._socket.drop()

    async def leave(self) -> None:
        """See to it that nothing of this request comes any more; the connection stays open if that can be had quickly.

        A server answers a cancel once: with `Cancelled`, or with an error when the request had ended in the meantime, so that
        one reply more follows the request's last.
        """
        if self.ended or self._socket.closed:
            return
        try:
            with anyio.fail_after(CANCEL_S):
                await self._socket.send(encode_request(Cancel(self.request_id)))
                ended = False
                while True:
                    message = await self._socket.receive()
                    if isinstance(message, bytes):
                        continue
                    try:
                        reply = decode(message, SPEECH)
                    except TTSServerError:
                        if ended:
                            return
                        ended = True
                    else:
                        if isinstance(reply, Cancelled):
                            return
                        ended = ended or isinstance(reply, Success)
        except (TTSClientError, TimeoutError):
            await self._socket.drop()
        except BaseException:
            await self._socket.drop()
            raise
        finally:
            self.ended = True

    def interrupt(self, error: Exception) -> None:
        """Have the reader raise `error` now or when it next reads."""
        self._errors.append(error)
        if self._reading is not None:
            self._reading.cancel()

    async def _receive(self) -> str | bytes:
        if not self._errors:
            with anyio.CancelScope() as self._reading:
                return await self._socket.receive()
        raise self._errors[0]

    def _decode(self, message: str | bytes) -> SpeechReply:
        try:
            return decode(message, SPEECH)
        except TTSServerError:
            self.ended = True
            raise

    def _tell(self, reply: Queued) -> None:
        if self._on_queued is not None:
            self._on_queued(reply)


class TextPump:
    """Sends a text to the server while it is written, beside the task that receives its speech."""

    def __init__(self, socket: WebSocket, source: AsyncIterable[str | Flush], speech: SpeechStream, timeout: float) -> None:
        self._socket = socket
        self._source = source
        self._speech = speech
        self._timeout = timeout
        self._done = False

    def be_patient(self) -> None:
        """Let the server be silent for as long as the text is not complete: it may have nothing to say."""
        if not self._done:
            self._socket.set_patience(math.inf)

    async def run(self) -> None:
        """Send what `source` yields until it ends. An error, its or the connection's, is raised to the speech's reader."""
        request_id = self._speech.request_id
        try:
            async for piece in self._source:
                if isinstance(piece, Flush):
                    await self._socket.send(encode_request(Flush(request_id)))
                elif piece:
                    await self._socket.send(encode_request(Append(piece, request_id)))
            await self._socket.send(encode_request(End(request_id)))
        except Exception as error:
            self._speech.interrupt(error)
        finally:
            self._done = True
            self._socket.set_patience(self._timeout)
            if isinstance(self._source, AsyncGenerator):
                with anyio.move_on_after(SOURCE_CLOSE_S, shield=True):
                    await self._source.aclose()
