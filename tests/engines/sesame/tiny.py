"""A CSM checkpoint of few random weights, built with the installed transformers: the real shapes, no network.

Random weights say nothing that makes sense, but they say the same through any correct implementation. They are drawn wide, so
that the best code wins by far more than rounding, and the codec's codebooks are random too, since they are born zero.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import soundfile
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

library: Any = transformers
"""Untyped inside."""

__all__ = [
    "CODEBOOKS",
    "CODES",
    "build",
    "build_ending",
    "end_at_once",
    "oracle_inputs",
    "prefer_reserved",
    "spoil_last_zero",
    "write_voice",
]

CODES: Final = 64
"""Entries of each codebook; the heads have three reserved ids more, as the real ones have."""
CODEBOOKS: Final = 8
"""The real model has 32; the time of every test grows with them. One test runs all 32."""
BEGIN, END, AUDIO, AUDIO_EOS = 256, 257, 258, 259
TEMPLATE: Final = (
    "{% for message in messages %}<|begin_of_text|>[{{ message['role'] }}]"
    "{% for content in message['content'] %}{% if content['type'] == 'text' %}{{ content['text'] }}<|end_of_text|>"
    "{% elif content['type'] == 'audio' %}<|AUDIO|><|audio_eos|>{% endif %}{% endfor %}{% endfor %}"
)


def build(folder: Path, *, seed: int = 0, positions: int = 2048, codebooks: int = CODEBOOKS) -> Path:
    """Save a checkpoint with its processor to `folder` and return it."""
    torch.manual_seed(seed)
    model = library.CsmForConditionalGeneration(_config(positions, codebooks)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "codec_model" not in name:
                parameter.normal_(0, 1.0 if "embed" in name else 0.3)
            elif parameter.ndim > 1:
                parameter.normal_(0, 0.3)
            elif "layer_scale" in name:
                parameter.fill_(0.5)
        for name, buffer in model.named_buffers():
            if name.endswith("embed_sum"):
                buffer.normal_(0, 1.0)
        model.codec_model.decoder.decoder_seanet.layers[-1].conv.weight.mul_(0.003)  # to about full scale
    save(model, folder)
    _processor().save_pretrained(folder)
    return folder


def save(model: Any, folder: Path) -> None:
    """Write weights and configs; the generation settings are greedy and know of the reserved ids."""
    reserved = list(range(CODES, CODES + 3))
    for config in (model.generation_config, model.depth_decoder.generation_config):
        config.update(do_sample=False, suppress_tokens=reserved, max_new_tokens=model.config.num_codebooks - 1)
        config._from_model_config = False  # otherwise they are made anew when loading
    model.generation_config.max_new_tokens = 125
    model.save_pretrained(folder)


def build_ending(source: Path, folder: Path, ids: list[int], frames: int) -> Path:
    """A copy of the checkpoint that ends by itself after `frames` frames of the prompt `ids`.

    All heads' column 0 is turned until code 0 wins at the state before frame `frames` + 1 and loses at all before it.
    """
    model = library.CsmForConditionalGeneration.from_pretrained(source).eval()
    with torch.no_grad():
        model.lm_head.weight[0] = 0.0  # so that code 0 never wins before it is meant to
        model.depth_decoder.codebooks_head.weight[:, :, 0] = 0.0
        codes = model.generate(torch.tensor([ids]), max_new_tokens=frames + 1)
        text = model.embed_text_tokens(torch.tensor([ids]))
        audio = model.backbone_model.embed_tokens(codes[:, :frames])
        states = model.backbone_model(inputs_embeds=torch.cat([text, audio], dim=1)).last_hidden_state[0, len(ids) - 1 :]
        _turn_to_zero(model.lm_head.weight, 0, states)
        # From c0 = 0 on, the depth decoder walks through zeros; each position gets its own column.
        zeros = torch.zeros(1, codes.shape[-1], dtype=torch.int64)
        hidden = _depth_states(model, states, torch.cat([codes[0, :frames], zeros]))
        for codebook in range(codes.shape[-1] - 1):
            weight = model.depth_decoder.codebooks_head.weight[codebook]  # (hidden, codes)
            _turn_to_zero(weight.T, 0, hidden[:, codebook + 1])
    save(model, folder)
    _processor().save_pretrained(folder)
    return folder


def spoil_last_zero(source: Path, folder: Path) -> Path:
    """A copy in which the frame that ends has zeros, and a last code that is not 0."""

    def change(model: Any) -> None:
        model.depth_decoder.codebooks_head.weight[-1, :, 0] = 0.0

    return _changed(source, folder, change)


def end_at_once(source: Path, folder: Path) -> Path:
    """A copy in which code 0 ties with all others everywhere and is the first of them, so that the first frame is the last."""

    def change(model: Any) -> None:
        model.backbone_model.norm.weight.fill_(0)
        model.depth_decoder.model.norm.weight.fill_(0)

    return _changed(source, folder, change)


def prefer_reserved(source: Path, folder: Path) -> Path:
    """A copy in which every head likes the reserved ids best, and nothing suppresses them."""

    def change(model: Any) -> None:
        for head in (model.lm_head.weight.T, *model.depth_decoder.codebooks_head.weight):
            # Both signs, so that one of the two is far above the rest whatever the state.
            head[:, CODES] = 20 * head[:, 1]
            head[:, CODES + 1] = -20 * head[:, 1]

    return _changed(source, folder, change)


def _changed(source: Path, folder: Path, change: Callable[[Any], None]) -> Path:
    model = library.CsmForConditionalGeneration.from_pretrained(source).eval()
    with torch.no_grad():
        change(model)
    save(model, folder)
    _processor().save_pretrained(folder)
    return folder


def _depth_states(model: Any, states: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    placeholder = torch.nn.functional.pad(codes[:, :-1], (1, 0))
    output = model.depth_decoder.model(input_ids=placeholder, backbone_last_hidden_state=states)
    hidden: torch.Tensor = output.last_hidden_state
    return hidden


def _turn_to_zero(rows: torch.Tensor, code: int, states: torch.Tensor) -> None:
    """Set ``rows[code]`` so that it wins by far at the last of `states` and scores 0 at the others."""
    others, last = states[:-1], states[-1]
    basis, _ = torch.linalg.qr(others.T)
    apart = last - basis @ (basis.T @ last)
    rows[code] = apart * (1.5 * (rows @ last).abs().max() / (apart @ last))


def oracle_inputs(folder: Path, conversation: list[tuple[str, str, np.ndarray[Any, Any] | None]]) -> Any:
    """What the library's own processor makes of (speaker, text, audio) turns, the last one without audio."""
    processor = library.CsmProcessor.from_pretrained(folder)
    turns = []
    for speaker, text, audio in conversation:
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        if audio is not None:
            content.append({"type": "audio", "path": audio})
        turns.append({"role": speaker, "content": content})
    return processor.apply_chat_template(turns, tokenize=True, return_dict=True)


def write_voice(folder: Path, name: str, transcript: str | None, seconds: float = 1.6, seed: int = 7) -> np.ndarray[Any, Any]:
    """Write a recording (noise, 24 kHz float WAV) and its transcript; return the samples."""
    folder.mkdir(exist_ok=True)
    samples = (0.1 * np.random.default_rng(seed).standard_normal(int(24000 * seconds))).astype(np.float32)
    soundfile.write(folder / f"{name}.wav", samples, 24000, subtype="FLOAT")
    if transcript is not None:
        (folder / f"{name}.txt").write_text(transcript, encoding="utf-8")
    return samples


def _processor() -> Any:
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(symbols)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|AUDIO|>", "<|audio_eos|>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A <|end_of_text|>",
        special_tokens=[("<|begin_of_text|>", BEGIN), ("<|end_of_text|>", END)],
    )
    fast = library.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>", pad_token="<|end_of_text|>"
    )
    return library.CsmProcessor(library.EncodecFeatureExtractor(1, 24000), fast, chat_template=TEMPLATE)


def _config(positions: int, codebooks: int) -> Any:
    vocabulary = CODES + 3
    rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0}
    return library.CsmConfig(
        num_codebooks=codebooks,
        vocab_size=vocabulary,
        text_vocab_size=260,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=positions,
        pad_token_id=AUDIO,
        bos_token_id=BEGIN,
        audio_token_id=AUDIO,
        audio_eos_token_id=AUDIO_EOS,
        codebook_pad_token_id=CODES + 2,
        rope_parameters={
            **rope,
            "low_freq_factor": 0.125,
            "high_freq_factor": 0.5,
            "original_max_position_embeddings": 1024,
        },
        depth_decoder_config={
            "backbone_hidden_size": 64,
            "num_codebooks": codebooks,
            "vocab_size": vocabulary,
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 12,
            "rope_parameters": {
                **rope,
                "low_freq_factor": 0.001953125,
                "high_freq_factor": 0.0078125,
                "original_max_position_embeddings": 16,
            },
        },
        codec_config={
            "model_type": "mimi",
            "num_quantizers": codebooks,
            "hidden_size": 32,
            "num_filters": 4,
            "codebook_size": CODES,
            "codebook_dim": 16,
            "vector_quantization_hidden_dimension": 16,
            "upsample_groups": 32,
            "num_hidden_layers": 2,
            "intermediate_size": 48,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 8,
        },
    )
