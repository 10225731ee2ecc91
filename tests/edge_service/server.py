"""The fake's server: an aiohttp application that behaves like Microsoft's service, as far as its clients tell."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import cache, partial
from itertools import count
from typing import Final, Literal
from urllib.parse import urlsplit

from aiohttp import WSMsgType, web
from edge_tts.constants import BASE_URL, SEC_MS_GEC_VERSION, TRUSTED_CLIENT_TOKEN, WSS_URL
from edge_tts.drm import generate_sec_ms_gec_v2

from tests.edge_service.journal import Journal
from tests.edge_service.plan import HandshakeFault, Plan, Rule
from tests.edge_service.speech import BIT_RATE, CHARACTER_S, Speech, speak
from tests.edge_service.turns import TurnSender
from tests.edge_service.voices import voice_list, voice_names
from tests.edge_service.wire import BadMessage, Config, Ssml, TurnScript, parse_config, parse_ssml

__all__ = ["SOCKET_PATH", "VOICES_PATH", "EdgeServer", "Settings", "VoicesAnswer"]

SOCKET_PATH: Final = urlsplit(WSS_URL).path
VOICES_PATH: Final = "/" + BASE_URL.split("/", 1)[1] + "/voices/list"
MAX_MESSAGE_BYTES: Final = 65_536
"""Longer messages are refused with 1007, as the cloud service does."""
CACHED_TURNS: Final = 1024
TOKEN_SLOT_S: Final = 300.0
ENCODERS: Final = 2
"""Speeches made at the same time; each is pure CPU."""


@dataclass(frozen=True, slots=True)
class VoicesAnswer:
    """How the list of voices is answered."""

    status: int = 200
    body: bytes | None = None
    """None: the real thing."""
    delay_s: float = 0.0
    chunked: bool = False


@dataclass(slots=True)
class Settings:
    """How the service is; may be changed while it runs."""

    connect_delay_s: float = 0.0
    """Before the handshake is answered."""
    first_byte_s: float = 0.0
    """From the request to its first audio."""
    pace: float | None = None
    """Times real time at which audio is sent; None for all at once."""
    message_bytes: int = 720
    character_s: float = CHARACTER_S
    """Seconds of audio for a character of text."""
    clock_offset_s: float = 0.0
    """How far the service's clock is ahead of this machine's."""
    idle_close_s: float | None = None
    """A connection without a request is closed after this."""
    second_turn: Literal["refuse", "serve", "ignore"] = "refuse"
    max_connections: int | None = None
    """More are answered with 429."""
    max_audio_s: float = 600.0
    """Where every turn is cut, without a word."""
    withdrawn: frozenset[str] = frozenset()
    """Short names of voices that the service no longer has."""
    metadata_first: bool = False
    """All boundaries of a turn before its audio, instead of each just before the audio that it is about."""
    voices: VoicesAnswer = field(default_factory=VoicesAnswer)


class EdgeServer:
    """The application, its speech cache and its journal; lives on one asyncio loop."""

    def __init__(self, settings: Settings, plan: Plan, journal: Journal) -> None:
        self.settings = settings
        self.plan = plan
        self.journal = journal
        self._scripts: OrderedDict[tuple[str, float, float, Config, int], TurnScript] = OrderedDict()
        self._speeches: OrderedDict[tuple[str, float, float], Speech] = OrderedDict()
        self._encoders = asyncio.Semaphore(ENCODERS)
        self._numbers = count(1)

    def application(self) -> web.Application:
        """The routes: the service's two, and ``/fake/…`` to steer a fake in another process."""
        application = web.Application(client_max_size=4 * 2**20)
        application.add_routes(
            [
                web.get(SOCKET_PATH, self._socket),
                web.get(VOICES_PATH, self._voices),
                web.get("/fake/stats", self._stats),
                web.post("/fake/warm", self._warm),
                web.post("/fake/reset", self._reset),
            ]
        )
        return application

    def now(self) -> float:
        """The service's idea of the time."""
        return time.time() + self.settings.clock_offset_s

    async def script(self, ssml: Ssml, config: Config) -> TurnScript:
        """The turn for a request, from the cache where it was made before."""
        key = (ssml.text, ssml.rate, self.settings.character_s, config, self.settings.message_bytes)
        script = self._scripts.get(key)
        if script is None:
            script = TurnScript.of(await self._speech(ssml.text, ssml.rate), config, self.settings.message_bytes)
            self._scripts[key] = script
            if len(self._scripts) > CACHED_TURNS:
                self._scripts.popitem(last=False)
        return script

    async def _speech(self, text: str, rate: float) -> Speech:
        key = (text, rate, self.settings.character_s)
        if key not in self._speeches:
            async with self._encoders:
                if key not in self._speeches:
                    speech = await asyncio.get_running_loop().run_in_executor(None, partial(speak, *key))
                    limit = int(self.settings.max_audio_s * BIT_RATE / 8)
                    if len(speech.mp3) > limit:
                        speech = Speech(speech.mp3[:limit], speech.words, speech.sentences)
                    self._speeches[key] = speech
                    if len(self._speeches) > CACHED_TURNS:
                        self._speeches.popitem(last=False)
        return self._speeches[key]

    # ------------------------------------------------------------------------------------------- HTTP

    def _objection(self, request: web.Request) -> str | None:
        """What is wrong with a handshake, if anything."""
        query, headers = request.query, request.headers
        if query.get("TrustedClientToken", query.get("trustedclienttoken")) != TRUSTED_CLIENT_TOKEN:
            return "wrong client token"
        slot = int(self.now() // TOKEN_SLOT_S)
        if query.get("Sec-MS-GEC") not in {_token(slot), _token(slot - 1), _token(slot + 1)}:
            return "wrong or old Sec-MS-GEC"
        if query.get("Sec-MS-GEC-Version") != SEC_MS_GEC_VERSION:
            return "wrong Sec-MS-GEC-Version"
        if "Edg/" not in headers.get("User-Agent", ""):
            return "not Edge's User-Agent"
        if not re.search(r"muid=[0-9A-F]{32};", headers.get("Cookie", "")):
            return "no muid cookie"
        return None

    def _socket_objection(self, request: web.Request) -> str | None:
        if not re.fullmatch(r"[0-9a-f]{32}", request.query.get("ConnectionId", "")):
            return "no ConnectionId"
        if not request.headers.get("Origin", "").startswith("chrome-extension://"):
            return "not Edge's Origin"
        if request.headers.getall("Sec-WebSocket-Version", []) != ["13"]:
            return "Sec-WebSocket-Version not once"
        return self._objection(request)

    def _refusal(self, status: int, retry_after: str | None = None) -> web.Response:
        headers = {"Date": formatdate(self.now(), usegmt=True)}
        if retry_after is not None:
            headers["Retry-After"] = retry_after
        return web.Response(status=status, headers=headers, text="")

    async def _voices(self, request: web.Request) -> web.StreamResponse:
        self.journal.note("voices")
        answer = self.settings.voices
        objection = self._objection(request)
        if objection is not None:
            self.journal.note("rejected", detail=objection)
            return self._refusal(403)
        await asyncio.sleep(answer.delay_s)
        if answer.status != 200:
            return self._refusal(answer.status)
        body = answer.body
        if body is None:
            body = json.dumps(voice_list(self.settings.withdrawn)).encode()
        response = web.Response(body=body, content_type="application/json")
        if answer.chunked:
            response.enable_chunked_encoding()
        return response

    async def _stats(self, request: web.Request) -> web.Response:
        stats = self.journal.stats()
        return web.json_response({name: getattr(stats, name) for name in stats.__slots__})

    async def _warm(self, request: web.Request) -> web.Response:
        wanted = await request.json()
        for text in wanted["texts"]:
            await self._speech(text, wanted.get("rate", 1.0))
        return web.json_response({"speeches": len(self._speeches)})

    async def _reset(self, request: web.Request) -> web.Response:
        self.plan.clear()
        self.journal.clear()
        return web.json_response({})

    # -------------------------------------------------------------------------------------- WebSocket

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        number = next(self._numbers)
        crowded = self.journal.open_connections
        self.journal.note("connected", number)
        try:
            await asyncio.sleep(self.settings.connect_delay_s)
            rule = self.plan.for_handshake()
            if rule is not None:
                self.journal.note("fault", number, rule.fault)
                return await self._faulty_handshake(request, rule)
            if self.settings.max_connections is not None and crowded >= self.settings.max_connections:
                return self._refusal(429)
            objection = self._socket_objection(request)
            if objection is not None:
                self.journal.note("rejected", number, objection)
                return self._refusal(403)
            return await self._converse(request, number)
        finally:
            self.journal.note("left", number)

    async def _faulty_handshake(self, request: web.Request, rule: Rule) -> web.StreamResponse:
        statuses: dict[HandshakeFault, int] = {"forbidden": 403, "too_many": 429, "unavailable": 503, "not_found": 404}
        for fault, status in statuses.items():
            if rule.fault == fault:
                return self._refusal(status, rule.retry_after)
        assert request.transport is not None
        if rule.fault == "vanish":
            request.transport.abort()
        elif rule.fault == "garbage_http":
            request.transport.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
            request.transport.close()
        else:
            await asyncio.sleep(3600)
        return self._refusal(500)

    async def _converse(self, request: web.Request, number: int) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False, max_msg_size=MAX_MESSAGE_BYTES, timeout=0.5)
        await socket.prepare(request)
        self.journal.note("opened", number)
        assert request.transport is not None
        sender = TurnSender(self, request.transport, socket, number)
        config: Config | None = None
        turns = 0
        running: asyncio.Task[None] | None = None
        try:
            while True:
                busy = running is not None and not running.done()
                limit = None if busy else self.settings.idle_close_s
                try:
                    message = await socket.receive(limit)
                except TimeoutError:
                    await socket.close(code=1000, message=b"idle")
                    break
                if message.type is not WSMsgType.TEXT:
                    break
                if config is None:
                    config = parse_config(message.data)
                    continue
                if "Path:speech.config" in message.data:
                    config = parse_config(message.data)
                    continue
                ssml = parse_ssml(message.data)
                turns += 1
                if turns > 1 and self.settings.second_turn != "serve":
                    self.journal.note("fault", number, "second turn")
                    if self.settings.second_turn == "ignore":
                        continue
                    await socket.close(code=1011, message=b"one turn only")
                    break
                if ssml.voice not in voice_names(self.settings.withdrawn):
                    raise BadMessage(f"no voice {ssml.voice!r}")
                self.journal.note("turn", number, ssml.text)
                running = asyncio.create_task(sender.send(ssml, config, self.plan.for_turn(ssml.text, ssml.voice)))
        except BadMessage as error:
            self.journal.note("invalid", number, str(error))
            await socket.close(code=1007, message=str(error).encode()[:100])
        finally:
            if running is not None:
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running
        return socket


@cache
def _token(slot: int) -> str:
    """The token for the five minutes of that number; a millisecond's work each."""
    return generate_sec_ms_gec_v2(slot * TOKEN_SLOT_S + TOKEN_SLOT_S / 2)
