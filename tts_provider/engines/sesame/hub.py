"""Find the checkpoint: a folder as it is, a hub id downloaded with progress, and every way to fail told with its remedy."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Final

from tts_provider.engines.base import ProgressReport
from tts_provider.engines.codec_lm.hub import progress_bar
from tts_provider.engines.sesame.prompt import TOKENIZER_FILE
from tts_provider.errors import EngineUnavailable

__all__ = ["locate"]

logger = logging.getLogger(__name__)

_SMALL_FILES: Final = ("config.json", "generation_config.json", TOKENIZER_FILE)
_OFFLINE: Final = (
    "The CSM checkpoint is not on this machine and the hub cannot be reached. Go online once (without HF_HUB_OFFLINE), "
    "or put a folder with its files into TTS_SESAME_MODEL."
)


def locate(model: str, report: ProgressReport) -> Path:
    """The folder that holds the checkpoint `model`, a folder or a hub id; downloads what is not there yet.

    Raises:
        EngineUnavailable: it cannot be had; the message says what to do.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if model.count("/") != 1 or model.startswith((".", "~", "/")):
            raise EngineUnavailable("TTS_SESAME_MODEL names no folder, and no hub id such as 'sesame/csm-1b'.")
        folder = _download(model, report)
    _check_files(folder)
    return folder


def _check_files(folder: Path) -> None:
    missing = [name for name in ("config.json", TOKENIZER_FILE) if not (folder / name).is_file()]
    if not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    if missing:
        raise EngineUnavailable(f"The CSM checkpoint lacks {', '.join(missing)}. Download it again, or name another.")


def _download(repository: str, report: ProgressReport) -> Path:
    from huggingface_hub import errors, hf_hub_download, snapshot_download

    report(None, "looking for the model")
    try:
        config = json.loads(Path(hf_hub_download(repository, "config.json")).read_text(encoding="utf-8"))
        # The published repository holds the weights twice; the copy with the original's names is of no use here.
        stem = "transformers" if config.get("transformers_weights", "transformers").startswith("transformers") else "model"
        patterns = [*_SMALL_FILES, f"{stem}*.safetensors", f"{stem}*.safetensors.index.json"]
        folder = Path(snapshot_download(repository, allow_patterns=patterns, tqdm_class=progress_bar(report)))
        if not any(folder.glob("*.safetensors")):  # a fine-tune saved under the library's usual names
            folder = Path(snapshot_download(repository, allow_patterns=["model*"], tqdm_class=progress_bar(report)))
        return folder
    except errors.GatedRepoError as error:
        raise EngineUnavailable(
            f"The hub gives '{repository}' only to those who accepted its terms. Accept them on the model's page there, "
            "make an access token, and set HF_TOKEN."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise EngineUnavailable(f"The hub has no model '{repository}', or it is private: then set HF_TOKEN.") from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        raise EngineUnavailable(_OFFLINE) from error
    except errors.EntryNotFoundError as error:
        raise EngineUnavailable(f"The hub's '{repository}' lacks files of a CSM checkpoint.") from error
    except (errors.HFValidationError, json.JSONDecodeError) as error:
        raise EngineUnavailable(f"'{repository}' is not the hub id of a CSM checkpoint.") from error
    except OSError as error:  # the hub's HTTP errors, and a full disk
        logger.warning("The download of %s failed", repository, exc_info=True)
        raise EngineUnavailable(f"The download of '{repository}' failed; the server's log tells why.") from error
