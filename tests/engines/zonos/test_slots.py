"""Rows that join, leave and end while others speak: each says what it would say alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pytest

from tests.engines.codec_lm.short_memory import Short
from tests.engines.zonos.models import scripted, speak, tiny_dac, tiny_model, torch
from tts_provider.engines.base import Samples
from tts_provider.engines.codec_lm import FinishReason, Join, Output
from tts_provider.engines.zonos import decoder as decoder_module
from tts_provider.engines.zonos.decoder import Decoder, Prompt
from tts_provider.engines.zonos.graphs import StepGraphs
from tts_provider.engines.zonos.phonemes import phoneme_ids
from tts_provider.engines.zonos.sampling import Sampling
from tts_provider.engines.zonos.slots import ZonosSlots

POSITIONS = 192
PROMPTS = [
    Prompt(phoneme_ids("hˈaɪ"), 24, seed=1, emotion=[0.5, 0, 0, 0, 0, 0, 0.2, 0.3]),
    Prompt(phoneme_ids("hˈaɪ ðˈɛɹ, wˈɜːld."), 3, seed=2, speaker=[0.1] * 128, guidance=1.0),
    Prompt(phoneme_ids("wˈʌn tˈuː"), 24, seed=3, sampling=Sampling(temperature=0.0)),
    Prompt(phoneme_ids("ʌ"), 60, seed=4, sampling=Sampling(linear=0.5, confidence=0.4, min_p=0.0)),
    Prompt(phoneme_ids("bˈaɪ " * 6), 16, seed=5, sampling=Sampling(top_p=0.9, top_k=40), guidance=3.0),
]
LIMITS = [30, 41, 17, 24, 36]


def loaded(slots: int) -> ZonosSlots:
    """The tiny model with so many slots, ready."""
    model = ZonosSlots(lambda report: (tiny_model(), tiny_dac()), slots=slots, positions=POSITIONS, noise=scripted())
    model.load(lambda share, doing: None)
    return model


@cache
def alone(index: int, limit: int) -> tuple[Samples, list[list[int]]]:
    """What a prompt becomes when nothing else runs: transformers' audio of its frames, and the frames."""
    prompt = PROMPTS[index]
    frames = speak(Decoder(tiny_model(), slots=1, positions=POSITIONS, noise=scripted()), prompt, limit)
    with torch.inference_mode():
        audio: Samples = tiny_dac().decode(audio_codes=torch.tensor(frames).T[None]).audio_values[0].numpy()
    return audio, frames


def close(actual: Samples, expected: Samples) -> None:
    """Equal but for the rounding of a codec that is run in other pieces."""
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, atol=2e-5 * max(1.0, float(np.abs(expected).max())))


class Collected:
    """What each join got."""

    def __init__(self) -> None:
        self.audio: dict[int, list[Samples]] = {}
        self.frames: dict[int, int] = {}
        self.finish: dict[int, FinishReason] = {}
        self._owner: dict[int, int] = {}

    def joined(self, slot: int, prompt: int) -> None:
        self._owner[slot] = prompt
        self.audio[prompt], self.frames[prompt] = [], 0

    def take(self, outputs: Sequence[Output]) -> list[int]:
        """Add outputs; return the slots that became free."""
        for output in outputs:
            prompt = self._owner[output.slot]
            self.audio[prompt].append(output.audio)
            self.frames[prompt] += output.frames
            if output.finish is not None:
                self.finish[prompt] = output.finish
        return [output.slot for output in outputs if output.finish is not None]


@pytest.mark.parametrize("frames", [1, 7])
def test_ragged_requests_over_few_slots_equal_solo_runs(frames: int) -> None:
    """Five requests, other lengths, samplers and guidance, joining and leaving three slots at other times."""
    model = loaded(3)
    got, free, waiting, step = Collected(), [0, 1, 2], list(range(len(PROMPTS))), 0
    while waiting or len(free) < 3:
        joins = []
        if waiting and free and step % 4 == 0:
            prompt, slot = waiting.pop(0), free.pop(0)
            joins = [Join(slot, PROMPTS[prompt], LIMITS[prompt], fresh=True)]
            got.joined(slot, prompt)
        free += got.take(model.step(joins, [], frames))
        step += 1
    for prompt, limit in enumerate(LIMITS):
        audio, codes = alone(prompt, limit)
        close(np.concatenate(got.audio[prompt]), audio)
        assert got.frames[prompt] == len(codes)


def test_a_slot_cut_off_leaves_nothing_behind() -> None:
    """A row thrown out in the middle, its cache then poisoned with NaN, does not touch the next row in its slot."""
    model = loaded(2)
    model.step([Join(0, PROMPTS[4], 60, fresh=True), Join(1, PROMPTS[0], 40, fresh=True)], [], 1)
    for _ in range(20):
        model.step([], [], 1)
    got = Collected()
    got.joined(0, 1)
    model.step([], [0], 1)
    assert model._decoder is not None
    with torch.inference_mode():
        model._decoder.cache.keys[:, 0] = torch.nan
        model._decoder.cache.values[:, 0] = torch.nan
    outputs = model.step([Join(0, PROMPTS[1], LIMITS[1], fresh=True)], [], 1)
    done: list[int] = []
    while 0 not in done:
        done += got.take([output for output in outputs if output.slot == 0])
        outputs = model.step([], [], 1)
    close(np.concatenate(got.audio[1]), alone(1, LIMITS[1])[0])


def test_the_first_audio_comes_after_the_prefill_and_21_steps() -> None:
    """2411 exact samples: 55 ms."""
    model = loaded(1)
    outputs = model.step([Join(0, PROMPTS[0], 60, fresh=True)], [], 1)
    steps = 1
    while not outputs[0].audio.size:
        outputs = model.step([], [], 1)
        steps += 1
    assert steps == 21
    assert outputs[0].audio.size == 14 * 512 - 4757
    close(outputs[0].audio, alone(0, 60)[0][:2411])


def test_on_a_gpu_the_first_audio_falls_on_the_end_of_a_round() -> None:
    """Three rounds of seven steps."""
    model = loaded(1)
    assert not model.step([Join(0, PROMPTS[0], 60, fresh=True)], [], 7)[0].audio.size
    assert not model.step([], [], 7)[0].audio.size
    assert model.step([], [], 7)[0].audio.size == 2411


def test_no_frame_is_decoded_twice_and_pushes_grow() -> None:
    """The codec gets 14, 8, 16 and then 24 frames at a time, each frame once."""
    model = loaded(1)
    got = Collected()
    got.joined(0, 0)
    done = got.take(model.step([Join(0, PROMPTS[0], 130, fresh=True)], [], 1))
    while not done:
        done = got.take(model.step([], [], 1))
    sizes = [block.size for block in got.audio[0] if block.size]
    assert [round(size / 512) for size in sizes[1:-1]] == [8, 16, 24, 24, 24]
    assert sum(sizes) == 130 * 512
    assert model.dac is not None
    assert model.dac.frames_decoded == 130


@pytest.mark.parametrize("eos_at", [1, 2, 9, 13, 14, 15, 30])
def test_an_end_of_speech_is_told_with_the_last_of_the_audio(eos_at: int) -> None:
    """All frames before the end, and nothing after it."""
    model = ZonosSlots(lambda report: (tiny_model(), tiny_dac()), slots=1, positions=POSITIONS, noise=scripted(eos_at=eos_at))
    model.load(lambda share, doing: None)
    prompt = dataclasses.replace(PROMPTS[0], sampling=Sampling(min_p=0.0), seed=50)
    got = Collected()
    got.joined(0, 0)
    done = got.take(model.step([Join(0, prompt, 60, fresh=True)], [], 7))
    while not done:
        done = got.take(model.step([], [], 7))
    assert got.finish[0] is FinishReason.STOP
    assert got.frames[0] == eos_at
    assert np.concatenate(got.audio[0]).size == eos_at * 512
    assert model.step([], [], 7) == []


def test_the_cap_is_told_as_such() -> None:
    """A speech that never ends has exactly the frames it was allowed."""
    model = loaded(1)
    got = Collected()
    got.joined(0, 2)
    done = got.take(model.step([Join(0, PROMPTS[2], 12, fresh=True)], [], 7))
    while not done:
        done = got.take(model.step([], [], 7))
    assert got.finish[2] is FinishReason.LENGTH
    assert got.frames[2] == 12


def test_leaving_takes_effect_in_the_same_step() -> None:
    """A slot in `leaves` is computed no more, and may be joined at once."""
    model = loaded(2)
    model.step([Join(0, PROMPTS[0], 40, fresh=True)], [], 1)
    assert [output.slot for output in model.step([Join(1, PROMPTS[1], 40, fresh=True)], [0], 1)] == [1]
    assert [output.slot for output in model.step([Join(0, PROMPTS[2], 40, fresh=True)], [1], 1)] == [0]
    assert model.step([], [0], 1) == []


def test_one_wait_for_the_device_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven steps of three rows read the device once, and once more for their audio at most."""
    model = loaded(3)
    model.step([Join(slot, PROMPTS[slot], 55, fresh=True) for slot in range(3)], [], 7)
    reads = 0
    for name in ("tolist", "item", "cpu", "numpy"):
        original = getattr(torch.Tensor, name)

        def counted(self: torch.Tensor, *args: object, _original: object = original, **kwargs: object) -> object:
            nonlocal reads
            reads += 1
            assert callable(_original)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)
    model.step([], [], 7)
    assert reads == 1


class Replayed(StepGraphs):
    """A stand-in for graphs: runs the step eagerly at the size that was captured, and refuses any other."""

    def __init__(self, step: Callable[[int, int, bool], None]) -> None:
        super().__init__(step)
        self.captured: set[tuple[int, int, bool]] = set()
        self.replayed: list[tuple[int, int, bool]] = []

    def capture(self, rows: int, length: int, shaped: bool) -> None:
        self._step(rows, length, shaped)
        self.captured.add((rows, length, shaped))

    def replay(self, rows: int, length: int, shaped: bool) -> None:
        assert (rows, length, shaped) in self.captured
        self.replayed.append((rows, length, shaped))
        self._step(rows, length, shaped)


def test_graph_sizes_cover_what_is_asked_and_change_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in powers of two, lengths in a few steps, both kinds of sampler: the codes are those of eager steps."""
    monkeypatch.setattr(decoder_module, "StepGraphs", Replayed)
    monkeypatch.setattr(decoder_module, "LENGTH_BUCKETS", (32, 64))
    said = []
    for graphs in (False, True):
        decoder = Decoder(tiny_model(), slots=3, positions=120, noise=scripted())
        with torch.inference_mode():
            if graphs:
                decoder.capture(lambda share: None)
            decoder.join(0, PROMPTS[0], 60)
            rounds = [decoder.steps(7) for _ in range(3)]
            decoder.join(2, PROMPTS[2], 50)
            decoder.join(1, PROMPTS[4], 30)
            rounds += [decoder.steps(7) for _ in range(4)]
            decoder.leave(1)
            rounds += [decoder.steps(7) for _ in range(2)]
        said.append(rounds)
        stand_in = decoder._graphs
    assert said[0] == said[1]
    assert isinstance(stand_in, Replayed)
    assert len(stand_in.captured) == 3 * 3 * 2
    assert stand_in.replayed[0] == (1, 32, False)
    assert stand_in.replayed[-1] == (3, 120, False)
    assert (3, 64, True) in stand_in.replayed


def run(model: ZonosSlots, steps: int) -> None:
    for _ in range(steps):
        model.step([], [], 2)


def finish(model: ZonosSlots, got: Collected, joins: Sequence[Join[Prompt]], leaves: Sequence[int] = ()) -> None:
    """Step until all of `joins` have ended."""
    left = {join.slot for join in joins}
    outputs = model.step(joins, leaves, 1)
    while left := left - set(got.take(outputs)):
        outputs = model.step([], [], 1)


@pytest.mark.parametrize("where", ["the prefill", "the codec's reset"])
def test_a_prompt_for_which_there_is_no_memory_fails_alone(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Its neighbour says what it would say alone, and so does the next in its slot."""
    model = loaded(2)
    got = Collected()
    got.joined(0, 0)
    got.take(model.step([Join(0, PROMPTS[0], LIMITS[0], fresh=True)], [], 1))
    assert model._decoder is not None
    assert model.dac is not None
    with monkeypatch.context() as patch:
        if where == "the prefill":
            patch.setattr(model._decoder.model, "prefill", Short(model._decoder.model.prefill, 1), raising=False)
        else:
            patch.setattr(model.dac, "reset", Short(model.dac.reset, 1))
        outputs = model.step([Join(1, PROMPTS[1], LIMITS[1], fresh=True)], [], 1)
    assert [output.slot for output in outputs if output.finish is FinishReason.MEMORY] == [1]
    got.take([output for output in outputs if output.slot == 0])
    got.joined(1, 2)
    finish(model, got, [Join(1, PROMPTS[2], LIMITS[2], fresh=True)], [1])
    while 0 not in got.finish:
        got.take(model.step([], [], 1))
    for prompt in (0, 2):
        close(np.concatenate(got.audio[prompt]), alone(prompt, LIMITS[prompt])[0])


@pytest.mark.parametrize("where", ["the step", "the codec"])
def test_slots_that_are_forgotten_after_a_step_without_memory_are_as_new(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    model = loaded(2)
    model.step([Join(0, PROMPTS[0], 60, fresh=True), Join(1, PROMPTS[1], 60, fresh=True)], [], 1)
    assert model._decoder is not None
    assert model.dac is not None
    with monkeypatch.context() as patch:
        if where == "the step":
            patch.setattr(model._decoder.model, "step", Short(model._decoder.model.step, 3), raising=False)
        else:
            patch.setattr(model.dac, "push", Short(model.dac.push, 15))
        with pytest.raises(torch.OutOfMemoryError):
            run(model, 40)
    got = Collected()
    joins = []
    for slot, prompt in enumerate((3, 2)):
        got.joined(slot, prompt)
        joins.append(Join(slot, PROMPTS[prompt], LIMITS[prompt], fresh=True))
    finish(model, got, joins, [0, 1])
    for prompt in (2, 3):
        close(np.concatenate(got.audio[prompt]), alone(prompt, LIMITS[prompt])[0])
