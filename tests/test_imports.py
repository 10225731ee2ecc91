"""The house's rule: imports point one way, and the light parts stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tts_provider

ROOT = Path(tts_provider.__file__).parent

ALLOWED = {
    "errors": set(),
    "settings": {"redaction"},
    "logs": {"redaction"},
    "redaction": set(),
    "turnstile": set(),
    "playback": set(),
    "messages": {"errors", "messages"},
    "client": {"errors", "messages", "client"},
    "say": {"client", "playback"},
    "doctor": {"errors", "settings", "engines", "server"},
    "engines": {"errors", "engines", "turnstile"},
    "streaming": {"errors", "streaming", "engines.base"},
    "server": {"errors", "settings", "messages", "engines", "streaming", "server", "turnstile"},
    "cli_errors": {"client", "errors", "playback", "settings"},
    "cli": {"*"},
    "__main__": {"cli"},
    "": {"client", "errors"},
}
"""What each room of the package may import of it. `server` is refined below."""

HEAVY = ("torch", "transformers", "torchaudio", "aiohttp", "edge_tts", "av", "soundfile", "espeakng_loader", "miniaudio")


def modules() -> Iterator[tuple[str, str]]:
    """Each module of the package and each of the package's modules that it imports, without the package's name."""
    for file in sorted(ROOT.rglob("*.py")):
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "tts_provider":
                target = node.module.removeprefix("tts_provider").lstrip(".")
                yield from ((name, f"{target}.{alias.name}".lstrip(".")) for alias in node.names)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    assert not alias.name.startswith("tts_provider."), f"{name} imports {alias.name} without 'from'"


def room(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize(("module", "target"), sorted(set(modules())))
def test_imports_point_one_way(module: str, target: str) -> None:
    """A module imports only the rooms below its own."""
    if target == "__version__":
        return
    rooms = ALLOWED[room(module)]
    assert "*" in rooms or any(target == allowed or target.startswith(f"{allowed}.") for allowed in rooms)


@pytest.mark.parametrize(("module", "target"), sorted(set(modules())))
def test_dialects_do_not_know_each_other(module: str, target: str) -> None:
    """A dialect imports nothing of another, and only the lifecycle imports dialects."""
    if not target.startswith("server.dialects."):
        return
    dialect = target.split(".")[2].partition("_")[0]
    if module.startswith("server.dialects."):
        assert module.split(".")[2].partition("_")[0] == dialect
    else:
        assert module == "server.lifecycle"


@pytest.mark.parametrize(("module", "target"), sorted(set(modules())))
def test_engines_do_not_know_each_other(module: str, target: str) -> None:
    """An engine imports the contract, what engines share, and itself."""
    shared = {"base", "languages", "voices", "codec_lm"}
    if module.startswith("engines.") and target.startswith("engines."):
        assert target.split(".")[1] in shared | {module.split(".")[1]}


def test_serving_imports_nothing_heavy() -> None:
    """What `python -m tts_provider` imports before it listens holds no torch, no codec and no HTTP client."""
    program = f"import sys, tts_provider.server.lifecycle, tts_provider.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
