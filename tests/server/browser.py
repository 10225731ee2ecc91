"""A headless Chromium for tests, driven over its debugging protocol; and what of that protocol is needed."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import trio
from trio_websocket import WebSocketConnection, open_websocket_url

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # containers run tests as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--mute-audio",
    "--remote-debugging-port=0",
    "--window-size=900,1100",
)
START_S = 60
"""Chromium's first start on a busy machine."""


@dataclass
class Page:
    """One tab."""

    websocket: WebSocketConnection
    requests: list[str] = field(default_factory=list)
    """The addresses that the page asked for."""
    problems: list[str] = field(default_factory=list)
    """What it wrote to the console as an error."""
    _ids: Any = field(default_factory=lambda: itertools.count(1))

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a protocol's method."""
        number = next(self._ids)
        await self.websocket.send_message(msgspec.json.encode({"id": number, "method": method, "params": parameters}).decode())
        while True:
            message = msgspec.json.decode(await self.websocket.get_message(), type=dict[str, Any])
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        match message["method"]:
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Network.webSocketCreated":
                self.requests.append(parameters["url"])
            case "Runtime.exceptionThrown":
                self.problems.append(parameters["exceptionDetails"]["exception"].get("description", "?"))
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                self.problems.append(parameters["entry"]["text"])

    async def open(self, url: str) -> None:
        for domain in ("Page", "Network", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def value(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def text(self, selector: str) -> str:
        return str(await self.value(f"document.querySelector({selector!r}).textContent"))

    async def until(self, expression: str, seconds: float = 30) -> None:
        """Wait until an expression is true."""
        with trio.move_on_after(seconds):
            while not await self.value(expression):  # noqa: ASYNC110  # the page tells of nothing
                await trio.sleep(0.05)
            return
        raise AssertionError(f"{expression} did not come true; the page says {await self.value('document.body.innerText')!r}")

    async def click(self, selector: str) -> None:
        """A real click, which counts as the user's wish to hear audio."""
        box = await self.value(
            f"(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'center'}});"
            " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    async def key(self, key: str, code: int, *, text: str = "", modifiers: int = 0) -> None:
        """A real key stroke. `modifiers`: 2 for Ctrl."""
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        await self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **common)


@asynccontextmanager
async def browser(folder: Path, *flags: str) -> AsyncIterator[Page]:
    """A Chromium with one empty tab and its profile in `folder`."""
    assert CHROMIUM is not None
    process = await trio.lowlevel.open_process(
        [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        address = await _address(folder)
        async with open_websocket_url(address, max_message_size=2**26, message_queue_size=1000) as websocket:
            yield Page(websocket)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def _address(folder: Path) -> str:
    """The tab's address, once Chromium has written down its port."""
    file = folder / "DevToolsActivePort"
    with trio.fail_after(START_S):
        while not (file.exists() and file.read_text().count("\n") >= 1):  # noqa: ASYNC110  # a tiny local file
            await trio.sleep(0.05)
        port = file.read_text().split()[0]
        async with httpx.AsyncClient() as client:
            while True:
                for target in (await client.get(f"http://127.0.0.1:{port}/json")).json():
                    if target["type"] == "page":
                        return str(target["webSocketDebuggerUrl"])
                await trio.sleep(0.05)
