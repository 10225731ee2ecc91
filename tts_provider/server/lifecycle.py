"""The server as a whole: what it is wired from, how it starts, drains and stops."""

from __future__ import annotations

import gc
import importlib
import math
import signal
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import structlog
import trio

from tts_provider import __version__
from tts_provider.engines.base import Engine
from tts_provider.engines.catalog import Catalog, Entry
from tts_provider.errors import TTSError
from tts_provider.server.access import Access, is_loopback
from tts_provider.server.dialects.native import NativeDialect
from tts_provider.server.dialects.native_answers import describe_server
from tts_provider.server.http_bridge import ASGIApp, HttpBridge, Message, Receive, Send
from tts_provider.server.listener import BACKLOG, Connection, Listener, Serve
from tts_provider.server.metrics import EngineReading, Reading
from tts_provider.server.service import SpeechService
from tts_provider.server.session import Sessions
from tts_provider.server.tls import tls_context
from tts_provider.settings import Settings, SettingsError

__all__ = ["ServerAddress", "engine_entries", "serve", "tune_garbage_collection"]

DEEPGRAM_PATH: Final = "/v1/speak"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a server listens."""

    host: str
    port: int
    wyoming_port: int | None = None
    """None when Wyoming is not spoken."""


def engine_entries(settings: Settings) -> list[Entry]:
    """The catalog's lines. Making them imports nothing heavy; an engine's own module is imported when it is first asked for."""

    def edge() -> Engine:
        from tts_provider.engines.edge import EdgeEngine

        return EdgeEngine(
            endpoint=settings.edge_endpoint or None,
            proxy=settings.edge_proxy or None,
            max_turns=settings.edge_max_turns,
            preconnect=settings.edge_preconnect,
            cache_dir=Path(settings.edge_cache_dir) if settings.edge_cache_dir else None,
        )

    def espeak() -> Engine:
        from tts_provider.engines.espeak import EspeakEngine

        return EspeakEngine(library=settings.espeak_library or None, workers=settings.espeak_workers)

    def espeak_unavailable() -> str | None:
        from tts_provider.engines.espeak import availability

        return None if settings.espeak_library else availability()

    def sesame() -> Engine:
        from tts_provider.engines.sesame import SesameEngine

        return SesameEngine(
            model=settings.sesame_model,
            dtype=settings.sesame_dtype,
            temperature=settings.sesame_temperature,
            top_k=settings.sesame_top_k,
            slots=settings.sesame_slots,
            voices=Path(settings.sesame_voices) if settings.sesame_voices else None,
        )

    def sesame_unavailable() -> str | None:
        from tts_provider.engines.sesame import availability

        return availability()

    def zonos() -> Engine:
        from tts_provider.engines.zonos import ZonosEngine

        return ZonosEngine(
            model=settings.zonos_model,
            speaker_model=settings.zonos_speaker_model,
            dac=settings.zonos_dac,
            speakers=Path(settings.zonos_speakers) if settings.zonos_speakers else None,
            dtype=settings.zonos_dtype,
            slots=settings.zonos_slots,
        )

    def zonos_unavailable() -> str | None:
        from tts_provider.engines.zonos import availability

        return availability()

    return [
        Entry(
            name="edge",
            aliases=("edge-tts",),
            sample_rate=24_000,
            create=edge,
            light=True,
            speakers={"0": "US male (Guy)", "1": "US female (Jenny)", "2": "US male (Davis)", "3": "UK female (Sonia)"},
        ),
        Entry(
            name="espeak",
            aliases=("espeak-ng",),
            sample_rate=22_050,
            create=espeak,
            unavailable=espeak_unavailable,
            light=True,
            speakers={"0": "Male", "1": "Female", "2": "Another male", "3": "UK female"},
        ),
        Entry(
            name="sesame",
            aliases=("csm", "csm-1b"),
            sample_rate=24_000,
            create=sesame,
            unavailable=sesame_unavailable,
            speakers={"0": "Male", "1": "Female", "2": "Male", "3": "Female"},
        ),
        Entry(
            name="zonos",
            sample_rate=44_100,
            create=zonos,
            unavailable=zonos_unavailable,
            speakers={str(number): f"Cloned from {number}.wav or speaker_{number}.wav" for number in range(4)},
        ),
    ]


async def serve(
    settings: Settings,
    *,
    entries: Iterable[Entry] | None = None,
    own_process: bool = True,
    task_status: trio.TaskStatus[ServerAddress] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until SIGTERM or SIGINT, or until cancelled.

    The first signal drains: no new connection, no new request, running ones end within ``drain_s``, then 1001. The second stops
    at once.

    Args:
        entries: engines instead of `engine_entries`.
        own_process: whether the process is here to serve: then signals are handled and the garbage collector is tuned. False
            for a program that runs a server inside.

    Raises:
        OSError: the address cannot be listened on.
        UnknownModel: the default engine, or one to preload or to fall back on, does not exist.
        SettingsError: ``openai_voices``, a key, an origin or a certificate makes no sense, or ``wyoming_port`` is set and the
            package is missing.
    """
    access = Access.from_settings(settings)
    tls = tls_context(settings)
    settings = replace(settings, api_keys=())  # from here on nobody can tell them
    catalog = Catalog(
        engine_entries(settings) if entries is None else entries,
        default=settings.default_model,
        idle_unload_s=settings.idle_unload_s or math.inf,
    )
    preload = [catalog.find(name).name for name in settings.preload]
    service = SpeechService(catalog, settings)
    sessions = Sessions(settings)
    preloaded = trio.Event()

    async def session(connection: Connection) -> None:
        path, _, query = connection.path.partition("?")
        if path.rstrip("/") == DEEPGRAM_PATH:
            from tts_provider.server.dialects.deepgram import DeepgramDialect

            request_id = str(uuid.uuid4())
            headers = [(b"dg-request-id", request_id.encode())]
            await sessions.serve(
                connection, lambda session: DeepgramDialect(service, session, query, request_id).run(), headers=headers
            )
        else:
            await sessions.serve(connection, lambda session: NativeDialect(service, session).run())

    def build_http() -> ASGIApp:
        from tts_provider.server.app import build_app
        from tts_provider.server.dialects.deepgram import deepgram_routes
        from tts_provider.server.dialects.openai import OpenAIDialect

        return build_app(
            [*OpenAIDialect(service).routes(), *deepgram_routes(service, DEEPGRAM_PATH)],
            metrics=service.metrics,
            ready=lambda: preloaded.is_set() and service.ready,
            describe=lambda: describe_server(service),
            origins=access.origins,
        )

    # What makes no sense in this setting is to be told at once.
    app = build_http() if settings.openai_voices else _when_asked(build_http)
    http = HttpBridge(app, max_body_bytes=settings.max_message_bytes, scheme="http" if tls is None else "https")
    listener = Listener(
        settings, session, http, access=access, told=service.metrics.told, tls=tls, turns_away=service.turns_away
    )
    wyoming = _wyoming(service, sessions) if settings.wyoming_port else None
    service.metrics.read_with(lambda: _reading(listener, service))
    async with trio.open_nursery() as nursery:
        accepting = trio.CancelScope()
        if own_process:
            await nursery.start(_obey_signals, accepting, nursery.cancel_scope)
        await nursery.start(catalog.run)
        sockets = await trio.open_tcp_listeners(settings.port, host=settings.host, backlog=BACKLOG)
        address = ServerAddress(*sockets[0].socket.getsockname()[:2])
        if wyoming is not None:
            wyoming_sockets = await trio.open_tcp_listeners(settings.wyoming_port, host=settings.host, backlog=BACKLOG)
            address = replace(address, wyoming_port=settings.wyoming_port)
            log.info("wyoming.listening", host=address.host, port=address.wyoming_port)
        _warn_if_open(settings, access)
        log.info(
            "server.listening",
            host=address.host,
            port=address.port,
            version=__version__,
            tls=tls is not None,
            keys=access.key_count,
        )
        nursery.start_soon(_preload, catalog, preload, preloaded)
        nursery.start_soon(service.metrics.watch_loop)
        nursery.start_soon(service.admission.run)
        nursery.start_soon(service.health.run)
        if own_process:
            nursery.start_soon(_settle_in)
        task_status.started(address)
        async with trio.open_nursery() as connections:
            with accepting:
                async with trio.open_nursery() as ports:
                    ports.start_soon(listener.run, sockets, connections)
                    if wyoming is not None:
                        ports.start_soon(service.voices.warm_up)
                        ports.start_soon(listener.run_other, wyoming_sockets, wyoming, connections)
            service.draining = True
            log.info("server.draining", requests=service.active, connections=listener.connections)
            connections.start_soon(sessions.drain, settings.drain_s)
            connections.start_soon(listener.drain, settings.drain_s)
        log.info("server.stopped")
        nursery.cancel_scope.cancel(reason="stopped")


def _when_asked(build: Callable[[], ASGIApp]) -> ASGIApp:
    """The application that `build` makes once somebody asks it something."""
    built: ASGIApp | None = None

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        nonlocal built
        built = built or build()
        await built(scope, receive, send)

    return app


async def _settle_in() -> None:
    """Do what nobody who waits for the server to listen has to wait for: a tenth of a second."""
    await trio.to_thread.run_sync(_import_http)
    tune_garbage_collection()


def _import_http() -> None:
    for name in ("app", "dialects.deepgram", "dialects.openai"):
        importlib.import_module(f"tts_provider.server.{name}")


def _wyoming(service: SpeechService, sessions: Sessions) -> Serve:
    """The dialect that speaks Wyoming, imported only where it is wanted: its package is optional."""
    try:
        from tts_provider.server.dialects.wyoming import serve_wyoming
    except ImportError as error:
        raise SettingsError("wyoming_port needs the package wyoming (1.7 or later): pip install -U wyoming") from error
    return serve_wyoming(service, sessions)


def _reading(listener: Listener, service: SpeechService) -> Reading:
    """What the metrics read when somebody asks for them."""
    catalog, admission = service.catalog, service.admission
    engines = []
    for entry in catalog.entries:
        engine = catalog.loaded(entry.name)
        slots = admission.total(engine) if engine is not None else None
        state = service.health.state(entry.name)
        engines.append(EngineReading(entry.name, state, slots, admission.occupancy(entry.name)))
    return Reading(listener.connections, listener.turned_away, listener.faults, tuple(engines))


async def _obey_signals(
    accepting: trio.CancelScope, everything: trio.CancelScope, *, task_status: trio.TaskStatus[None]
) -> None:
    """Cancel `accepting` at the first signal and `everything` at the second."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            log.info("server.signal", signal=signal.Signals(number).name)
            if accepting.cancel_called:
                everything.cancel(reason="second signal")
            accepting.cancel(reason="signal")


async def _preload(catalog: Catalog, names: list[str], done: trio.Event) -> None:
    """Load `names`. One that cannot be loaded is logged and left for its first request to tell."""
    for name in names:
        try:
            await catalog.preload(name)
        except TTSError as error:
            log.error("engine.preload_failed", engine=name, error=error.message)
    done.set()


def _warn_if_open(settings: Settings, access: Access) -> None:
    if is_loopback(settings.host):
        return
    if not access.key_count:
        log.warning(
            "server.open",
            host=settings.host,
            hint="Everybody who reaches this address may use the server, as it asks for no key. Set TTS_API_KEYS.",
        )
    elif settings.wyoming_port:
        log.warning(
            "wyoming.open",
            host=settings.host,
            port=settings.wyoming_port,
            hint="Wyoming knows no keys: everybody who reaches this port may use the server. Let a firewall choose who does.",
        )


def tune_garbage_collection() -> None:
    """Keep the collector from walking the modules again and again: 49 down to 37 microseconds a frame with 500 clients.

    What is young is looked at in small portions, a few milliseconds each in which nobody is served; what survives that, seldom:
    of cycles, mostly tracebacks of what was cancelled, some 10 MB gather in ten busy minutes before they are freed.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 100, 10)
