"""Time CSM's frame loop with random weights, beside the library's `generate()` and the memory bandwidth's limit.

    python benchmarks/sesame.py                                   # full size on a GPU: bf16, CUDA graphs
    python benchmarks/sesame.py --eager --batches 1 8             # the same without graphs
    python benchmarks/sesame.py --check                           # graphs against eager codes, in fp32
    python benchmarks/sesame.py --tiny --device cpu --frames 4    # a smoke test

Random weights cost what real ones do. A step is what the engine's thread does for a frame: noise, backbone, depth decoder,
Mimi, and the copy of codes and audio to the host. First audio is the prefill of a 30-token sentence and one such step.
Capture and replay of CUDA graphs, and with them every figure of a GPU, are unproven until this has run on one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import transformers

from tts_provider.engines.codec_lm.device import DTYPES, choose_device, choose_dtype
from tts_provider.engines.sesame.frame import FrameModel
from tts_provider.engines.sesame.mimi import MimiStream
from tts_provider.engines.sesame.runner import EagerRunner, GraphRunner, Runner
from tts_provider.engines.sesame.weights import CsmWeights, take_weights

FRAME_MS: Final = 80.0
"""Of audio in a frame: a step must take less for real time."""
WARM_UP: Final = 3
PROMPT_TOKENS: Final = 30
CONTEXT: Final = 300
"""Positions before the timed frames: a voice prompt of half a minute is somewhat longer."""
H200_BYTES_PER_MS: Final = 4.8e9
"""Memory bandwidth by the data sheet; the limit in the table is for this GPU whatever it runs on."""

library: Any = transformers


@dataclass(frozen=True, slots=True)
class Timing:
    """One batch size."""

    batch: int
    median_ms: float
    p99_ms: float
    first_ms: float
    limit_ms: float
    memory_gib: float

    def row(self) -> str:
        """A line of the table."""
        rows = int(FRAME_MS * self.batch / self.median_ms)
        in_time = "yes" if self.p99_ms < FRAME_MS else "no"
        return (
            f"{self.batch:5d} {self.median_ms:10.2f} {self.p99_ms:10.2f} {self.median_ms / FRAME_MS:8.3f} {rows:10d}"
            f" {in_time:>14} {self.first_ms:9.1f} {self.limit_ms:11.2f} {self.memory_gib:8.1f}"
        )


HEADER: Final = "batch   ms/frame     p99 ms      RTF  real-time  underrun-free  first ms  H200 limit      GiB"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; 1 when a check failed."""
    options = _parse(arguments)
    device = choose_device(options.device)
    dtype = torch.float32 if options.check else choose_dtype(options.dtype, device)
    torch.manual_seed(0)
    with device:
        model = library.CsmForConditionalGeneration(_config(options.tiny)).eval()
    size = "tiny" if options.tiny else "full size"
    print(f"{size}, {device}, {dtype}, torch {torch.__version__}, transformers {transformers.__version__}")
    if options.check:
        return _check(take_weights(model, device, dtype), options.frames)
    if not options.no_generate:
        print(f"generate(): {_generate_ms(model.to(dtype), options.frames):.1f} ms/frame at batch 1")
        model = model.to(torch.float32)
    weights = take_weights(model, device, dtype)
    print(HEADER)
    for batch in options.batches:
        print(_time(weights, batch, options.frames, eager=options.eager).row(), flush=True)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=["auto", *DTYPES])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 64, 128, 256])
    parser.add_argument("--frames", type=int, default=100, help="timed for each batch size")
    parser.add_argument("--tiny", action="store_true", help="a toy of the same shape")
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs")
    parser.add_argument("--no-generate", action="store_true", help="skip the library's loop")
    parser.add_argument("--check", action="store_true", help="compare graphs with eager codes in fp32, and stop")
    return parser.parse_args(arguments)


def _generate_ms(model: Any, frames: int) -> float:
    """The mean time of a frame: `generate()` gives no times of its own."""
    vocabulary = model.config.vocab_size
    ids = torch.randint(3, model.config.text_vocab_size - 4, (1, PROMPT_TOKENS), device=model.device)
    settings = {"do_sample": True, "depth_decoder_do_sample": True, "top_k": min(50, vocabulary)}
    with torch.inference_mode():
        model.generate(ids, max_new_tokens=WARM_UP, **settings)
        began = time.perf_counter()
        made = model.generate(ids, max_new_tokens=frames, **settings)
    return 1000 * (time.perf_counter() - began) / int(made.shape[1])


def _runner(weights: CsmWeights, batch: int, *, eager: bool) -> tuple[FrameModel, Runner]:
    model, mimi = FrameModel(weights, batch), MimiStream(weights.codec, batch)
    if eager or model.device.type != "cuda":
        return model, EagerRunner(model, mimi)
    return model, GraphRunner(model, mimi, lambda share, doing: None)


def _time(weights: CsmWeights, batch: int, frames: int, *, eager: bool) -> Timing:
    on_gpu = weights.head.device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with torch.inference_mode():
        model, runner = _runner(weights, batch, eager=eager)
        generators = [torch.Generator(model.device).manual_seed(row) for row in range(batch)]
        for row in range(batch):
            model.sampler.set_row(row, 0.9, 50)
            model.at[row] = min(CONTEXT, model.positions // 4)
        model.moving.fill_(1)
        length = min(CONTEXT, model.positions // 4) + WARM_UP + frames + PROMPT_TOKENS + 1
        times = [_step(model, runner, generators, length) for _ in range(WARM_UP + frames)][WARM_UP:]
        first = [_first(model, runner, generators, length) for _ in range(3)]
    memory = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0
    p99 = sorted(times)[min(len(times) - 1, int(0.99 * len(times)))]
    return Timing(batch, statistics.median(times), p99, statistics.median(first), _limit_ms(weights, batch), memory)


def _step(model: FrameModel, runner: Runner, generators: list[torch.Generator], length: int) -> float:
    began = time.perf_counter()
    for row, generator in enumerate(generators):
        model.sampler.draw(row, generator)
    codes, audio = runner.step(len(generators), length)
    codes.cpu(), audio.cpu()  # the engine needs both on the host; this waits for the device
    return 1000 * (time.perf_counter() - began)


def _first(model: FrameModel, runner: Runner, generators: list[torch.Generator], length: int) -> float:
    """The last row joins, the others go on."""
    row = len(generators) - 1
    began = time.perf_counter()
    model.prefill(row, 0, model.embed_text(range(3, 3 + PROMPT_TOKENS)))
    model.at[row] = 0  # it is timed again
    _step(model, runner, generators, length)
    return 1000 * (time.perf_counter() - began)


def _limit_ms(weights: CsmWeights, batch: int) -> float:
    """The bytes of one step, each read once, over the bandwidth: the depth decoder's weights 31 times, all others once."""

    def size(module: Any) -> int:
        read = [parameter for name, parameter in module.named_parameters() if "embed_" not in name]
        return sum(parameter.numel() * parameter.element_size() for parameter in read)

    bytes_of = [size(weights.backbone), weights.head.numel() * weights.head.element_size()]
    bytes_of.append((weights.codebooks - 1) * size(weights.depth))
    bytes_of.append(weights.depth_heads.numel() * weights.depth_heads.element_size())
    bytes_of.append(size(getattr(weights.codec, "decoder", weights.codec)))
    config = weights.backbone.config
    position = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * weights.head.element_size()
    return float(sum(bytes_of) + batch * CONTEXT * position) / H200_BYTES_PER_MS


def _check(weights: CsmWeights, frames: int) -> int:
    """Greedy codes of four rows, by graphs and eagerly: they must be equal."""
    made = []
    with torch.inference_mode():
        for eager in (True, False):
            model, runner = _runner(weights, 4, eager=eager)
            for row in range(4):
                model.prefill(row, 0, model.embed_text(range(3, 20 + row)))
            model.moving.fill_(1)
            made.append(torch.stack([runner.step(4, 24 + frames)[0][:4].cpu() for _ in range(frames)]))
    equal = int((made[0] == made[1]).all(dim=-1).sum())
    kind = "graphs" if weights.head.device.type == "cuda" else "eager again (no GPU)"
    print(f"{equal} of {4 * frames} frames equal: eager and {kind}")
    return int(equal != 4 * frames)


def _config(tiny: bool) -> Any:
    # CsmConfig() alone has no rotary scaling, unlike the published checkpoint.
    rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0}
    low = {**rope, "low_freq_factor": 0.001953125, "high_freq_factor": 0.0078125, "original_max_position_embeddings": 16}
    high = {**rope, "low_freq_factor": 0.125, "high_freq_factor": 0.5, "original_max_position_embeddings": 1024}
    if not tiny:
        return library.CsmConfig(rope_parameters=high, depth_decoder_config={"rope_parameters": low})
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
    small = {**heads, "num_codebooks": 8, "hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
    mimi = {
        "model_type": "mimi",
        "hidden_size": 32,
        "num_filters": 4,
        "num_quantizers": 8,
        "codebook_dim": 16,
        "vector_quantization_hidden_dimension": 16,
        "upsample_groups": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 8,
    }
    return library.CsmConfig(
        **small,
        text_vocab_size=260,
        bos_token_id=256,
        pad_token_id=258,
        audio_token_id=258,
        audio_eos_token_id=259,
        rope_parameters=high,
        depth_decoder_config={**small, "backbone_hidden_size": 64, "rope_parameters": low},
        codec_config=mimi,
    )


if __name__ == "__main__":
    raise SystemExit(main())
