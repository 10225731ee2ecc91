"""Load weights strictly: every tensor there, none too many, all of the right shape, and no pickle that runs code."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import DacModel

from tts_provider.engines.base import ProgressReport
from tts_provider.engines.zonos.config import SAMPLE_RATE, read_config
from tts_provider.engines.zonos.hub import locate
from tts_provider.engines.zonos.model import ZonosModel
from tts_provider.errors import EngineUnavailable

__all__ = [
    "DAC_FILES",
    "MODEL_FILES",
    "check_tensors",
    "load_dac",
    "load_model",
    "read_pickle",
]

logger = logging.getLogger(__name__)

MODEL_FILES: Final = ("config.json", "model.safetensors")
DAC_FILES: Final = ("config.json", "model.safetensors")
TOLD: Final = 3
"""Names that an error lists."""


def load_model(model: str, device: torch.device, dtype: torch.dtype, report: ProgressReport) -> ZonosModel:
    """The language model of a folder or hub id, on its device.

    Raises:
        EngineUnavailable: it is not there, not whole, or no Zonos transformer.
    """
    config_file, weights = locate(model, MODEL_FILES, "TTS_ZONOS_MODEL", report)
    try:
        data = json.loads(config_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineUnavailable(f"The config.json of '{model}' is not readable JSON.", retryable=False) from error
    with torch.device("meta"):
        net = ZonosModel(read_config(data))
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(weights, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118, it is no dict
            check_tensors(net, found, f"'{model}'")
            for index, name in enumerate(found):
                report(index / len(found), "loading the model")
                tensors[name] = file.get_tensor(name).to(device, dtype)
    except (SafetensorError, OSError) as error:
        raise EngineUnavailable(
            f"The model.safetensors of '{model}' is damaged. Download it again.", retryable=False
        ) from error
    net.load_state_dict(tensors, strict=True, assign=True)
    net.eval().requires_grad_(False)
    net.fuse_heads()
    return net


def check_tensors(net: nn.Module, found: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Compare names and shapes of a checkpoint with those that `net` needs.

    Raises:
        EngineUnavailable: they differ; the message names the first of each kind.
    """
    needed = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    faults = []
    missing = sorted(set(needed) - set(found))
    extra = sorted(set(found) - set(needed))
    wrong = [
        f"{name} {list(found[name])} instead of {list(needed[name])}"
        for name in sorted(set(needed) & set(found))
        if needed[name] != found[name]
    ]
    for kind, names in (("are missing", missing), ("are not known", extra), ("have another shape", wrong)):
        if names:
            more = ", ..." if len(names) > TOLD else ""
            faults.append(f"{len(names)} tensors {kind} ({', '.join(names[:TOLD])}{more})")
    if faults:
        raise EngineUnavailable(f"The weights of {what} do not fit: {'; '.join(faults)}.", retryable=False)


def load_dac(dac: str, device: torch.device, report: ProgressReport) -> DacModel:
    """The codec of a folder or hub id, fp32, without its encoder.

    In fp32 on a GPU too: half precision changes the audio audibly, and the codec is a tenth of the work.

    Raises:
        EngineUnavailable: it is not there, not whole, or another codec.
    """
    folder = locate(dac, DAC_FILES, "TTS_ZONOS_DAC", report)[0].parent
    report(None, "loading the codec")
    try:
        loaded: Any = DacModel.from_pretrained(
            str(folder), dtype=torch.float32, output_loading_info=True, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise EngineUnavailable(f"The codec '{dac}' cannot be read; the server's log tells why.", retryable=False) from error
    net: DacModel = loaded[0]
    info: Mapping[str, Sequence[object]] = loaded[1]
    faults = [str(name) for kind in ("missing_keys", "mismatched_keys", "unexpected_keys") for name in info.get(kind, ())]
    if faults:
        raise EngineUnavailable(
            f"The codec '{dac}' is not whole: {len(faults)} tensors do not fit, first of all {', '.join(faults[:TOLD])}.",
            retryable=False,
        )
    if net.config.sampling_rate != SAMPLE_RATE:
        raise EngineUnavailable(
            f"The codec '{dac}' speaks at {net.config.sampling_rate} Hz, not {SAMPLE_RATE}.", retryable=False
        )
    del net.encoder
    nn.Module.train(net, False)
    nn.Module.to(net, device)
    return net.requires_grad_(False)


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors in a ``.pt`` file; nothing else in it is let in, and no code in it runs.

    Raises:
        EngineUnavailable: it holds anything but named tensors.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # rubbish makes the reader stumble in any way; its own refusals are among them
        logger.warning("%s was refused", path.name, exc_info=True)
        raise EngineUnavailable(f"'{path.name}' is damaged, or holds more than tensors; it was not loaded.") from error
    if not isinstance(loaded, dict) or not all(isinstance(name, str) for name in loaded):
        raise EngineUnavailable(f"'{path.name}' holds no named tensors.", retryable=False)
    tensors = {name: value for name, value in loaded.items() if isinstance(value, Tensor)}
    if len(tensors) != len(loaded):
        raise EngineUnavailable(f"'{path.name}' holds more than tensors.", retryable=False)
    return tensors
