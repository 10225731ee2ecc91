"""Find a checkpoint's files: in a folder as it is, or on the hub, with progress, and every way to fail told with its remedy."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from tts_provider.engines.base import ProgressReport
from tts_provider.engines.codec_lm.hub import progress_bar
from tts_provider.errors import EngineUnavailable

__all__ = ["locate"]

logger = logging.getLogger(__name__)


def locate(model: str, files: Sequence[str], setting: str, report: ProgressReport) -> Sequence[Path]:
    """Where `files` of `model` are, in their order; downloads what is not there yet.

    Args:
        model: a folder, or a hub id.
        setting: what the user changes to name another.

    Raises:
        EngineUnavailable: they cannot be had; the message says what to do.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        missing = [name for name in files if not (folder / name).is_file()]
        if missing:
            raise EngineUnavailable(f"The folder in {setting} lacks {', '.join(missing)}.", retryable=False)
        return [folder / name for name in files]
    if model.count("/") != 1 or model.startswith((".", "~", "/")):
        raise EngineUnavailable(
            f"{setting} names no folder that is there, and no hub id such as 'Zyphra/Zonos-v0.1-transformer'.", retryable=False
        )
    return [_download(model, name, setting, report) for name in files]


def _download(repository: str, name: str, setting: str, report: ProgressReport) -> Path:
    from huggingface_hub import errors, hf_hub_download

    report(None, f"looking for {name} of {repository}")
    try:
        return Path(hf_hub_download(repository, name, tqdm_class=progress_bar(report)))
    except errors.GatedRepoError as error:
        raise EngineUnavailable(
            f"The hub gives '{repository}' only to those who accepted its terms. Accept them on the model's page there, "
            "make an access token, and set HF_TOKEN."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise EngineUnavailable(f"The hub has no model '{repository}', or it is private: then set HF_TOKEN.") from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        raise EngineUnavailable(
            f"'{name}' of '{repository}' is not on this machine and the hub cannot be reached. "
            f"Go online once (without HF_HUB_OFFLINE), or put a folder with the files into {setting}."
        ) from error
    except errors.EntryNotFoundError as error:
        raise EngineUnavailable(f"The hub's '{repository}' has no '{name}'.", retryable=False) from error
    except errors.HFValidationError as error:
        raise EngineUnavailable(f"'{repository}' is no hub id.", retryable=False) from error
    except OSError as error:  # the hub's HTTP errors, and a full disk
        logger.warning("The download of %s from %s failed", name, repository, exc_info=True)
        raise EngineUnavailable(f"The download of '{repository}' failed; the server's log tells why.") from error
