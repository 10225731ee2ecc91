"""The service's list of voices, fetched and kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.edge_service import EdgeService, Settings, VoicesAnswer
from tests.edge_service.voices import voice_list
from tests.engines.edge.harness import QUICK, engine_on, happened, say
from tts_provider.engines.base import VoiceRequest
from tts_provider.engines.edge import EdgeEngine
from tts_provider.engines.edge.dial import Address, Dialer
from tts_provider.engines.edge.voice_list import (
    VoiceCache,
    VoicesUnavailable,
    default_cache_directory,
    fetch_voices,
    keep_voices_fresh,
)
from tts_provider.engines.edge.voices import Catalogue, ListedVoice
from tts_provider.errors import UnknownSpeaker

GONE = frozenset({"ja-JP-KeitaNeural"})


def files_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def fetch_from(service: EdgeService) -> Dialer:
    return Dialer(Address.parse(service.endpoint))


async def test_the_whole_list_is_fetched(service: EdgeService) -> None:
    voices = await fetch_voices(fetch_from(service), 5)
    assert len(voices) == 322
    guy = next(voice for voice in voices if voice.voice.id == "en-US-GuyNeural")
    assert guy.full_name == "Microsoft Server Speech Text to Speech Voice (en-US, GuyNeural)"
    assert (guy.voice.gender, guy.voice.language) == ("male", "en-US")


async def test_a_wrong_clock_is_corrected(service: EdgeService) -> None:
    service.settings.clock_offset_s = -7200
    assert len(await fetch_voices(fetch_from(service), 5)) == 322


async def test_a_chunked_list_is_understood(service: EdgeService) -> None:
    service.settings.voices = VoicesAnswer(chunked=True)
    assert len(await fetch_voices(fetch_from(service), 5)) == 322


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(VoicesAnswer(body=b"[]"), id="empty"),
        pytest.param(VoicesAnswer(body=json.dumps(voice_list()[:3]).encode()), id="nearly empty"),
        pytest.param(VoicesAnswer(body=b"<html>"), id="not JSON"),
        pytest.param(VoicesAnswer(body=b'{"voices": []}'), id="another shape"),
        pytest.param(VoicesAnswer(body=b'[{"ShortName": 5}]'), id="another type"),
        pytest.param(VoicesAnswer(body=json.dumps(voice_list()).encode() + b" " * (5 << 20)), id="too long"),
        pytest.param(VoicesAnswer(status=403), id="refused"),
        pytest.param(VoicesAnswer(status=404), id="not there"),
        pytest.param(VoicesAnswer(status=503), id="down"),
        pytest.param(VoicesAnswer(delay_s=30), id="stalled"),
    ],
)
async def test_what_is_no_list_is_an_error(service: EdgeService, answer: VoicesAnswer) -> None:
    service.settings.voices = answer
    with pytest.raises(VoicesUnavailable):
        await fetch_voices(fetch_from(service), 0.5)


async def test_nobody_there_is_an_error() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    with pytest.raises(VoicesUnavailable):
        await fetch_voices(Dialer(Address("127.0.0.1", port, False)), 0.5)


async def test_a_voice_whose_name_would_break_the_ssml_is_left_out(service: EdgeService) -> None:
    evil = {**voice_list()[0], "ShortName": "xx-XX-EvilNeural", "Name": "Voice'><break time='10m'/><x y='"}
    service.settings.voices = VoicesAnswer(body=json.dumps([evil, *voice_list()]).encode())
    assert len(await fetch_voices(fetch_from(service), 5)) == 322


async def test_the_engine_starts_with_the_snapshot_and_learns_the_list(service: EdgeService, tmp_path: Path) -> None:
    service.settings.withdrawn = GONE
    async with engine_on(service, tmp_path) as engine:
        await happened(service, "voices")
        with trio.fail_after(5):
            while len(engine.voices()) == 322:  # noqa: ASYNC110 (nothing tells when it has been read)
                await trio.sleep(0.005)
        assert len(engine.voices()) == 321
        choice = engine.resolve(VoiceRequest("ja", 0))
        assert choice.voice.id == "ja-JP-NanamiNeural"
        assert choice.warnings
        assert (await say(engine, "こんにちは", request=VoiceRequest("ja", 0))).seconds > 0


async def test_a_broken_list_never_replaces_a_good_one(service: EdgeService, tmp_path: Path) -> None:
    service.settings.voices = VoicesAnswer(body=b"[]")
    async with engine_on(service, tmp_path) as engine:
        await happened(service, "voices")
        await trio.sleep(0.05)
        assert len(engine.voices()) == 322
        assert (await say(engine, "Still here.")).seconds > 0
    assert files_in(tmp_path) == []


async def test_the_list_is_kept_on_disk_and_used_by_the_next_start(tmp_path: Path) -> None:
    with EdgeService(Settings(withdrawn=GONE)) as service:
        async with engine_on(service, tmp_path):
            await happened(service, "voices")
            with trio.fail_after(5):
                while not files_in(tmp_path):  # noqa: ASYNC110
                    await trio.sleep(0.005)
        port = service.port
    engine = EdgeEngine(endpoint=f"ws://127.0.0.1:{port}", cache_dir=tmp_path, deadlines=QUICK)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run, lambda share, doing: None)
        assert len(engine.voices()) == 321, "nobody listens there any more"
        nursery.cancel_scope.cancel()


async def test_a_fresh_list_is_not_fetched_again(service: EdgeService, tmp_path: Path) -> None:
    async with engine_on(service, tmp_path):
        await happened(service, "voices")
        with trio.fail_after(5):
            while not files_in(tmp_path):  # noqa: ASYNC110
                await trio.sleep(0.005)
    async with engine_on(service, tmp_path) as engine:
        await say(engine, "Hello.")
    assert len(service.journal.events("voices")) == 1


async def test_it_is_fetched_once_a_day_and_sooner_after_a_failure(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    fetched: list[float] = []
    used: list[int] = []

    async def fetch(dialer: Dialer, timeout_s: float) -> list[ListedVoice]:
        fetched.append(trio.current_time())
        if len(fetched) in (2, 3):
            raise VoicesUnavailable("down")
        return []

    def use(voices: Sequence[ListedVoice]) -> None:
        used.append(len(fetched))

    monkeypatch.setattr("tts_provider.engines.edge.voice_list.fetch_voices", fetch)
    dialer = Dialer(Address("nobody", 1, False))
    with trio.move_on_after(80 * 3600):
        await keep_voices_fresh(dialer, None, 23 * 3600.0, 1.0, trio.CapacityLimiter(1), use)
    hour = 3600.0
    assert fetched == pytest.approx([1 * hour, 25 * hour, 25 * hour + 60, 25 * hour + 180, 49 * hour + 180, 73 * hour + 180])
    assert used == [1, 4, 5, 6]


def test_the_cache_tells_the_age_of_what_it_keeps(tmp_path: Path) -> None:
    cache = VoiceCache(tmp_path / "new" / "directory", "127.0.0.1:8080")
    assert cache.load() is None
    voices = [ListedVoice(voice, catalogue.full_name(voice)) for catalogue in [Catalogue()] for voice in catalogue.voices[:20]]
    cache.store(voices)
    kept = cache.load()
    assert kept is not None
    age_s, loaded = kept
    assert 0 <= age_s < 10
    assert loaded == voices
    assert files_in(tmp_path / "new" / "directory") == ["edge-voices-127.0.0.1_8080.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"fetched_at": 1, "voices": []}', bytes(1000)])
def test_a_broken_cache_is_no_cache(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "edge-voices-host.json").write_bytes(content)
    assert VoiceCache(tmp_path, "host").load() is None


def test_a_directory_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    VoiceCache(tmp_path / "file", "host").store([])


def test_the_cache_is_in_the_users_cache_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_directory() == tmp_path / "tts_provider"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_directory() == tmp_path / ".cache" / "tts_provider"


def test_an_unknown_voice_stays_unknown() -> None:
    with pytest.raises(UnknownSpeaker):
        EdgeEngine().resolve(VoiceRequest(voice="nobody"))
