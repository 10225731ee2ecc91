"""Every filter of the sampler against a slow one written for a single row."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engines.zonos.models import torch
from tts_provider.engines.zonos.config import EOS, HEAD_WIDTH, MASK, VOCABULARY
from tts_provider.engines.zonos.sampling import Sampling, SamplingRows, sample

Row = npt.NDArray[np.float64]


def slow(logits: Row, noise: Row, said: list[int], setting: Sampling, *, eos: bool) -> int:
    """One codebook's code, step by step, in fp64."""
    logits = logits.copy()
    if not eos:
        logits[EOS] = -np.inf
    for code in said:
        if code < HEAD_WIDTH:
            logits[code] = (
                logits[code] * setting.repetition_penalty if logits[code] <= 0 else logits[code] / setting.repetition_penalty
            )
    if setting.temperature == 0:
        return int(np.argmax(logits))
    p = np.exp(logits / setting.temperature - np.max(logits / setting.temperature))
    p /= p.sum()
    if setting.linear > 0:
        logs = np.log(np.maximum(p, 1e-20))
        entropy = -(p * logs).sum()
        raw = np.where(p > 0, logs * (setting.linear + entropy * setting.confidence) - logs**2 * setting.quadratic, -np.inf)
        p = np.exp(raw - raw.max())
        p /= p.sum()
    if setting.top_p > 0:
        order = np.argsort(-p, kind="stable")
        before = np.cumsum(p[order]) - p[order]
        p[order[before > setting.top_p]] = 0
        p /= p.sum()
    if setting.top_k > 0:
        p[p < np.sort(p)[-min(setting.top_k, len(p))]] = 0
        p /= p.sum()
    if setting.min_p > 0:
        p[p < setting.min_p * p.max()] = 0
    return int(np.argmax(p / noise))


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_p=st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]),
    top_k=st.sampled_from([0, 1, 2, 50, 1025]),
    min_p=st.sampled_from([0.0, 0.02, 0.1, 1.0]),
    linear=st.sampled_from([0.0, 0.5, 1.0]),
    confidence=st.sampled_from([-0.2, 0.0, 0.4]),
    quadratic=st.sampled_from([0.0, 0.1]),
    repetition_penalty=st.sampled_from([1.0, 1.5, 3.0]),
)


def rows_of(*all_settings: Sampling) -> SamplingRows:
    """Settings of several rows."""
    rows = SamplingRows(len(all_settings), torch.device("cpu"))
    for index, setting in enumerate(all_settings):
        rows.set(index, setting)
    return rows


@settings(max_examples=60, deadline=None)
@given(st.lists(samplings, min_size=1, max_size=4), st.integers(0, 10_000), st.booleans())
def test_a_batch_of_rows_equals_the_slow_sampler_row_by_row(chosen: list[Sampling], seed: int, first: bool) -> None:
    """Rows with other settings side by side, codes in the penalty's window twice, once, and places without a frame."""
    random = np.random.RandomState(seed)
    count = len(chosen)
    logits = (4 * random.standard_normal((count, 9, HEAD_WIDTH))).astype(np.float32)
    noise = random.exponential(size=(count, 9, VOCABULARY)).astype(np.float32)
    said = random.randint(0, HEAD_WIDTH, size=(count, 2, 9))
    said[:, :, 1] = MASK
    said[:, 1, 2] = said[:, 0, 2]
    said[:, :, 3] = logits[:, 3].argmax(-1)[:, None]
    said[:, 1, 4] = logits[:, 4].argmax(-1)
    said[:, 0, 5] = logits[:, 5].argmax(-1)
    logits[:, ::2, EOS] = 15.0  # an end is wanted, by some that may not say it
    codes = sample(
        torch.from_numpy(logits),
        torch.from_numpy(noise),
        rows_of(*chosen),
        None if first else torch.from_numpy(said),
        shaped=any(setting.shapes_distribution for setting in chosen),
        eos_in_all=first,
    )
    for row, setting in enumerate(chosen):
        for book in range(9):
            expected = slow(
                logits[row, book].astype(np.float64),
                noise[row, book, :HEAD_WIDTH].astype(np.float64),
                [] if first else said[row, :, book].tolist(),
                setting,
                eos=first or book == 0,
            )
            assert int(codes[row, book]) == expected, (setting, book)


@settings(max_examples=60, deadline=None)
@given(samplings, st.integers(0, 10_000), st.sampled_from([0.0, 1e-3, 30.0, 1e4]))
def test_there_is_always_a_code(setting: Sampling, seed: int, spread: float) -> None:
    """Flat and extreme logits, some of them minus infinity, never give NaN, an id out of range or a banned end."""
    random = np.random.RandomState(seed)
    logits = torch.from_numpy((spread * random.standard_normal((1, 9, HEAD_WIDTH))).astype(np.float32))
    logits[:, :, ::3] = -torch.inf
    noise = torch.from_numpy(random.exponential(size=(1, 9, VOCABULARY)).astype(np.float32))
    noise[:, :, 0] = 0.0
    said = torch.full((1, 2, 9), MASK)
    codes = sample(logits, noise, rows_of(setting), said, shaped=True)
    assert bool(((codes >= 0) & (codes < HEAD_WIDTH)).all())
    assert bool((codes[:, 1:] < EOS).all())


def test_a_negative_quadratic_does_not_bring_a_banned_code_back() -> None:
    """In the original, the penalty on small probabilities turned round favours those of zero."""
    setting = Sampling(linear=0.1, quadratic=-2.0, min_p=0.0)
    logits = torch.zeros(1, 9, HEAD_WIDTH)
    codes = sample(logits, torch.ones(1, 9, VOCABULARY), rows_of(setting), torch.full((1, 2, 9), MASK), shaped=True)
    assert bool((codes[:, 1:] < EOS).all())


@pytest.mark.parametrize("other", [Sampling(), Sampling(linear=0.5, top_p=0.5, top_k=3), Sampling(temperature=0.0)])
def test_a_neighbours_settings_do_not_matter(other: Sampling) -> None:
    """To the last bit: the same codes beside any neighbour, and alone."""
    random = np.random.RandomState(3)
    logits = torch.from_numpy(random.standard_normal((2, 9, HEAD_WIDTH)).astype(np.float32))
    noise = torch.from_numpy(random.exponential(size=(2, 9, VOCABULARY)).astype(np.float32))
    said = torch.full((2, 2, 9), MASK)
    alone = sample(logits[:1], noise[:1], rows_of(Sampling()), said[:1], shaped=False)
    beside = sample(logits, noise, rows_of(Sampling(), other), said, shaped=other.shapes_distribution)
    assert torch.equal(alone[0], beside[0])


def test_a_view_of_rows_sees_later_changes() -> None:
    """What a captured graph reads is what is set afterwards."""
    rows = rows_of(Sampling(), Sampling())
    view = rows.first(1, 1)
    rows.set(1, dataclasses.replace(Sampling(), top_k=7))
    assert int(view.top_k) == 7
