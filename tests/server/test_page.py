"""The page in a real browser: every sample is heard, at once, by click and by key, with and without a secure context."""

from __future__ import annotations

import base64
import io
import shutil
import wave
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.conftest import RunningServer, StartServer
from tests.fake_engine import FakeEngine, entry
from tests.server.browser import CHROMIUM, Page, browser
from tests.server.waiting import until
from tts_provider.engines.base import Capabilities

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]

DONE = "document.querySelector('#status').textContent === 'Done.'"
SPEAKING = "document.querySelector('#status').textContent === 'Speaking.'"
LOADED = "document.querySelector('#voice').options.length > 1"

EXACT = Capabilities(sample_rate=22_050, speed=True, word_timings="exact")
TEXT = "Hello there, 👍 wörld. How are you?"


@pytest.fixture
def profile() -> Iterator[Path]:
    """An empty folder. Chromium may still write into it while it is removed, which `tmp_path` does not forgive."""
    folder = Path(mkdtemp(prefix="chromium-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def page_of(server: RunningServer, profile: Path, *flags: str, host: str | None = None) -> AsyncIterator[Page]:
    """The page, loaded; and nothing may have gone wrong in it at the end."""
    async with browser(profile, *flags) as page:
        await page.open(f"http://{host or server.address.host}:{server.address.port}/")
        await page.until(LOADED)
        yield page
        assert page.problems == []


async def write(page: Page, text: str) -> None:
    await page.value(f"document.querySelector('#text').value = {text!r}")


async def samples(page: Page) -> tuple[int, int]:
    """How many were rendered, and how many came."""
    played, received = (await page.text("#samples")).split(" of ")
    return int(played), int(received)


async def test_all_that_was_sent_is_heard(start_server: StartServer, profile: Path) -> None:
    """A click starts it under the browser's autoplay rules; all samples are rendered, none is missed; the WAV holds them."""
    engine = FakeEngine(block_delay_s=0.02, capabilities=EXACT)
    server = await start_server(engine)
    async with page_of(server, profile) as page:
        assert await page.value("new AudioContext().state") == "suspended"  # the rules are in force
        await write(page, TEXT)
        await page.click("#play")
        await page.until("document.querySelector('mark') && document.querySelector('mark').textContent === 'wörld'")
        await page.until(DONE)
        played, received = await samples(page)
        assert played == received > 22_050
        assert (await page.text("#underruns"), await page.text("#player")) == ("0", "AudioWorklet")
        assert (await page.text("#first-audio")).endswith(" ms")
        assert await page.text("#past") == TEXT
        assert await page.value(
            "(c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(Boolean))"
            "(document.querySelector('#waveform'))"
        )
        encoded = await page.value(
            "current.wav().arrayBuffer().then(b => btoa(Array.from(new Uint8Array(b), c => String.fromCharCode(c)).join('')))"
        )
        with wave.open(io.BytesIO(base64.b64decode(encoded))) as file:
            assert (file.getframerate(), file.getnframes(), file.getnchannels()) == (22_050, received, 1)
        assert all(f"//{server.address.host}:{server.address.port}/" in request for request in page.requests)


async def test_a_page_without_a_secure_context_plays_too(start_server: StartServer, profile: Path) -> None:
    """As people see it who open http://name:9000 in their own network: no AudioWorklet there."""
    server = await start_server(FakeEngine(block_delay_s=0.02))
    flag = "--host-resolver-rules=MAP tts.test 127.0.0.1"
    async with page_of(server, profile, flag, host="tts.test") as page:
        assert await page.value("isSecureContext") is False
        await page.click("#play")
        await page.until(DONE)
        played, received = await samples(page)
        assert played == received > 24_000
        assert (await page.text("#underruns"), await page.text("#player")) == ("0", "AudioBufferSourceNode")


@pytest.mark.parametrize("host", [None, "tts.test"], ids=["worklet", "fallback"])
async def test_stop_stops_the_engine(start_server: StartServer, profile: Path, host: str | None) -> None:
    """By the button and by Escape; then the page can be asked again, and once more in the middle of that."""
    engine = FakeEngine(block_delay_s=0.04)
    server = await start_server(engine)
    async with page_of(server, profile, "--host-resolver-rules=MAP tts.test 127.0.0.1", host=host) as page:
        await write(page, "A text that takes a while to be spoken. " * 10)
        await page.click("#text")
        await page.key("Enter", 13, text="\r", modifiers=2)
        await page.until(SPEAKING)
        await page.click("#stop")
        await until(lambda: engine.saying == 0)
        await page.until("document.querySelector('#stop').disabled")
        await page.click("#play")
        await page.until(SPEAKING)
        await write(page, "Short.")
        await page.click("#play")
        await page.until(DONE)
        played, received = await samples(page)
        assert played == received < 24_000
        await write(page, "A text that takes a while to be spoken. " * 10)
        await page.click("#play")
        await page.until(SPEAKING)
        await page.key("Escape", 27)
        await until(lambda: engine.saying == 0)
        assert await page.text("#status") == "Stopped."
        assert not await page.value("document.querySelector('#download').disabled")


async def test_an_engine_slower_than_speech_is_counted_and_heard_to_the_end(start_server: StartServer, profile: Path) -> None:
    """An underrun is shown, not hidden; nothing is lost by it."""
    server = await start_server(FakeEngine(block_delay_s=0.08))
    async with page_of(server, profile) as page:
        await write(page, "A text of some length.")
        await page.click("#play")
        await page.until(DONE)
        played, received = await samples(page)
        assert played == received
        assert int(await page.text("#underruns")) > 0


async def test_models_languages_and_voices_are_offered(start_server: StartServer, profile: Path) -> None:
    """Those that cannot be had are shown with the reason; the choice is what the engine is asked for."""
    engine = FakeEngine(block_delay_s=0.01)
    server = await start_server(engine, entry(FakeEngine("absent"), unavailable=lambda: "pip install it"))
    async with page_of(server, profile) as page:
        options = "[...document.querySelector('%s').options].map(o => [o.label, o.disabled])"
        assert await page.value(options % "#model") == [["fake", False], ["absent (pip install it)", True]]
        await page.value("(e => { e.value = 'ja-JP'; e.onchange(); })(document.querySelector('#language'))")
        assert await page.value(options % "#voice") == [["Default", False], ["Tone C (female)", False]]
        await page.value("document.querySelector('#voice').value = 'tone-c'")
        await write(page, "こんにちは。")
        await page.click("#play")
        await page.until(DONE)
    assert engine.said == ["こんにちは。"]


async def test_an_error_is_shown(start_server: StartServer, profile: Path) -> None:
    server = await start_server(FakeEngine(faults={"broken": "before"}))
    async with page_of(server, profile) as page:
        await write(page, "This is broken.")
        await page.click("#play")
        await page.until("document.querySelector('#alert').textContent !== ''")
        assert await page.text("#alert") == "The fake engine failed before the audio."
        await write(page, "This is not.")
        await page.click("#play")
        await page.until(DONE)
        assert await page.text("#alert") == ""


async def test_a_server_with_keys_has_the_page_ask_for_one(start_server: StartServer, profile: Path) -> None:
    """A wrong one is told; the right one opens HTTP and the WebSocket, is kept for a reload, and is in no address."""
    key = "a+key/of=(ours)%21"
    server = await start_server(FakeEngine(block_delay_s=0.01), api_keys=(key,))
    async with browser(profile) as page:
        await page.open(f"http://{server.address.host}:{server.address.port}/")
        for attempt, said in (("wrong", "The server does not know this key."), (key, "")):
            await page.until("document.activeElement.id === 'key'")
            await page.value(f"document.querySelector('#key').value = {attempt!r}")
            await page.key("Enter", 13, text="\r")
            await page.until(f"document.querySelector('#alert').textContent === {said!r}")
        await page.until(LOADED)
        await page.until("!document.querySelector('#key')")
        for _ in range(2):
            await write(page, "Short.")
            await page.click("#play")
            await page.until(DONE)
            await page.open(f"http://{server.address.host}:{server.address.port}/")  # a reload
            await page.until(LOADED)
        assert await page.value("sessionStorage.getItem('tts.key')") == key
        assert await page.value("localStorage.getItem('tts.key')") is None
        assert not any("ours" in request for request in page.requests)
        refusals = [problem for problem in page.problems if "401" in problem]
        assert refusals == page.problems  # the browser's own notes on what was refused


async def test_it_works_by_keyboard_and_fits_a_phone(start_server: StartServer, profile: Path) -> None:
    """Tab reaches every control in order, each has a name, and nothing is wider than the screen."""
    server = await start_server(FakeEngine())
    async with page_of(server, profile) as page:
        await page.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
        assert await page.value("document.documentElement.scrollWidth <= 360")
        assert await page.value("[...document.querySelectorAll('select, textarea, input')].every(e => e.labels.length === 1)")
        heights = await page.value("[...document.querySelectorAll('button, select')].map(e => e.offsetHeight)")
        assert min(heights) >= 44
        await page.value("document.querySelector('#text').focus()")
        reached = []
        for _ in range(5):
            await page.key("Tab", 9)
            reached.append(await page.value("document.activeElement.id"))
        assert reached == ["model", "language", "voice", "speed", "play"]
        await page.key("Enter", 13, text="\r")
        await page.until(DONE)
