"""The published speaker encoder, loaded: from its pickles once, from a safetensors copy after."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tts_provider.engines.base import Samples
from tts_provider.engines.zonos.embeddings import VOICE_NUMBERS
from tts_provider.engines.zonos.hub import locate
from tts_provider.engines.zonos.mel import log_mel, resample
from tts_provider.engines.zonos.speaker_net import EMBEDDING, PUBLISHED_BLOCKS, PUBLISHED_PLANES, SpeakerNet
from tts_provider.engines.zonos.weights import check_tensors, read_pickle
from tts_provider.errors import EngineUnavailable

__all__ = ["ENCODER_FILES", "SpeakerEncoder"]

logger = logging.getLogger(__name__)

ENCODER_FILES: Final = ("ResNet293_SimAM_ASP_base.pt", "ResNet293_SimAM_ASP_base_LDA-128.pt")


class SpeakerEncoder(nn.Module):
    """The net and the map behind it."""

    def __init__(self, blocks: Sequence[int] = PUBLISHED_BLOCKS, planes: int = PUBLISHED_PLANES) -> None:
        super().__init__()
        self.net = SpeakerNet(blocks, planes)
        self.map = nn.Linear(EMBEDDING, VOICE_NUMBERS)

    @torch.inference_mode()
    def embed(self, samples: Samples, rate: int) -> Sequence[float]:
        """The 128 numbers of the voice in mono `samples` at `rate` Hz; blocking."""
        mel = log_mel(resample(samples, rate).to(self.map.weight.device))
        voice = self.map(self.net(mel))
        if not bool(voice.isfinite().all()):
            raise EngineUnavailable("The speaker encoder made no numbers of a recording; its weights may be damaged.")
        numbers: list[float] = voice.tolist()
        return numbers

    @classmethod
    def load(
        cls,
        model: str,
        device: torch.device,
        folder: Path | None,
        *,
        blocks: Sequence[int] = PUBLISHED_BLOCKS,
        planes: int = PUBLISHED_PLANES,
    ) -> SpeakerEncoder:
        """Load the encoder of a folder or hub id; blocking.

        Args:
            folder: where the safetensors copy is kept; None keeps none.

        Raises:
            EngineUnavailable: it is not there, not whole, or holds more than tensors.
        """
        files = locate(model, ENCODER_FILES, "TTS_ZONOS_SPEAKER_MODEL", lambda share, doing: None)
        with torch.device("meta"):
            encoder = cls(blocks, planes)
        tensors = _kept(files, folder) or _unpickled(files)
        check_tensors(encoder, {name: tuple(value.shape) for name, value in tensors.items()}, f"'{model}'")
        _keep(tensors, files, folder)
        encoder.load_state_dict(tensors, strict=True, assign=True)
        return encoder.float().eval().requires_grad_(False).to(device)


def _unpickled(files: Sequence[Path]) -> dict[str, Tensor]:
    net, linear = (read_pickle(file) for file in files)
    named = {f"net.{name}": value for name, value in net.items()}
    named |= {f"map.{name}": value.float() for name, value in linear.items()}  # published in fp64
    return {name: value.contiguous().clone() for name, value in named.items()}


def _copy_of(files: Sequence[Path], folder: Path) -> Path:
    """Where the copy of exactly these files is."""
    looks = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return folder / f"speaker-encoder-{hashlib.sha256(repr(looks).encode()).hexdigest()[:32]}.safetensors"


def _kept(files: Sequence[Path], folder: Path | None) -> dict[str, Tensor] | None:
    if folder is None:
        return None
    copy = _copy_of(files, folder)
    try:
        return load_file(copy) if copy.is_file() else None
    except (SafetensorError, OSError, ValueError):
        logger.warning("The kept copy of the speaker encoder is damaged; it is made again")
        copy.unlink(missing_ok=True)
        return None


def _keep(tensors: dict[str, Tensor], files: Sequence[Path], folder: Path | None) -> None:
    if folder is None or _copy_of(files, folder).is_file():
        return
    part = folder / f"speaker-encoder-{secrets.token_hex(4)}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part)
        part.replace(_copy_of(files, folder))
    except (SafetensorError, OSError):  # a full or read-only disk: next time the pickles are read again
        logger.warning("No copy of the speaker encoder could be kept in %s", folder, exc_info=True)
        with contextlib.suppress(OSError):
            part.unlink()
