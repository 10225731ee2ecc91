"""Finding libespeak-ng, and saying clearly that it is not there."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tts_provider.engines.espeak import EspeakEngine, availability
from tts_provider.engines.espeak.library import Library, check_version, find_library
from tts_provider.errors import EngineUnavailable

INSTALL = r'pip install "tts-provider\[espeak\]"'


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without any espeak-ng."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(Path, "is_file", lambda self: False)


async def load(engine: EspeakEngine) -> None:
    await engine.run(lambda done, doing: None, task_status=trio.TASK_STATUS_IGNORED)


def test_the_packaged_library_is_found() -> None:
    assert availability() is None
    found = find_library()
    assert Path(found.path).is_file()
    assert Path(found.data).is_dir()


async def test_without_any_library_the_engine_says_what_to_install(nothing_installed: None) -> None:
    reason = availability()
    assert reason is not None
    with pytest.raises(EngineUnavailable, match=INSTALL) as caught:
        await load(EspeakEngine())
    assert caught.value.message == reason
    assert not caught.value.retryable


def test_the_systems_library_serves_without_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("LD_LIBRARY_PATH", f":{tmp_path}")
    (tmp_path / "libespeak-ng.so.1").touch()
    assert find_library() == Library(str(tmp_path / "libespeak-ng.so.1"), "")


async def test_a_configured_library_that_is_not_there_is_no_other_library(tmp_path: Path) -> None:
    bogus = str(tmp_path / "libespeak-ng.so")
    assert availability(bogus) is not None
    with pytest.raises(EngineUnavailable, match="configured") as caught:
        await load(EspeakEngine(library=bogus))
    assert bogus not in caught.value.message


async def test_a_file_that_is_no_library_makes_the_engine_unavailable(tmp_path: Path) -> None:
    bogus = tmp_path / "libespeak-ng.so"
    bogus.write_bytes(b"no library")
    with pytest.raises(EngineUnavailable, match=INSTALL) as caught:
        await load(EspeakEngine(library=str(bogus)))
    assert str(tmp_path) not in caught.value.message


async def test_data_that_are_not_there_make_the_engine_unavailable(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable):
        await load(EspeakEngine(data=str(tmp_path / "missing")))


async def test_a_configured_library_with_its_data_is_used(nursery: trio.Nursery) -> None:
    found = find_library()
    engine = EspeakEngine(library=found.path, data=found.data)
    await nursery.start(engine.run, lambda done, doing: None)
    assert len(engine.voices()) > 100


def test_the_version_that_crashes_on_ordinary_text_is_refused() -> None:
    check_version("1.52.0")
    check_version("1.51")
    with pytest.raises(EngineUnavailable, match=r"1\.53\.0 crashes"):
        check_version("1.53.0")


def test_looking_for_the_library_loads_nothing() -> None:
    """Neither the package that carries it, nor the library, comes into the server's process."""
    program = (
        "import sys; from tts_provider.engines.espeak import availability; availability();"
        "print('espeakng_loader' in sys.modules);"
        "maps = open('/proc/self/maps').read() if sys.platform == 'linux' else ''; print('espeak-ng' in maps)"
    )
    root = Path(__file__).parents[3]
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root)
    assert result.stdout.split() == ["False", "False"]
