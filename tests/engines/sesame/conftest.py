"""Checkpoints and oracles, built once a session. torch is imported inside, so that the tests skip where it is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

ENDING_TEXT = "It ends."
"""What the checkpoint `ending` stops by itself for, as speaker 0."""
ENDING_FRAMES = 9


@pytest.fixture(scope="session")
def _quiet_torch() -> None:
    """One thread, because the machines that test share their cores; and no progress bars."""
    import torch
    import transformers

    torch.set_num_threads(1)
    library: Any = transformers
    library.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, _quiet_torch: None) -> Path:
    """A tiny CSM that never ends by itself."""
    from tests.engines.sesame import tiny

    return tiny.build(tmp_path_factory.mktemp("csm") / "tiny")


@pytest.fixture(scope="session")
def ending(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """The same, but it ends `ENDING_TEXT` after `ENDING_FRAMES` frames."""
    from tests.engines.sesame import tiny
    from tts_provider.engines.sesame.prompt import Tokens

    ids = list(Tokens(checkpoint).turn(0, ENDING_TEXT))
    return tiny.build_ending(checkpoint, tmp_path_factory.mktemp("csm") / "ending", ids, ENDING_FRAMES)


@pytest.fixture(scope="session")
def oracle(checkpoint: Path) -> Any:
    """The library's own model of `checkpoint`."""
    from tests.engines.sesame import tiny

    return tiny.library.CsmForConditionalGeneration.from_pretrained(checkpoint).eval()


@pytest.fixture(scope="session")
def voices_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray[Any, Any]]:
    """A folder with one recorded voice, ``male``, and its samples."""
    from tests.engines.sesame import tiny

    folder = tmp_path_factory.mktemp("voices")
    return folder, tiny.write_voice(folder, "male", "So it goes.")
