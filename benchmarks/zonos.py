"""How fast the Zonos engine is: time to first audio, speed of one stream, and how many run in real time together.

    python -m benchmarks.zonos                        full size on a GPU, tiny on a CPU (a smoke test, its figures mean nothing)
    python -m benchmarks.zonos --streams 1 32 100 --dtype float32

Weights are random: speed does not depend on them. Speech never ends by itself here, so all streams run to the last step. The
original's loop is timed beside ours where the `zonos` package can be imported.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor
from transformers import DacConfig, DacModel

from tts_provider.engines.codec_lm import Join
from tts_provider.engines.zonos.config import (
    CODEBOOKS,
    CONDITIONERS,
    EOS,
    FRAME_RATE,
    HOP,
    SAMPLE_RATE,
    BackboneConfig,
    ConditionerConfig,
    ZonosConfig,
)
from tts_provider.engines.zonos.decoder import Decoder, Noise, Prompt, seeded_noise
from tts_provider.engines.zonos.model import ZonosModel
from tts_provider.engines.zonos.slots import ZonosSlots, frames_per_step

PUBLISHED: Final = BackboneConfig(width=2048, layers=26, heads=16, kv_heads=4, mlp_width=8192)
TINY: Final = BackboneConfig(width=64, layers=2, heads=4, kv_heads=2, mlp_width=96)
PREFIX: Final = 120
"""Phonemes of a sentence of 8 s."""
H200_BANDWIDTH: Final = 4.8e12
"""Bytes per second that an H200 reads at best; a step cannot be faster than its weights and cache are read."""
FIRST_AUDIO_RUNS: Final = 9


class _Endless:
    """Noise in which codebook 0 never says the end."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._noise = seeded_noise(seed, device)

    def fill(self, out: Tensor) -> None:
        self._noise.fill(out)
        out[:, 0, EOS] = 1e30


def endless(seed: int, device: torch.device) -> Noise:
    """A source of such noise."""
    return _Endless(seed, device)


def config_of(backbone: BackboneConfig) -> ZonosConfig:
    """A checkpoint's shape with the published conditioners."""
    ranges = {"fmax": 24_000.0, "pitch_std": 400.0, "speaking_rate": 40.0}
    parts = []
    for name in CONDITIONERS:
        if name == "espeak":
            parts.append(ConditionerConfig("EspeakPhonemeConditioner", name, False))
        elif name == "speaker":
            parts.append(ConditionerConfig("PassthroughConditioner", name, True, project=True, cond_dim=128))
        elif name == "language_id":
            parts.append(ConditionerConfig("IntegerConditioner", name, True, low=-1.0, high=126.0))
        else:
            inputs = 8 if name == "emotion" else 1
            parts.append(ConditionerConfig("FourierConditioner", name, True, input_dim=inputs, high=ranges.get(name, 1.0)))
    return ZonosConfig(backbone, tuple(parts))


def random_nets(backbone: BackboneConfig, device: torch.device, dtype: torch.dtype) -> tuple[ZonosModel, DacModel]:
    """A model and a codec of random weights, of the published size or tiny."""
    torch.manual_seed(0)
    with device:
        model = ZonosModel(config_of(backbone)).to(dtype).eval().requires_grad_(False)
        small = backbone is TINY
        codec = DacModel(DacConfig(encoder_hidden_size=2 if small else 64, decoder_hidden_size=32 if small else 1536))
    model.fuse_heads()
    codec.requires_grad_(False)
    torch.nn.Module.train(codec, False)
    del codec.encoder
    return model, codec


def prompt_of(seed: int) -> Prompt:
    """A sentence of some seconds."""
    phonemes = [2, *torch.randint(4, 180, (PREFIX,), generator=torch.Generator().manual_seed(seed)).tolist(), 3]
    return Prompt(phonemes, 24, speaker=[0.1] * 128, emotion=[1 / 8] * 8, seed=seed)


def settle(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def first_audio(rows: ZonosSlots, device: torch.device) -> float:
    """Median seconds from a prompt to its first audio on the host, nothing else running."""
    times = []
    for seed in range(FIRST_AUDIO_RUNS):
        settle(device)
        start = time.perf_counter()
        outputs = rows.step([Join(0, prompt_of(seed), 200, fresh=True)], [], frames_per_step(device))
        while not outputs[0].audio.size:
            outputs = rows.step([], [], frames_per_step(device))
        times.append(time.perf_counter() - start)
        rows.step([], [0], 1)
    return statistics.median(times[1:])


def streams_together(rows: ZonosSlots, count: int, seconds: float, device: torch.device) -> tuple[float, float, int]:
    """`count` streams of `seconds` of audio each, begun together.

    Returns:
        Milliseconds a step, seconds of audio per second of all together, and streams that would have run dry: had less audio
        at some round than had been played since their first.
    """
    frames, hop = round(seconds * FRAME_RATE), frames_per_step(device)
    joins = [Join(slot, prompt_of(slot), frames, fresh=True) for slot in range(count)]
    outputs = list(rows.step(joins, [], hop))
    settle(device)
    have = [0] * count
    begun: list[float | None] = [None] * count
    dry: set[int] = set()
    steps = 0
    start = time.perf_counter()
    while outputs:
        outputs = list(rows.step([], [], hop))
        now = time.perf_counter()
        steps += hop
        for output in outputs:
            since = begun[output.slot]
            if since is not None and (now - since) * SAMPLE_RATE > have[output.slot]:
                dry.add(output.slot)
            if output.audio.size and since is None:
                begun[output.slot] = now
            have[output.slot] += output.audio.size
    spent = time.perf_counter() - start
    return 1000 * spent / steps, count * seconds / spent, len(dry)


def bandwidth_limit(model: ZonosModel, count: int, seconds: float) -> float:
    """Milliseconds a step on an H200 if only reading weights and cache took time."""
    weight = next(model.heads.parameters())
    # Of the embeddings, a step reads nine rows each.
    weights = sum(value.numel() for name, value in model.named_parameters() if not name.startswith(("embeddings", "prefix")))
    backbone = model.config.backbone
    per_position = 2 * 2 * backbone.layers * backbone.kv_heads * backbone.head_dim
    cache = count * per_position * (PREFIX + seconds * FRAME_RATE / 2)
    return 1000 * (weights + cache) * weight.element_size() / H200_BANDWIDTH


def graphs_equal_eager(model: ZonosModel, steps: int) -> bool | None:
    """Whether graphs give the same codes as eager steps; None without a GPU. To be asked in fp32."""
    if next(model.parameters()).device.type != "cuda":
        return None
    said = []
    for warm in (False, True):
        decoder = Decoder(model, slots=2, positions=512, noise=endless)
        if warm:
            decoder.warm_up(lambda share: None)
        decoder.join(0, prompt_of(0), steps + 20)
        decoder.join(1, replace(prompt_of(1), guidance=3.0), steps + 20)
        said.append([decoder.steps(7) for _ in range(steps // 7)])
    return said[0] == said[1]


def original_speed(model: ZonosModel, steps: int) -> float | None:
    """Milliseconds a step of the original's loop with one stream, or None where it cannot be imported."""
    if importlib.util.find_spec("zonos") is None:
        return None
    try:
        module: Any = importlib.import_module("zonos.model")
        backbones: Any = importlib.import_module("zonos.backbone").BACKBONES
        configs: Any = importlib.import_module("zonos.config")
    except ImportError:
        return None

    class NoCodec:
        num_codebooks = CODEBOOKS

    backbone = model.config.backbone
    attention = {"num_heads": backbone.heads, "num_heads_kv": backbone.kv_heads}
    module.DACAutoencoder = NoCodec
    config = configs.ZonosConfig(
        configs.BackboneConfig(
            d_model=backbone.width, attn_mlp_d_intermediate=backbone.mlp_width, n_layer=backbone.layers, attn_cfg=attention
        ),
        configs.PrefixConditionerConfig([{"type": "EspeakPhonemeConditioner", "name": "espeak"}], "linear"),
    )
    weight = next(model.heads.parameters())
    with weight.device:
        net = module.Zonos(config, backbones["torch"]).to(weight.dtype).eval()
        prefix = torch.randn(2, PREFIX, backbone.width, dtype=weight.dtype)
    spent = []
    for _ in range(2):  # the first compiles
        start = time.perf_counter()
        net.generate(prefix, max_new_tokens=steps, progress_bar=False)
        settle(weight.device)
        spent.append(time.perf_counter() - start)
    return 1000 * spent[-1] / (steps + 8)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"))
    parser.add_argument("--tiny", action="store_true", help="a model of a few thousand parameters")
    parser.add_argument("--streams", type=int, nargs="+")
    parser.add_argument("--seconds", type=float, help="audio of each stream")
    parser.add_argument("--original", action="store_true", help="time the original's loop too, if it is installed")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    gpu = device.type == "cuda"
    dtype = getattr(torch, options.dtype or ("bfloat16" if gpu else "float32"))
    streams = options.streams or ([1, 8, 32, 64, 100, 128, 200] if gpu else [1, 2])
    seconds = options.seconds or (10.0 if gpu else 0.6)
    backbone = TINY if options.tiny or not gpu else PUBLISHED

    with torch.inference_mode():
        model, codec = random_nets(backbone, device, dtype)
        parameters = sum(value.numel() for value in model.parameters())
        name = torch.cuda.get_device_name(device) if gpu else "CPU"
        print(f"{parameters / 1e9:.4f} billion parameters, {dtype}, {name}, torch {torch.__version__}")
        if dtype is torch.float32:
            print(f"graphs equal eager steps: {graphs_equal_eager(model, 70)}")
        positions = PREFIX + 16 + round(seconds * FRAME_RATE) + 2 * CODEBOOKS + 200
        print(f"{'streams':>8} {'ms/step':>8} {'limit':>8} {'x real time':>12} {'each':>7} {'dry':>5} {'GiB':>6}")
        for count in streams:
            rows = ZonosSlots(lambda report: (model, codec), slots=count, positions=positions, noise=endless)
            rows.load(lambda share, doing: None)
            if count == streams[0]:
                print(f"first audio, one stream: {1000 * first_audio(rows, device):.1f} ms (2411 samples, {HOP} a frame)")
            milliseconds, factor, dry = streams_together(rows, count, seconds, device)
            memory = torch.cuda.max_memory_allocated(device) / 2**30 if gpu else 0.0
            limit = bandwidth_limit(model, count, seconds)
            print(
                f"{count:8} {milliseconds:8.2f} {limit:8.2f} {factor:12.2f} {factor / count:7.2f} {dry:5} {memory:6.1f}",
                flush=True,
            )
            rows.unload()
        if options.original:
            speed = original_speed(model, 86 if gpu else 5)
            print("original: not installed" if speed is None else f"original, one stream: {speed:.2f} ms/step")


if __name__ == "__main__":
    main()
