"""The checkpoint is loaded whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the sesame extra")
pytest.importorskip("transformers", reason="needs the sesame extra")

from safetensors.torch import load_file, save_file  # noqa: E402

from tests.engines.sesame import tiny  # noqa: E402
from tts_provider.engines.codec_lm.device import choose_device, choose_dtype  # noqa: E402
from tts_provider.engines.sesame.frame import FrameModel  # noqa: E402
from tts_provider.engines.sesame.weights import load_weights  # noqa: E402
from tts_provider.errors import EngineUnavailable  # noqa: E402

CPU = torch.device("cpu")


def edited(checkpoint: Path, folder: Path, edit: Any) -> Path:
    """A copy of the checkpoint whose tensors went through `edit`."""
    shutil.copytree(checkpoint, folder)
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_checkpoint_with_one_of_the_two_tied_tables_loads_right(
    checkpoint: Path, oracle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions of the library that do not tie leave the backbone's table random and say so in the missing keys."""
    real = tiny.library.CsmForConditionalGeneration.from_pretrained

    def untied(*args: Any, **kwargs: Any) -> Any:
        model, info = real(*args, **kwargs)
        table = model.backbone_model.embed_tokens.embed_audio_tokens
        table.weight = torch.nn.Parameter(torch.randn_like(table.weight))
        info["missing_keys"] = {"backbone_model.embed_tokens.embed_audio_tokens.weight"}
        return model, info

    monkeypatch.setattr(tiny.library.CsmForConditionalGeneration, "from_pretrained", untied)
    weights = load_weights(checkpoint, CPU, torch.float32)
    expected = oracle.depth_decoder.model.embed_tokens.weight
    assert torch.equal(weights.audio_table, expected)
    assert torch.equal(weights.backbone.embed_tokens.embed_audio_tokens.weight, expected)


@pytest.mark.parametrize("name", ["lm_head.weight", "depth_decoder.codebooks_head.weight", "backbone_model.norm.weight"])
def test_a_missing_tensor_fails_and_is_named(checkpoint: Path, tmp_path: Path, name: str) -> None:
    folder = edited(checkpoint, tmp_path / "copy", lambda tensors: tensors.pop(name))
    with pytest.raises(EngineUnavailable, match="1 tensors are missing") as refused:
        load_weights(folder, CPU, torch.float32)
    assert name in refused.value.message
    assert str(tmp_path) not in refused.value.message


def test_a_tensor_of_the_wrong_shape_fails(checkpoint: Path, tmp_path: Path) -> None:
    def shrink(tensors: dict[str, Any]) -> None:
        tensors["lm_head.weight"] = tensors["lm_head.weight"][:-1].clone()

    with pytest.raises(EngineUnavailable):
        load_weights(edited(checkpoint, tmp_path / "copy", shrink), CPU, torch.float32)


def test_a_tensor_too_many_is_logged_only(checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = edited(checkpoint, tmp_path / "copy", lambda tensors: tensors.update(extra=torch.zeros(1)))
    load_weights(folder, CPU, torch.float32)
    assert "no place" in caplog.text


def test_a_file_that_is_no_checkpoint_fails_without_its_path(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "copy")
    (tmp_path / "copy" / "model.safetensors").write_bytes(b"not this")
    with pytest.raises(EngineUnavailable) as refused:
        load_weights(tmp_path / "copy", CPU, torch.float32)
    assert str(tmp_path) not in refused.value.message


def test_bf16_reaches_the_language_model_and_never_the_codec(checkpoint: Path, oracle: Any) -> None:
    weights = load_weights(checkpoint, CPU, torch.bfloat16)
    assert {weights.text_table.dtype, weights.head.dtype, weights.depth_heads.dtype} == {torch.bfloat16}
    assert {parameter.dtype for parameter in weights.codec.parameters()} == {torch.float32}
    codes = torch.randint(0, tiny.CODES, (1, tiny.CODEBOOKS, 4))
    with torch.inference_mode():
        assert torch.equal(weights.codec.decode(codes).audio_values, oracle.codec_model.decode(codes).audio_values)


def test_bf16_states_stay_close_to_fp32(checkpoint: Path) -> None:
    """Codes may differ at near-ties, so the states are compared, along the same frames."""
    ids = list(range(60, 90))
    states = []
    for dtype in (torch.float32, torch.bfloat16):
        with torch.inference_mode():
            model = FrameModel(load_weights(checkpoint, CPU, dtype), rows=1)
            model.prefill(0, 0, model.embed_text(ids))
            states.append(model.state[0].float())
    error = (states[1] - states[0]).pow(2).mean().sqrt() / states[0].std()
    assert error < 0.05


def test_auto_means_fp32_on_a_cpu() -> None:
    assert choose_dtype("auto", CPU) is torch.float32
    assert choose_dtype("auto", torch.device("cuda")) is torch.bfloat16
    assert choose_dtype("bfloat16", CPU) is torch.bfloat16


def test_a_device_that_is_not_there_is_told() -> None:
    with pytest.raises(EngineUnavailable, match="'warp'"):
        choose_device("warp")
