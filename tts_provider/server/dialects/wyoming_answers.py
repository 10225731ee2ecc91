"""How one Wyoming request is answered: its audio between one start and one stop, and silence for whom a pause would end."""

from __future__ import annotations

from typing import Final

import structlog
import trio
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.tts import SynthesizeStopped

from tts_provider.errors import InternalError, TTSError
from tts_provider.messages import SpeechParameters
from tts_provider.server.dialects.wyoming_frames import encode
from tts_provider.server.outbox import Outbox
from tts_provider.server.service import SpeechService
from tts_provider.streaming.events import AudioFrame, Event
from tts_provider.streaming.text import TextSource

__all__ = ["SILENCE_S", "Exchange", "failure"]

WIDTH: Final = 2
"""Bytes of a sample."""
CHANNELS: Final = 1
SILENCE_S: Final = 0.1
"""Length of one piece of comfort silence."""

log = structlog.get_logger(__name__)


def failure(error: TTSError) -> bytes:
    """`error` as its event."""
    return encode(Error(text=error.message, code=error.code).event())


def _ms(seconds: float) -> int:
    return round(1000 * seconds)


class Exchange:
    """One request, from its event to its last answer. All of its audio has one format."""

    def __init__(self, outbox: Outbox, *, streaming: bool) -> None:
        self.streaming = streaming
        self.parameters = SpeechParameters()
        self.text: TextSource | None = None
        """None when the request was wrong."""
        self.error: TTSError | None = None
        self._outbox = outbox
        self._scope = trio.CancelScope()
        self._sending = trio.Lock()
        """Held while audio is sent: speech and silence take turns."""
        self._begun = False
        """Whether ``audio-start`` was sent."""
        self._silent = False
        """Whether silence was sent last."""
        self._speaking = False
        self._sent_s = 0.0
        """Seconds of audio sent."""
        self._heard_at = 0.0
        """When a listener has heard all that was sent, on Trio's clock."""

    def fail(self, error: TTSError) -> None:
        """End it with `error`; the first one counts."""
        self.error = self.error or error
        self._scope.cancel(reason="the request is wrong")

    async def answer(self, service: SpeechService) -> bool:
        """Speak, whatever becomes of it; whether the connection may go on."""
        self._heard_at = trio.current_time()
        self._speaking = True
        try:
            with self._scope:
                await self._speak(service)
        except TTSError as error:
            self.error = error
        except Exception:
            log.exception("request.fault")
            self.error = InternalError("Something went wrong in the server.")
        self._speaking = False
        async with self._sending:
            if self.error is not None:
                await self._outbox.put(failure(self.error), self)
                if not self.streaming:
                    # With a proper end, half a text would be taken for the whole, and kept.
                    return False
            if self._begun:
                await self._outbox.put(encode(AudioStop(timestamp=_ms(self._sent_s)).event()), self)
            if self.streaming:
                await self._outbox.put(encode(SynthesizeStopped().event()), self)
        return True

    async def _speak(self, service: SpeechService) -> None:
        async def deliver(event: Event) -> None:
            if isinstance(event, AudioFrame):
                async with self._sending:
                    self._silent = False
                    await self._send(event.data)

        if self.text is not None:
            async with service.utterance(self.parameters, "pcm", self.text, client=self._outbox) as utterance:
                await utterance.run(deliver)

    async def _send(self, data: bytes) -> None:
        rate = self.parameters.sample_rate
        if not self._begun:
            await self._outbox.put(encode(AudioStart(rate, WIDTH, CHANNELS, timestamp=0).event()), self)
            self._begun = True
        chunk = AudioChunk(rate, WIDTH, CHANNELS, audio=data, timestamp=_ms(self._sent_s))
        await self._outbox.put(encode(chunk.event()), self)
        seconds = len(data) / (WIDTH * CHANNELS * rate)
        self._sent_s += seconds
        self._heard_at = max(self._heard_at, trio.current_time()) + seconds

    async def keep_company(self, after_s: float) -> None:
        """Send a piece of silence if the listener has heard nothing for `after_s`, or hears silence already."""
        async with self._sending:
            patience_s = 0.0 if self._silent else after_s
            if self._speaking and trio.current_time() >= self._heard_at + patience_s:
                self._silent = True
                await self._send(bytes(WIDTH * CHANNELS * round(SILENCE_S * self.parameters.sample_rate)))
