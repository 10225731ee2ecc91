"""The service's list of voices: fetched once a day, kept on disk between runs."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal

import h11
import msgspec
import structlog
import trio

from tts_provider.engines.edge import service
from tts_provider.engines.edge.dial import Dialer
from tts_provider.engines.edge.voices import ListedVoice, listed

__all__ = ["VoiceCache", "VoicesUnavailable", "default_cache_directory", "fetch_voices", "keep_voices_fresh"]

MAX_LIST_BYTES: Final = 4 << 20
"""The list has 160 KB."""
MIN_VOICES: Final = 10
"""A list with fewer is a fault of the service, as it was in November 2025, and must not replace a good one."""
RECEIVE_BYTES: Final = 65_536
REFRESH_S: Final = 24 * 3600.0
TRY_AGAIN_S: Final = 60.0
"""After a failure; doubled with each further one."""
TRY_AGAIN_AT_MOST_S: Final = 3600.0

_log = structlog.get_logger(__name__)


class VoicesUnavailable(Exception):
    """The list cannot be had now."""


class _Forbidden(VoicesUnavailable):
    def __init__(self, date: str | None) -> None:
        super().__init__("HTTP 403")
        self.date = date


class _Entry(msgspec.Struct):
    """A voice in the service's JSON."""

    short_name: str = msgspec.field(name="ShortName")
    full_name: str = msgspec.field(name="Name")
    locale: str = msgspec.field(name="Locale")
    gender: Literal["Female", "Male"] = msgspec.field(name="Gender")


class _Kept(msgspec.Struct):
    """The list on disk."""

    fetched_at: float
    """Seconds since 1970."""
    voices: list[_Entry]


def _listed(entries: Sequence[_Entry]) -> list[ListedVoice]:
    voices = []
    for entry in entries:
        voice = listed(entry.short_name, entry.full_name, entry.locale, "female" if entry.gender == "Female" else "male")
        if voice is not None:
            voices.append(voice)
    return voices


async def fetch_voices(dialer: Dialer, timeout_s: float) -> list[ListedVoice]:
    """The list as the service has it now.

    Raises:
        VoicesUnavailable: it does not answer, or with something else.
    """
    try:
        with trio.fail_after(timeout_s):
            try:
                body = await _get(dialer)
            except _Forbidden as refusal:
                if not service.correct_clock(refusal.date):
                    raise
                body = await _get(dialer)
    except trio.TooSlowError as error:
        raise VoicesUnavailable("too slow") from error
    except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError) as error:
        raise VoicesUnavailable("not reachable") from error
    try:
        voices = _listed(msgspec.json.decode(body, type=list[_Entry]))
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise VoicesUnavailable("not a list of voices") from error
    if len(voices) < MIN_VOICES:
        raise VoicesUnavailable(f"only {len(voices)} voices")
    return voices


async def _get(dialer: Dialer) -> bytes:
    """The body of one GET over a connection of its own."""
    http = h11.Connection(h11.CLIENT)
    headers = [(b"Host", dialer.address.netloc.encode()), (b"Connection", b"close"), *service.voices_headers()]
    request = http.send(h11.Request(method=b"GET", target=service.voices_target().encode(), headers=headers))
    stream = await dialer.dial()
    body = bytearray()
    try:
        await stream.send_all((request or b"") + (http.send(h11.EndOfMessage()) or b""))
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(bytes(await stream.receive_some(RECEIVE_BYTES)))
            elif isinstance(event, h11.Response):
                if event.status_code == 403:
                    date = dict(event.headers).get(b"date")
                    raise _Forbidden(None if date is None else date.decode("latin-1"))
                if event.status_code != 200:
                    raise VoicesUnavailable(f"HTTP {event.status_code}")
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_LIST_BYTES:
                    raise VoicesUnavailable("too long")
            elif isinstance(event, h11.EndOfMessage):
                return bytes(body)
            elif not isinstance(event, h11.InformationalResponse):
                raise VoicesUnavailable("no answer")
    finally:
        await trio.aclose_forcefully(stream)


def default_cache_directory() -> Path:
    """Where the list is kept: ``tts_provider`` in the user's cache directory.

    Raises:
        RuntimeError: there is no home directory.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache") / "tts_provider"


class VoiceCache:
    """The list on disk. Its methods block; none of them fails."""

    def __init__(self, directory: Path, server: str) -> None:
        """Keep the list of `server` (host and port) in `directory`; a fake's list is never taken for Microsoft's."""
        self._path = directory / f"edge-voices-{re.sub('[^A-Za-z0-9.-]', '_', server)}.json"

    def load(self) -> tuple[float, list[ListedVoice]] | None:
        """Age in seconds and voices of the list; None when there is no good one."""
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=_Kept)
        except (OSError, msgspec.DecodeError, msgspec.ValidationError):
            return None
        voices = _listed(kept.voices)
        return (max(0.0, time.time() - kept.fetched_at), voices) if len(voices) >= MIN_VOICES else None

    def store(self, voices: Sequence[ListedVoice]) -> None:
        """Keep a list that was just fetched; readers see the old or the new one, never a part."""
        entries = [
            _Entry(
                short_name=voice.voice.id,
                full_name=voice.full_name,
                locale=voice.voice.language,
                gender="Female" if voice.voice.gender == "female" else "Male",
            )
            for voice in voices
        ]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._path.parent, delete=False) as file:
                file.write(msgspec.json.encode(_Kept(time.time(), entries)))
            os.replace(file.name, self._path)
        except OSError as error:
            _log.debug("edge voices not kept", reason=str(error))


async def keep_voices_fresh(
    dialer: Dialer,
    cache: VoiceCache | None,
    age_s: float | None,
    timeout_s: float,
    limiter: trio.CapacityLimiter,
    use: Callable[[Sequence[ListedVoice]], None],
) -> None:
    """Fetch the list when the one at hand is older than a day, and give it to `use`; for ever.

    Args:
        dialer: leads to the service.
        cache: where it is kept, if anywhere.
        age_s: how old the list at hand is; None when there is only the snapshot.
        timeout_s: for each fetch.
        limiter: for writing to disk.
        use: called with each new list.
    """
    wait_s = 0.0 if age_s is None else max(0.0, REFRESH_S - age_s)
    failures = 0
    while True:
        await trio.sleep(wait_s)
        try:
            voices = await fetch_voices(dialer, timeout_s)
        except VoicesUnavailable as error:
            wait_s = min(TRY_AGAIN_S * 2**failures, TRY_AGAIN_AT_MOST_S)
            failures = min(failures + 1, 10)
            _log.info("edge voices not refreshed", reason=str(error), retry_s=wait_s)
            continue
        failures = 0
        wait_s = REFRESH_S
        use(voices)
        if cache is not None:
            await trio.to_thread.run_sync(cache.store, voices, limiter=limiter)
