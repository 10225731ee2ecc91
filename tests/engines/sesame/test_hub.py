"""Where the checkpoint comes from, and what is said when it cannot be had."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs the sesame extra")

from huggingface_hub import errors  # noqa: E402

from tts_provider.engines.sesame.hub import locate  # noqa: E402
from tts_provider.errors import EngineUnavailable  # noqa: E402


def ignore(share: float | None, doing: str) -> None:
    """A progress report that nobody reads."""


def write(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(json.dumps({}))
    return folder


def answer(status: int) -> Any:
    """What the hub's errors look at in a response, whichever HTTP client made it."""
    return SimpleNamespace(status_code=status, headers={}, request=None)


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, "config.json", "tokenizer.json", "model.safetensors")
    assert locate(str(tmp_path), ignore) == tmp_path


def test_what_a_folder_lacks_is_named_without_its_path(tmp_path: Path) -> None:
    write(tmp_path, "config.json", "ckpt.pt")
    with pytest.raises(EngineUnavailable, match=r"lacks tokenizer.json, \*.safetensors") as refused:
        locate(str(tmp_path), ignore)
    assert str(tmp_path) not in refused.value.message


@pytest.mark.parametrize("model", ["/no/such/folder", "./here", "one", "a/b/c", "~/csm"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_never_asked_for(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_: pytest.fail("the hub was asked"))
    with pytest.raises(EngineUnavailable, match="TTS_SESAME_MODEL"):
        locate(model, ignore)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (errors.GatedRepoError("gated", response=answer(403)), "Accept them .* set HF_TOKEN"),
        (errors.RepositoryNotFoundError("gone", response=answer(404)), "no model 'sesame/csm-1b'"),
        (errors.OfflineModeIsEnabled("offline"), "Go online once"),
        (errors.LocalEntryNotFoundError("not cached"), "Go online once"),
        (ConnectionError("unreachable"), "Go online once"),
        (errors.RemoteEntryNotFoundError("no file", response=answer(404)), "lacks files"),
        (errors.HfHubHTTPError("broken", response=answer(500)), "download .* failed"),
        (OSError(28, "No space left on device", "/home/someone/cache"), "download .* failed"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_way_to_fail_says_what_to_do_and_holds_no_secret(
    error: Exception, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")

    def fail(*args: Any, **kwargs: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(EngineUnavailable, match=advice) as refused:
        locate("sesame/csm-1b", ignore)
    assert "hf_secret" not in refused.value.message
    assert "/home" not in refused.value.message


def test_being_offline_is_told_by_the_real_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EngineUnavailable, match="Go online once"):
        locate("sesame/csm-1b", ignore)


def hub_with(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A hub that gives `folder` and uses its progress bar as the real one does; returns the patterns asked for."""
    asked: list[list[str]] = []

    def snapshot(repository: str, *, allow_patterns: list[str], tqdm_class: Any) -> str:
        asked.append(allow_patterns)
        with tqdm_class(desc="Downloading", total=0, initial=0, unit="B", unit_scale=True) as in_bytes:
            in_bytes.total += 200
            in_bytes.update(50)
            in_bytes.update(150)
        for _ in tqdm_class(range(3), desc="Fetching 3 files"):
            pass
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repository, name: str(folder / name))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return asked


def test_a_download_reports_its_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(tmp_path, "config.json", "tokenizer.json", "transformers-00001-of-00002.safetensors")
    hub_with(tmp_path, monkeypatch)
    told: list[tuple[float | None, str]] = []
    assert locate("sesame/csm-1b", lambda share, doing: told.append((share, doing))) == tmp_path
    assert told == [(None, "looking for the model"), (0.25, "downloading the model"), (1.0, "downloading the model")]


def test_only_one_of_the_two_copies_of_the_weights_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(tmp_path, "config.json", "tokenizer.json", "transformers-00001-of-00002.safetensors")
    asked = hub_with(tmp_path, monkeypatch)
    locate("sesame/csm-1b", ignore)
    assert "transformers*.safetensors" in asked[0]
    assert not [pattern for pattern in asked[0] if pattern.startswith(("model", "ckpt", "*"))]


def test_a_fine_tune_under_the_usual_names_is_downloaded_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(tmp_path, "config.json", "tokenizer.json")
    asked = hub_with(tmp_path, monkeypatch)
    with pytest.raises(EngineUnavailable, match="lacks"):
        locate("someone/csm-tuned", ignore)
    assert asked[1] == ["model*"]
