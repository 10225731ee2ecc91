"""Load CSM's weights strictly: nothing missing, nothing random, the tables tied, the codec in fp32."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from tts_provider.errors import EngineUnavailable

__all__ = ["CsmWeights", "LibraryModule", "load_weights", "take_weights"]

logger = logging.getLogger(__name__)

LibraryModule = Any
"""A module of transformers: what is inside it is not typed, and is read in few places."""

_BACKBONE_TABLE: Final = "backbone_model.embed_tokens.embed_audio_tokens.weight"
"""Tied to the depth decoder's table. transformers 5.0 to 5.20 leave it random, silently, when a checkpoint holds only one of
the two; it is never read here."""


@dataclass(frozen=True, slots=True)
class CsmWeights:
    """A loaded checkpoint, on its device."""

    backbone: LibraryModule
    depth: LibraryModule
    codec: LibraryModule
    text_table: Tensor
    audio_table: Tensor
    """(codebooks × vocabulary, hidden), for the backbone's input and the depth decoder's alike."""
    head: Tensor
    """(vocabulary, hidden): code 0."""
    depth_heads: Tensor
    """(codebooks - 1, vocabulary, depth hidden): codes 1 to 31."""
    projector: Tensor
    codebooks: int
    codes: int
    positions: int
    sample_rate: int
    parameters: int
    """How many there are, tied ones counted once."""


def load_weights(folder: Path, device: torch.device, dtype: torch.dtype) -> CsmWeights:
    """Load the checkpoint in `folder`.

    It is loaded in fp32 and only the language model cast: a dtype given to the loader would reach the codec too, which then
    decodes and encodes visibly worse.

    Raises:
        EngineUnavailable: the checkpoint is not CSM's, or not whole.
    """
    import transformers

    library: LibraryModule = transformers.CsmForConditionalGeneration
    try:
        model, info = library.from_pretrained(
            os.fspath(folder), dtype=torch.float32, output_loading_info=True, local_files_only=True
        )
    except Exception as error:  # three libraries' own kinds, for what is always a bad file
        raise EngineUnavailable("The CSM checkpoint cannot be read; the server's log tells why.") from error
    _check(info)
    return take_weights(model, device, dtype)


def take_weights(model: LibraryModule, device: torch.device, dtype: torch.dtype) -> CsmWeights:
    """Move a `CsmForConditionalGeneration` in fp32 to `device`, its language model to `dtype`, and name its parts."""
    model.eval().requires_grad_(False)
    codec = model.codec_model.to(device)
    # Only this direction is safe: the backbone's table may be random, the depth decoder's is what it must equal.
    model.backbone_model.embed_tokens.embed_audio_tokens.weight = model.depth_decoder.model.embed_tokens.weight
    parameters = sum(parameter.numel() for parameter in model.parameters())
    backbone, depth = model.backbone_model.to(device, dtype), model.depth_decoder.to(device, dtype)
    return CsmWeights(
        backbone=backbone,
        depth=depth.model,
        codec=codec,
        text_table=model.embed_text_tokens.weight.to(device, dtype),
        audio_table=depth.model.embed_tokens.weight.detach(),
        head=model.lm_head.weight.to(device, dtype),
        depth_heads=depth.codebooks_head.weight.detach().transpose(1, 2).contiguous(),
        projector=depth.model.inputs_embeds_projector.weight.detach(),
        codebooks=int(model.config.num_codebooks),
        codes=int(codec.config.codebook_size),
        positions=int(model.config.max_position_embeddings),
        sample_rate=int(codec.config.sampling_rate),
        parameters=parameters,
    )


def _check(info: dict[str, object]) -> None:
    missing = sorted(map(str, _listed(info, "missing_keys") - {_BACKBONE_TABLE}))
    wrong = sorted(map(str, _listed(info, "mismatched_keys"))) + sorted(map(str, _listed(info, "error_msgs")))
    if missing or wrong:
        first = (missing + wrong)[:3]
        raise EngineUnavailable(
            f"The CSM checkpoint is not whole: {len(missing)} tensors are missing and {len(wrong)} do not fit, "
            f"first of all {', '.join(first)}. Download it again, or name another in TTS_SESAME_MODEL."
        )
    unexpected = _listed(info, "unexpected_keys")
    if unexpected:
        logger.warning("The CSM checkpoint holds %d tensors that the model has no place for", len(unexpected))


def _listed(info: dict[str, object], key: str) -> set[object]:
    found = info.get(key)
    return set(found) if isinstance(found, (list, set, tuple)) else set()
