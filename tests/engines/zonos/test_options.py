"""Options of one request, with their ranges."""

from __future__ import annotations

import pytest

from tests.engines.zonos.models import torch  # noqa: F401, `assembly` needs it
from tts_provider.engines.zonos.assembly import make_prompt
from tts_provider.engines.zonos.options import read_options
from tts_provider.engines.zonos.sampling import Sampling
from tts_provider.errors import InvalidRequest

BAD: list[dict[str, object]] = [
    {"speaking_rate": 4.9},
    {"speaking_rate": 41},
    {"speaking_rate": "fast"},
    {"speaking_rate": True},
    {"pitch_std": -1},
    {"pitch_std": 401},
    {"fmax": 24_001},
    {"fmax": float("nan")},
    {"cfg_scale": 0.9},
    {"cfg_scale": 11},
    {"seed": -1},
    {"seed": 2**63},
    {"seed": 1.5},
    {"max_seconds": 0.5},
    {"max_seconds": 31},
    {"emotion": [1, 0]},
    {"emotion": [0] * 8},
    {"emotion": [2] + [0] * 7},
    {"emotion": "happy"},
    {"emotion": {"joy": 1}},
    {"emotion": {"happiness": "much"}},
    {"sampling": 1},
    {"sampling": {"heat": 1}},
    {"sampling": {"temperature": 2.1}},
    {"sampling": {"top_k": 1.5}},
    {"sampling": {"top_k": 1026}},
    {"sampling": {"min_p": -0.1}},
    {"sampling": {"repetition_penalty": 0.5}},
]


@pytest.mark.parametrize("extra", BAD, ids=str)
def test_what_is_wrong_or_out_of_range_is_refused(extra: dict[str, object]) -> None:
    """The error names the option, and its range or the names there are."""
    name = next(iter(extra))
    with pytest.raises(InvalidRequest, match=name) as caught:
        read_options(extra)
    assert caught.value.field == name


def test_nothing_given_is_the_originals_way() -> None:
    """Its emotion, rate, pitch, range, guidance and sampler."""
    options = read_options({"emotion": None, "seed": None})
    assert options == read_options({})
    prompt = make_prompt([2, 3], 24, [0.0] * 128, options, 5)
    assert (prompt.speaking_rate, prompt.pitch_std, prompt.fmax, prompt.guidance) == (15.0, 20.0, 22_050.0, 2.0)
    assert prompt.sampling == Sampling(min_p=0.1, repetition_penalty=3.0)
    assert prompt.emotion == (0.3077, 0.0256, 0.0256, 0.0256, 0.0256, 0.0256, 0.2564, 0.3077)


@pytest.mark.parametrize(("rate", "speed", "expected"), [(15, 1, 15), (15, 2, 30), (20, 0.5, 10), (15, 4, 40), (15, 0.25, 5)])
def test_speed_is_a_speaking_rate(rate: float, speed: float, expected: float) -> None:
    """It multiplies the rate, which stops at what the model knows."""
    assert read_options({"speaking_rate": rate}, speed).speaking_rate == expected


def test_emotions_by_name() -> None:
    """Those left out are 0."""
    assert read_options({"emotion": {"anger": 0.5, "neutral": 1}}).emotion == (0, 0, 0, 0, 0, 0.5, 0, 1)


def test_sampling_settings_reach_the_sampler() -> None:
    """By the names that the original gives them."""
    extra = {"sampling": {"temperature": 0.7, "linear": 0.5, "conf": 0.4, "quad": 0.1, "top_k": 30, "min_p": 0}}
    prompt = make_prompt([2, 3], 0, [0.0] * 128, read_options({**extra, "cfg_scale": 1}), 2**63)
    assert prompt.sampling == Sampling(temperature=0.7, linear=0.5, confidence=0.4, quadratic=0.1, top_k=30, min_p=0.0)
    assert prompt.guidance == 1.0
    assert prompt.seed == 0, "a seed of 63 bits, whatever was added to it"
