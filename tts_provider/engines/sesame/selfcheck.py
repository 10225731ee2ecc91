"""Checks to run once with the real weights, which no test of this project has: does this machine's CSM say what it should?

The command line calls `selfcheck` and prints what comes back.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from tts_provider.engines.base import ProgressReport, Samples
from tts_provider.engines.sesame.ending import EndRules, frame_cap
from tts_provider.engines.sesame.engine import DEFAULT_MODEL, FIXED_SEED, availability
from tts_provider.errors import EngineUnavailable

if TYPE_CHECKING:
    from tts_provider.engines.sesame.core import SesameModel

__all__ = ["Check", "selfcheck"]

TEXT: Final = "The quick brown fox jumps over the lazy dog, and nobody minds."
CHECKED_RULES: Final = EndRules(silent_frames=None, repeated_frames=None, tail_frames=10_000)
"""The model's own end or the cap, with all silence kept, so that codes and audio can be compared."""
CPU_TOLERANCE: Final = 1e-5
"""Of the peak, between streamed and one-shot audio in true fp32."""
GPU_TOLERANCE: Final = 1e-2
"""The same where convolutions compute in TF32 and pick algorithms by shape."""
FRAME_SECONDS: Final = 0.08
COMPARED_FRAMES: Final = 12
"""Frames compared with `generate()`; it takes a second each on a CPU."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    name: str
    passed: bool | None
    """None: it cannot be judged here, see `detail`."""
    detail: str


def selfcheck(
    *,
    model: str = DEFAULT_MODEL,
    dtype: str = "auto",
    device: str = "auto",
    voices: Path | None = None,
    text: str = TEXT,
    compare: bool = False,
    report: ProgressReport = lambda share, doing: None,
) -> Iterator[Check]:
    """Yield each check as it is made; stops at the first that all others need. Blocking: it loads and runs the model.

    Args:
        model, dtype, device, voices: as in `SesameEngine`.
        text: spoken with the first voice.
        compare: also compare codes with the library's `generate()`, in fp32 on the CPU; takes 16 GB of memory.
        report: told what is being loaded.
    """
    advice = availability()
    yield Check("libraries", advice is None, advice or "installed")
    if advice is not None:
        return
    from tts_provider.engines.sesame.core import SesameModel
    from tts_provider.engines.sesame.voices import find_voices

    began = time.perf_counter()
    try:
        known = find_voices(voices)
        loaded = SesameModel(model=model, dtype=dtype, device=device, slots=1, voices=list(known.values()), rules=CHECKED_RULES)
        loaded.load(report)
    except EngineUnavailable as error:
        yield Check("weights", False, error.message)
        return
    yield Check(
        "weights", True, f"{loaded.parameters / 1e6:.0f} M parameters in {time.perf_counter() - began:.1f} s, none missing"
    )
    try:
        voice = next(iter(known.values()))
        yield from _speak(loaded, text, voice.voice.id, voice.label)
    finally:
        loaded.unload()
    if compare:
        yield _compare(model, text)


def _speak(model: SesameModel, text: str, voice: str, label: int) -> Iterator[Check]:
    from tts_provider.engines.codec_lm import FinishReason, Join
    from tts_provider.engines.sesame.prompt import TurnPrompt

    prompt = TurnPrompt(model.tokens.turn(label, text), len(text), voice, FIXED_SEED, temperature=0.9, top_k=50)
    for _ in range(2):  # the first time warms up
        blocks: list[Samples] = []
        times: list[float] = []
        joins, finish = [Join(0, prompt, frame_cap(len(text)), fresh=True)], None
        while finish is None:
            began = time.perf_counter()
            (output,) = model.step(joins, [0] if joins else [], 1)
            times.append(time.perf_counter() - began)
            blocks.append(output.audio)
            joins, finish = [], output.finish
    sound = np.concatenate(blocks)
    codes = model.frames_of(0)
    seconds = len(sound) / model.sample_rate
    ended = finish is FinishReason.STOP
    yield Check("ending", ended, f"{seconds:.1f} s of audio, finish reason '{finish}'")
    if not codes:
        yield Check("streaming", None, "there was no audio to compare")
        return
    whole = model.decode_at_once(codes)
    error = float(np.abs(sound - whole).max() / max(float(np.abs(whole).max()), 1e-9)) if len(sound) == len(whole) else 1.0
    tolerance = GPU_TOLERANCE if model.on_gpu else CPU_TOLERANCE
    yield Check("streaming", error <= tolerance, f"differs from decoding at once by {error:.1e} of the peak")
    level = 20 * np.log10(max(float(np.sqrt(np.mean(np.square(whole)))), 1e-9))
    yield Check("loudness", -50 < level < 0, f"{level:.0f} dBFS")
    step = statistics.median(times[1:] or times)
    yield Check("speed", step < FRAME_SECONDS, f"{1000 * step:.1f} ms a frame, {FRAME_SECONDS / step:.2f} times real time")
    yield Check("first audio", None, f"{1000 * times[0]:.0f} ms after the text")


def _compare(model: str, text: str) -> Check:
    import torch
    import transformers

    from tts_provider.engines.codec_lm import Join
    from tts_provider.engines.sesame.core import SesameModel
    from tts_provider.engines.sesame.hub import locate
    from tts_provider.engines.sesame.prompt import TurnPrompt
    from tts_provider.engines.sesame.weights import LibraryModule

    own = SesameModel(model=model, dtype="float32", device="cpu", slots=1, voices=[], rules=CHECKED_RULES)
    own.load(lambda share, doing: None)
    try:
        ids = own.tokens.turn(0, text)
        prompt = TurnPrompt(ids, len(text), "", 0, temperature=0.0, top_k=1)
        own.step([Join(0, prompt, COMPARED_FRAMES, fresh=True)], [], COMPARED_FRAMES)
        said = own.frames_of(0)
    finally:
        own.unload()
    library: LibraryModule = transformers.CsmForConditionalGeneration
    oracle = library.from_pretrained(locate(model, lambda share, doing: None), dtype=torch.float32).eval()
    # The checkpoint's own settings sample; and the library must not leave the table random that the own loop ties.
    oracle.backbone_model.embed_tokens.embed_audio_tokens.weight = oracle.depth_decoder.model.embed_tokens.weight
    with torch.inference_mode():
        settings = {"do_sample": False, "depth_decoder_do_sample": False, "max_new_tokens": COMPARED_FRAMES}
        expected = oracle.generate(torch.tensor([ids]), **settings)[0].tolist()
    expected = [frame for frame in expected if any(frame[:-1])]
    equal = sum(ours == theirs for ours, theirs in zip(said, expected, strict=False))
    return Check("codes", said == expected, f"{equal} of {len(expected)} frames equal generate()")
