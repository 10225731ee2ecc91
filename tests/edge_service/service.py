"""The fake as tests and benchmarks use it: a server in a thread of its own, for as long as a ``with`` block lasts."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Final

from aiohttp import web

from tests.edge_service.certificate import server_context
from tests.edge_service.journal import Journal
from tests.edge_service.plan import Plan
from tests.edge_service.server import EdgeServer, Settings

__all__ = ["EdgeService", "serve"]

START_TIMEOUT_S: Final = 10.0
STOP_TIMEOUT_S: Final = 10.0
GOODBYE_S: Final = 0.1
"""How long open connections get when the fake stops."""


async def serve(
    settings: Settings, plan: Plan, journal: Journal, *, port: int = 0, tls: bool = False
) -> tuple[web.AppRunner, int]:
    """Start a fake on the running loop; returns what stops it (``await runner.cleanup()``) and its port."""
    server = EdgeServer(settings, plan, journal)
    runner = web.AppRunner(
        server.application(), access_log=None, handler_cancellation=True, shutdown_timeout=GOODBYE_S, keepalive_timeout=1.0
    )
    await runner.setup()
    context = None
    if tls:
        context = server_context()
    site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=context, backlog=1024)
    await site.start()
    return runner, runner.addresses[0][1]


class EdgeService:
    """A fake of the service on a free port of 127.0.0.1.

        with EdgeService(Settings(first_byte_s=0.3, pace=20.0)) as service:
            service.plan.add(Rule("drop", times=1))
            ... speak over service.endpoint ...
            service.journal.wait("left")

    `settings` and `plan` may be changed while it runs.
    """

    def __init__(self, settings: Settings | None = None, *, tls: bool = False) -> None:
        self.settings = settings or Settings()
        self.plan = Plan()
        self.journal = Journal()
        self.port = 0
        self._tls = tls
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="edge service", daemon=True)

    @property
    def endpoint(self) -> str:
        """Scheme, host and port, as `EdgeEngine` takes them."""
        return f"{'wss' if self._tls else 'ws'}://127.0.0.1:{self.port}"

    @property
    def http_endpoint(self) -> str:
        """The same for plain HTTP."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> EdgeService:
        self._thread.start()
        if not self._started.wait(START_TIMEOUT_S) or self._failure is not None:
            raise RuntimeError("the fake service did not start") from self._failure
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self._failure = error
            self._started.set()
            raise

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        runner, self.port = await serve(self.settings, self.plan, self.journal, tls=self._tls)
        self._started.set()
        await self._stop.wait()
        await runner.cleanup()
