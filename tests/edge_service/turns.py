"""The sending of one turn, well or badly."""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from aiohttp import web

from tests.edge_service.plan import Rule
from tests.edge_service.wire import (
    Config,
    Piece,
    Ssml,
    TurnScript,
    audio_message,
    binary_frame,
    text_frame,
    text_message,
)

if TYPE_CHECKING:
    from tests.edge_service.server import EdgeServer

__all__ = ["TurnSender"]

TICK_S: Final = 0.02
"""Audio that falls due within this is written at once: 50 wake-ups a second and turn, whatever the pace."""
PUNCTUAL_S: Final = 0.5
"""Of a turn's audio, whose messages are written each at its own time, as a listener waits for them."""
MAX_UNSENT_BYTES: Final = 2**20
"""A client that does not read stops the turn here."""
OVERSIZE_BYTES: Final = 2 * 2**20


class TurnSender:
    """Sends turns over one connection.

    Frames are laid out beforehand and written straight to the transport, many at a time: going through aiohttp's writer costs
    several times as much, and the fake shares its machine with what it measures.
    """

    def __init__(
        self, server: EdgeServer, transport: asyncio.BaseTransport, socket: web.WebSocketResponse, number: int
    ) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._server = server
        self._transport = transport
        self._socket = socket
        self._number = number

    async def send(self, ssml: Ssml, config: Config, rule: Rule | None) -> None:
        """Answer one request; noting "end" when all of it was sent."""
        settings = self._server.settings
        if rule is not None:
            self._server.journal.note("fault", self._number, rule.fault)
        fault = None if rule is None else rule.fault
        if fault == "hang_start":
            return
        asked = asyncio.get_running_loop().time()
        script = await self._server.script(ssml, config)
        self._write(script.opening, ssml)
        first_byte_s = settings.first_byte_s + (rule.delay_s if rule is not None and fault == "slow" else 0.0)
        await asyncio.sleep(max(0.0, asked + first_byte_s - asyncio.get_running_loop().time()))
        pieces = script.pieces
        if fault in ("truncate", "half_garbage", "half_tags") or settings.metadata_first:
            self._write(script.all_metadata, ssml)
            pieces = script.audio_only
        if rule is not None and fault != "slow":
            whole = await self._misbehave(rule, pieces, script, ssml)
            if not whole:
                return
        else:
            await self._write_paced(pieces, ssml)
        self._write(script.closing, ssml)
        self._server.journal.note("end", self._number)

    def _write(self, data: bytes, ssml: Ssml) -> None:
        if data and not self._transport.is_closing():
            self._transport.write(TurnScript.filled(data, ssml.request_id))

    async def _write_paced(self, pieces: tuple[Piece, ...], ssml: Ssml) -> None:
        pace = self._server.settings.pace
        loop = asyncio.get_running_loop()
        started = loop.time()
        sent = 0
        while sent < len(pieces) and not self._transport.is_closing():
            if pace is None:
                due = min(len(pieces), sent + 64)
            else:
                due = bisect_right(pieces, (loop.time() - started) * pace, key=lambda piece: piece.at_s)
            if due > sent:
                self._write(b"".join(piece.data for piece in pieces[sent:due]), ssml)
                sent = due
            if self._transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
                await asyncio.sleep(TICK_S)
            elif pace is not None and sent < len(pieces):
                tick_s = TICK_S if pieces[sent].at_s >= PUNCTUAL_S else 0.0
                await asyncio.sleep(max(tick_s, started + pieces[sent].at_s / pace - loop.time()))
            else:
                await asyncio.sleep(0)

    async def _misbehave(self, rule: Rule, pieces: tuple[Piece, ...], script: TurnScript, ssml: Ssml) -> bool:
        """Carry out a fault; returns whether the turn is to be ended properly."""
        part = pieces[: max(1, int(len(pieces) * rule.after))]
        frame = self._bad_frame(rule)
        if frame is not None:
            await self._write_paced(part, ssml)
            self._write(frame, ssml)
            return True
        match rule.fault:
            case "no_audio":
                self._write(text_frame(text_message("turn.end", "{}")), ssml)
                return False
            case "drop_start":
                self._transport.abort()
                return False
            case "close_start":
                await self._socket.close(code=1011, message=b"overloaded")
                return False
            case "garbage" | "half_garbage" | "half_tags":
                good = () if rule.fault == "garbage" else part
                await self._write_paced(good, ssml)
                noise = random.Random(1)
                for _ in pieces[len(good) :]:
                    bad = (b"TAG" + bytes(125)) * 6 if rule.fault == "half_tags" else noise.randbytes(720)
                    self._write(binary_frame(audio_message(bad)), ssml)
                return True
        await self._write_paced(part, ssml)
        match rule.fault:
            case "drop":
                self._transport.abort()
            case "close":
                await self._socket.close(code=1011, message=b"going away")
            case "truncate" | "truncate_words":
                return True
        return False  # "hang_mid" says no more

    @staticmethod
    def _bad_frame(rule: Rule) -> bytes | None:
        """What the service sends after a part of the audio, for the faults that are one bad message."""
        match rule.fault:
            case "short_frame":
                return binary_frame(b"\x00")
            case "bad_frame":
                return binary_frame(b"\xff\xff" + b"X-RequestId:0\r\n")
            case "content_type":
                return binary_frame(audio_message(b"<html>", content_type="text/html"))
            case "no_content_type":
                return binary_frame(audio_message(bytes(144), content_type=None))
            case "empty_audio":
                return binary_frame(audio_message(b""))
            case "audio_path":
                return binary_frame(audio_message(bytes(144), path="video"))
            case "unknown_path":
                return text_frame(text_message("turn.surprise", "{}"))
            case "no_header":
                return text_frame("surprise")
            case "bad_metadata":
                return text_frame(text_message("audio.metadata", "{"))
            case "unknown_metadata":
                return text_frame(text_message("audio.metadata", '{"Metadata": [{"Type": "Surprise", "Data": {}}]}'))
            case "oversize":
                return binary_frame(audio_message(bytes(OVERSIZE_BYTES)))
        return None
