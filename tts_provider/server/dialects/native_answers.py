"""How the native dialect answers: a request's replies and audio, the server's description, the list of voices."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Final

import trio

from tts_provider import __version__
from tts_provider import messages as wire
from tts_provider.engines.base import Voice
from tts_provider.engines.catalog import EngineState, Entry
from tts_provider.engines.languages import canonical_tag
from tts_provider.server.outbox import Outbox
from tts_provider.server.service import SpeechService
from tts_provider.server.websocket import Closed
from tts_provider.streaming.events import AudioFrame, Event, SentenceStart, Started, WordTimes
from tts_provider.streaming.text import TextSource
from tts_provider.streaming.utterance import Summary
from tts_provider.streaming.wav import SPOOL_BYTES, WavSpool

__all__ = ["SPEAKERS", "Answer", "describe_server", "voice_entries"]

FILE_PIECE_BYTES: Final = 800_000
"""Most of a file in one binary message: common clients refuse messages over 1 MiB, the replaced server sent this much."""

SPEAKERS: Final = {
    "0": "Primary/Default (US male)",
    "1": "Secondary (US female)",
    "2": "Tertiary (US male)",
    "3": "Quaternary (UK female)",
}


@dataclass(slots=True)
class Answer:
    """One request's answer, given once by `give`."""

    outbox: Outbox
    owner: object
    """Stands for the request in the outbox."""
    request_id: str
    parameters: wire.SpeechParameters
    stream: int | None
    """Stream number on a multiplexed connection."""
    tag: bytes
    """What each binary message begins with."""
    received_at: float
    told_queued: bool = False
    model: str = ""
    """Canonical name of the engine that was asked for."""
    started: Started | None = None
    """Who speaks, once that is known."""

    async def give(self, service: SpeechService, text: TextSource) -> None:
        """Speak `text` to the client.

        Raises:
            TTSError: it could not be spoken; what was sent before is good.
        """
        self.model = service.catalog.find(self.parameters.model).name
        if self.parameters.stream:
            await self._stream(service, text)
        else:
            await self._whole(service, text)

    # --- The streaming dialect ---

    async def _stream(self, service: SpeechService, text: TextSource) -> None:
        format = self.parameters.format or "pcm"
        with contextlib.ExitStack() as stack:
            spool = WavSpool(self.parameters.sample_rate) if self.parameters.final_wav else None
            if spool is not None:
                stack.callback(spool.close)
            tap = spool.append if spool is not None else None
            async with service.utterance(
                self.parameters, format, text, on_load=self._report_load, tap=tap, client=self.outbox
            ) as speech:
                summary = await speech.run(self._deliver, now=self._deliver_now, queued=self._report_place)
            if spool is None:
                await self._put(self._success(summary, format, summary.length_bytes))
            else:
                await self._put(self._success(summary, "wav", spool.length))
                await self._send_file(spool.read_in_pieces(FILE_PIECE_BYTES - len(self.tag)))

    async def _deliver(self, event: Event) -> None:
        await self.outbox.put(self._message(event), self.owner)

    def _deliver_now(self, events: list[Event]) -> int:
        return self.outbox.put_now(list(map(self._message, events)), self.owner)

    def _message(self, event: Event) -> str | bytes:
        match event:
            case AudioFrame(data):
                return self.tag + data if self.tag else data
            case Started():
                self.started = event
                return wire.encode(
                    wire.Streaming(
                        request_id=self.request_id,
                        model=self.model,
                        engine_used=self.engine_used,
                        voice=event.choice.voice.id,
                        lang=event.choice.lang,
                        sample_rate=self.parameters.sample_rate,
                        channels=1,
                        format=self.parameters.format or "pcm",
                        warnings=[*self.parameters.warnings, *event.choice.warnings],
                        stream=self.stream,
                    )
                )
            case SentenceStart(index, text, start_ms):
                return wire.encode(wire.Sentence(request_id=self.request_id, index=index, text=text, start_ms=_ms(start_ms)))
            case WordTimes(index, words):
                timed = [
                    wire.Word(
                        text=word.text,
                        offset=word.offset,
                        start_ms=_ms(word.start_ms),
                        end_ms=_ms(word.end_ms),
                        exact=word.exact,
                    )
                    for word in words
                ]
                return wire.encode(wire.Words(request_id=self.request_id, index=index, words=timed))

    # --- The legacy dialect ---

    async def _whole(self, service: SpeechService, text: TextSource) -> None:
        format = self.parameters.format or "wav"
        with contextlib.ExitStack() as stack:
            append: Callable[[bytes], object]
            if format == "wav":
                spool = WavSpool(self.parameters.sample_rate)
                stack.callback(spool.close)
                append, engine_format = spool.append, "pcm"
            else:
                file: IO[bytes] = stack.enter_context(tempfile.SpooledTemporaryFile(SPOOL_BYTES))
                append, engine_format = file.write, format

            async def collect(event: Event) -> None:
                if isinstance(event, AudioFrame):
                    append(event.data)
                elif isinstance(event, Started):
                    self.started = event

            async with service.utterance(
                self.parameters, engine_format, text, on_load=self._report_load, client=self.outbox
            ) as speech:
                summary = await speech.run(collect, queued=self._report_place)
            if format == "wav":
                length, pieces = spool.length, spool.read_in_pieces(FILE_PIECE_BYTES - len(self.tag))
            else:
                length, pieces = summary.length_bytes, _read(file, FILE_PIECE_BYTES - len(self.tag))
            reply = self._success(summary, format, length)
            assert self.started is not None
            choice = self.started.choice
            reply.warnings = [*self.parameters.warnings, *choice.warnings]
            reply.model, reply.voice, reply.lang, reply.stream = self.model, choice.voice.id, choice.lang, self.stream
            await self._put(reply)
            await self._send_file(pieces)

    # --- Both ---

    @property
    def engine_used(self) -> str | None:
        """The engine that speaks, when it is another than the one that was asked for."""
        return self.started.engine if self.started is not None and self.started.engine != self.model else None

    def _success(self, summary: Summary, format: str, length: int) -> wire.Success:
        return wire.Success(
            length_bytes=length,
            sample_rate=self.parameters.sample_rate,
            format=format,
            request_id=self.request_id,
            engine_used=self.engine_used,
            duration_ms=_ms(summary.duration_ms),
            sentences=summary.sentences,
            timings=wire.Timings(
                queue_ms=self._since(summary.session_at),
                first_audio_ms=self._since(summary.first_audio_at),
                total_ms=self._since(trio.current_time()),
            ),
        )

    def _since(self, time: float) -> float:
        return _ms(1000 * (time - self.received_at))

    async def _put(self, reply: wire.Reply) -> None:
        await self.outbox.put(wire.encode(reply), self.owner)

    async def _send_file(self, pieces: Iterator[bytes]) -> None:
        for piece in pieces:
            await self.outbox.put_large(self.tag + piece if self.tag else piece, self.owner)

    def _report_load(self, progress: float | None, place: int) -> None:
        self._tell_queued("Model is loading, your request has been queued", place, progress)

    def _report_place(self, place: int) -> None:
        self._tell_queued("All places are taken, your request has been queued", place, None)

    def _tell_queued(self, message: str, place: int, progress: float | None) -> None:
        """A streaming client hears of every change; one of the replaced server reads one such message at most."""
        if self.told_queued and not self.parameters.stream:
            return
        self.told_queued = True
        reply = wire.Queued(
            message=message,
            queue_position=place,
            request_id=self.request_id,
            progress=progress if self.parameters.stream else None,
        )
        with contextlib.suppress(Closed):  # a client that reads nothing need not hear of its place either
            self.outbox.reply(wire.encode(reply))


def _ms(milliseconds: float) -> float:
    """To a hundredth: one sample at 96 kHz."""
    return round(milliseconds, 2)


def _read(file: IO[bytes], size: int) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(size):
        yield piece


def describe_server(service: SpeechService) -> wire.ServerInfo:
    """The answer to ``info``."""
    catalog, admission = service.catalog, service.admission
    default = catalog.find(None)
    ready = catalog.state(default.name) is EngineState.READY
    return wire.ServerInfo(
        server_version=__version__,
        current_model=wire.CurrentModel(
            name=default.name, ready=ready, sample_rate=default.sample_rate, speakers=dict(default.speakers)
        ),
        available_models={entry.name: _model_entry(service, entry) for entry in catalog.entries},
        queue_size=catalog.waiting() + admission.waiting(),
        model_loaded=ready,
        speaker_mapping=SPEAKERS,
        limits=service.limits,
        protocol_version=wire.PROTOCOL_VERSION,
    )


def _model_entry(service: SpeechService, entry: Entry) -> wire.ModelEntry:
    engine = service.catalog.loaded(entry.name)
    occupancy = service.admission.occupancy(entry.name)
    return wire.ModelEntry(
        identifiers=[entry.name, *entry.aliases],
        speakers=dict(entry.speakers),
        sample_rate=entry.sample_rate,
        state=service.health.state(entry.name),
        detail=service.health.detail(entry.name),
        slots=service.admission.total(engine) if engine is not None else None,
        slots_used=occupancy.used,
        queue_length=occupancy.waiting,
    )


def voice_entries(voices: Iterable[tuple[str, Voice]], lang: str | None) -> list[wire.VoiceEntry]:
    """The voices of a language, each with its model; of all languages for None. ``en`` means every English.

    Raises:
        UnsupportedLanguage: `lang` is no language tag.
    """
    prefix = canonical_tag(lang).lower() if lang is not None else ""
    return [
        wire.VoiceEntry(id=voice.id, name=voice.name, model=model, lang=voice.language, gender=voice.gender)
        for model, voice in voices
        if not prefix or f"{voice.language.lower()}-".startswith(f"{prefix}-")
    ]
