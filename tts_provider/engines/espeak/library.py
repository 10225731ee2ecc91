"""Where libespeak-ng is: looked for, never loaded, in this process."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tts_provider.errors import EngineUnavailable

__all__ = ["INSTALL", "Library", "availability", "check_version", "find_library"]

INSTALL: Final = 'Install it with: pip install "tts-provider[espeak]"'
"""What to do when espeak-ng is missing."""

_REFUSED_VERSIONS: Final = ("1.53.0",)
"""Segfaults on ordinary text in dozens of voices, by its own project's account; 1.52.0 and 1.51 do not."""

_LOADER: Final = "espeakng_loader"
"""A package that only carries the library and its data."""

_CARRIED_NAMES: Final = {"win32": "espeak-ng.dll", "darwin": "libespeak-ng.dylib"}
_SYSTEM_NAMES: Final = {"win32": "libespeak-ng.dll", "darwin": "libespeak-ng.1.dylib"}


@dataclass(frozen=True, slots=True)
class Library:
    """A library and its data, as a worker is told of them."""

    path: str
    data: str
    """Directory of the voices; empty for the one that was built into the library."""


def find_library(library: str | None = None, data: str | None = None) -> Library:
    """The library to use: the configured one, else the one of espeakng_loader, else the system's.

    Raises:
        EngineUnavailable: there is none; the message says how to install one.
    """
    if library is not None:
        if not Path(library).is_file():
            raise EngineUnavailable("The configured espeak-ng library does not exist.", retryable=False)
        return Library(os.path.abspath(library), os.path.abspath(data) if data else "")
    found = _carried() or _installed()
    if found is None:
        raise EngineUnavailable(f"espeak-ng is not installed. {INSTALL}", retryable=False)
    return Library(found.path, os.path.abspath(data)) if data else found


def availability(library: str | None = None, data: str | None = None) -> str | None:
    """None when the engine can be expected to load, else a sentence with what to do; starts and loads nothing."""
    try:
        find_library(library, data)
    except EngineUnavailable as error:
        return error.message
    return None


def check_version(version: str) -> None:
    """Accept the version that a loaded library told.

    Raises:
        EngineUnavailable: this version must not be used.
    """
    if version in _REFUSED_VERSIONS:
        raise EngineUnavailable(f"espeak-ng {version} crashes on ordinary text and is not used. {INSTALL}", retryable=False)


def _carried() -> Library | None:
    # find_spec of a top-level package reads directories only: the package, which would load the library's wrapper, is not run.
    spec = importlib.util.find_spec(_LOADER)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / _CARRIED_NAMES.get(sys.platform, "libespeak-ng.so")
        if path.is_file():
            return Library(str(path), str(path.with_name("espeak-ng-data")))
    return None


def _installed() -> Library | None:
    # Not ctypes.util.find_library: it starts ldconfig or a compiler.
    for folder in _system_folders():
        path = folder / _SYSTEM_NAMES.get(sys.platform, "libespeak-ng.so.1")
        if path.is_file():
            return Library(str(path), "")
    return None


def _system_folders() -> Iterator[Path]:
    if sys.platform == "win32":
        yield Path(os.environ.get("PROGRAMFILES", "C:/Program Files")) / "eSpeak NG"
        return
    for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":"):
        if folder:
            yield Path(folder)
    yield Path("/usr/local/lib")
    if sys.platform == "darwin":
        yield Path("/opt/homebrew/lib")
        return
    yield from sorted(Path("/usr/lib").glob("*-linux-gnu*"))  # Debian and its family
    yield Path("/usr/lib64")
    yield Path("/usr/lib")
