"""Checks that a user runs once, with the real weights, which the test suite does not have."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
import trio
from transformers import DacModel

from tts_provider.engines.base import Samples
from tts_provider.engines.codec_lm import Join
from tts_provider.engines.codec_lm.device import choose_device, choose_dtype
from tts_provider.engines.zonos.config import CODEBOOKS, HOP, MASK, SAMPLE_RATE
from tts_provider.engines.zonos.dac import Push, StreamingDac
from tts_provider.engines.zonos.decoder import Decoder, Prompt
from tts_provider.engines.zonos.delay import FrameReader
from tts_provider.engines.zonos.g2p import PhonemeWorker, find_espeak
from tts_provider.engines.zonos.languages import CODES
from tts_provider.engines.zonos.mel import ENCODER_RATE
from tts_provider.engines.zonos.model import ZonosModel
from tts_provider.engines.zonos.phonemes import phoneme_ids
from tts_provider.engines.zonos.sampling import Sampling
from tts_provider.engines.zonos.slots import ZonosSlots, frames_per_step
from tts_provider.engines.zonos.speaker_encoder import SpeakerEncoder
from tts_provider.engines.zonos.weights import load_dac, load_model
from tts_provider.errors import TTSError

__all__ = ["Check", "selfcheck"]

TEXT: Final = "The quick brown fox jumps over the lazy dog."
PHONEMES: Final = "ðə kwˈɪk bɹˈaʊn fˈɑːks dʒˈʌmps ˌoʊvɚ ðə lˈeɪzi dˈɑːɡ."
FRAMES: Final = 60
STREAM_TOLERANCE: Final = 1e-4
"""Of the peak; rounding of the same sums in other pieces."""
HALF_TOLERANCE: Final = 0.05
"""Of the largest logit; bf16 is 1 % off."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    passed: bool | None
    """None: it could not be looked at here, or is a figure without a limit."""
    detail: str


def selfcheck(
    *,
    model: str,
    dac: str,
    speaker_model: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    slots: int = 4,
    wav: Path | None = None,
) -> Iterator[Check]:
    """Check phonemes, weights, codec, batching and speed, one after the other; blocking, minutes on a CPU.

    Not to be called in a task of trio: it runs one of its own.

    Args:
        model, dac, speaker_model, dtype, device: as `ZonosEngine` takes them; None leaves the speaker encoder out.
        slots: rows that are compared with a row alone.
        wav: write what was said there, to be listened to.
    """
    yield _phonemes()
    try:
        where = choose_device(device)
        kind = choose_dtype(dtype, where)
        net = load_model(model, where, kind, _quiet)
        codec = load_dac(dac, where, _quiet)
    except TTSError as error:
        yield Check("weights", False, error.message)
        return
    count = len(net.state_dict())
    yield Check("weights", True, f"{count} tensors, every one known and of its shape; {kind} on {where}")
    rows = ZonosSlots(lambda report: (net, codec), slots=slots)
    rows.load(_quiet)
    with torch.inference_mode():
        yield _half(net) if kind is not torch.float32 else Check("half precision", None, "runs in fp32")
        yield _batch(rows, exact=kind is torch.float32)
        audio, check = _stream(net, codec)
        yield check
        yield _speed(rows, where)
    if speaker_model is not None:
        yield _speaker(speaker_model, where)
    if wav is not None:
        import soundfile

        soundfile.write(wav, audio, SAMPLE_RATE)
        yield Check("listening", None, f"{FRAMES * HOP / SAMPLE_RATE:.1f} s of speech without a voice are in {wav}")


def _prompt(seed: int = 1) -> Prompt:
    return Prompt(phoneme_ids(PHONEMES), CODES.index("en-us"), emotion=[1 / 8] * 8, seed=seed)


def _quiet(share: float | None, doing: str) -> None:
    """A report that nobody reads."""


def _phonemes() -> Check:
    files = find_espeak()
    if files is None:
        return Check("phonemes", False, 'espeak-ng is missing: pip install "tts-provider[zonos]"')

    async def ask() -> str:
        async with PhonemeWorker(files) as worker:
            return await worker.phonemes(TEXT, "en-us")

    try:
        phonemes = trio.run(ask)
    except TTSError as error:
        return Check("phonemes", False, error.message)
    unknown = phoneme_ids(phonemes).count(1)
    return Check("phonemes", not unknown, f"{phonemes} ({unknown} unknown to the model)")


def _speaker(model: str, device: torch.device) -> Check:
    """The speaker encoder's files, and that it makes numbers."""
    try:
        encoder = SpeakerEncoder.load(model, device, None)
        voice = np.array(
            encoder.embed(np.random.RandomState(0).standard_normal(2 * ENCODER_RATE).astype(np.float32), ENCODER_RATE)
        )
    except TTSError as error:
        return Check("speaker encoder", False, error.message)
    return Check(
        "speaker encoder", True, f"{len(encoder.state_dict())} tensors; noise is a voice of length {np.linalg.norm(voice):.1f}"
    )


def _half(net: ZonosModel) -> Check:
    """The first logits in the loaded precision against fp32."""
    try:
        wide = copy.deepcopy(net).float()
    except (torch.OutOfMemoryError, MemoryError):
        return Check("half precision", None, "not compared: no room for the model in fp32")
    logits = []
    for each in (net, wide):
        each.fuse_heads()
        decoder = Decoder(each, slots=1, positions=128)
        prefix = each.conditioning(decoder.told(_prompt()))
        column = torch.full((1, CODEBOOKS), MASK, device=decoder.device)
        logits.append(each.prefill(prefix, column, decoder.cache, 0))
    off = float((logits[0] - logits[1]).abs().max() / logits[1].abs().max())
    return Check("half precision", off < HALF_TOLERANCE, f"first logits {off:.2%} of the largest off fp32")


def _say(rows: ZonosSlots, prompts: Sequence[Prompt]) -> list[Samples]:
    """What the rows say when they begin together."""
    blocks: list[list[Samples]] = [[] for _ in prompts]
    joins = [Join(slot, prompt, FRAMES, fresh=True) for slot, prompt in enumerate(prompts)]
    left = len(prompts)
    while left:
        for output in rows.step(joins, [], 7):
            blocks[output.slot].append(output.audio)
            left -= output.finish is not None
        joins = []
    return [np.concatenate(parts) for parts in blocks]


def _batch(rows: ZonosSlots, *, exact: bool) -> Check:
    """Rows side by side against the first of them alone."""
    prompts = [replace(_prompt(seed), sampling=Sampling()) for seed in range(rows.slots)]
    together, alone = _say(rows, prompts)[0], _say(rows, prompts[:1])[0]
    length = min(len(together), len(alone))
    same = np.abs(together[:length] - alone[:length]) <= STREAM_TOLERANCE * max(float(np.abs(alone).max()), 1e-9)
    until = length if same.all() else int(np.argmin(same))
    whole = until == length and len(together) == len(alone)
    return Check(
        "batching",
        whole if exact else None,
        f"a row beside {rows.slots - 1} others says the same as alone for {until / SAMPLE_RATE:.2f} of "
        f"{length / SAMPLE_RATE:.2f} s" + ("" if exact else " (half precision may differ after a tie)"),
    )


def _stream(net: ZonosModel, codec: DacModel) -> tuple[Samples, Check]:
    """The streaming codec against the whole clip at once."""
    decoder = Decoder(net, slots=1, positions=512)
    before, first = decoder.join(0, _prompt(), FRAMES)
    reader = FrameReader(before, FRAMES)
    columns, frames = [first], []
    while True:
        frames += [frame for column in columns if (frame := reader.push(column)) is not None]
        if reader.done:
            break
        columns = decoder.steps(7)[0]
    dac = StreamingDac(codec, 1)
    parts = [frames[start : start + 10] for start in range(0, len(frames), 10)]
    blocks = [dac.push([Push(0, part, last=part is parts[-1])])[0] for part in parts]
    codes = torch.tensor(frames, device=decoder.device).T[None]
    whole = codec.decode(audio_codes=codes).audio_values[0].float().cpu().numpy()
    streamed = np.concatenate(blocks)
    off = float(np.abs(streamed - whole).max() / max(float(np.abs(whole).max()), 1e-9))
    return whole, Check("streaming", off < STREAM_TOLERANCE, f"{off:.1e} of the peak off the clip decoded at once")


def _speed(rows: ZonosSlots, device: torch.device) -> Check:
    """One row: time to its first audio, and how much faster than real time it is after."""
    hop = frames_per_step(device)
    start = time.perf_counter()
    outputs = rows.step([Join(0, _prompt(2), 10 * FRAMES, fresh=True)], [], hop)
    first = 0.0
    frames = 0
    while frames < FRAMES and not (outputs and outputs[0].finish):
        outputs = rows.step([], [], hop)
        frames += outputs[0].frames
        if not first and outputs[0].audio.size:
            first = time.perf_counter() - start
    spent = time.perf_counter() - start
    rows.step([], [0], hop)
    factor = frames * HOP / SAMPLE_RATE / spent
    return Check("speed", None, f"first audio after {1000 * first:.0f} ms, {factor:.2f} × real time for one listener")
