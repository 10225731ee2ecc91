"""A row's next code is what `torch.multinomial` would draw from the same noise."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs the sesame extra")

from tts_provider.engines.sesame.sampling import Sampler, choose  # noqa: E402

CPU = torch.device("cpu")


@pytest.mark.parametrize(("temperature", "top_k"), [(0.9, 50), (1.3, 5), (0.5, 256)])
def test_one_row_draws_what_multinomial_draws(temperature: float, top_k: int) -> None:
    logits = torch.randn(1, 300, generator=torch.Generator().manual_seed(3)) * 4
    sampler = Sampler.new(1, 20, 300, CPU)
    sampler.set_row(0, temperature, top_k)
    sampler.draw(0, torch.Generator().manual_seed(11))
    library = torch.Generator().manual_seed(11)
    scores = logits / temperature
    scores = scores.masked_fill(scores < scores.topk(top_k).values[:, -1:], -torch.inf)
    expected = [int(torch.multinomial(scores.softmax(-1), 1, generator=library)) for _ in range(20)]
    assert [int(choose(logits.clone(), 300, sampler, codebook)) for codebook in range(20)] == expected
    assert len(set(expected)) > 1


def test_each_row_has_its_own_settings() -> None:
    logits = torch.randn(3, 100, generator=torch.Generator().manual_seed(1))
    sampler = Sampler.new(3, 1, 100, CPU)
    sampler.set_row(0, 0.0, 50)
    sampler.set_row(1, 1.0, 1)
    sampler.set_row(2, 2.0, 100)
    drawn = set()
    for seed in range(30):
        sampler.draw(2, torch.Generator().manual_seed(seed))
        codes = choose(logits.clone(), 100, sampler, 0)
        assert codes[:2].tolist() == logits[:2].argmax(-1).tolist(), "greedy, and top-k of one"
        drawn.add(int(codes[2]))
    assert len(drawn) > 10


def test_reserved_codes_are_never_chosen() -> None:
    logits = torch.zeros(2, 12)
    logits[:, 10:] = 50.0
    sampler = Sampler.new(2, 1, 12, CPU)
    sampler.set_row(1, 2.0, 256)
    for seed in range(20):
        sampler.draw(1, torch.Generator().manual_seed(seed))
        assert choose(logits.clone(), 10, sampler, 0).max() < 10
