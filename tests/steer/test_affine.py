"""Trained maps bring one distribution to another, at the strength that is asked, and leave alone what they need not."""

import pytest
import torch

import itda
from itda.errors import CorpusError, FormatError, MismatchError, OptionError
from itda.steer import affine
from itda.steer.reading import read_texts
from support import tiny

SITES = ["resid_post.0", "resid_post.1"]
SOURCE = [f"the bad king of number {number}" for number in range(16)]
TARGET = [f"a good old queen, {number} and more" for number in range(12)]


@pytest.fixture(scope="module")
def gpt():
    return itda.wrap(tiny.module("GPT-2"), tiny.tokenizer())


@pytest.fixture(scope="module")
def trained(gpt):
    return affine.fit(gpt, SOURCE, TARGET, SITES, read="mean", steps=100, progress=False)


def distance(gpt, mapped=None, strength=1.0):
    target = read_texts(gpt, TARGET, SITES, read="mean", progress=False).rows
    if mapped is None:
        source = read_texts(gpt, SOURCE, SITES, read="mean", progress=False).rows
    else:
        with mapped.apply(gpt, strength):
            source = read_texts(gpt, SOURCE, SITES, read="mean", progress=False).rows
    return sum(float((affine.wasserstein(source[name], target[name]) / target[name].std(0)).mean()) for name in SITES)


def test_the_distance_is_that_of_sorted_samples():
    first, second = torch.randn(50, 3), torch.randn(50, 3) * 2 + 1
    expected = (first.sort(0).values - second.sort(0).values).abs().mean(0)
    assert torch.allclose(affine.wasserstein(first, second), expected)
    assert torch.allclose(affine.wasserstein(first, first[torch.randperm(50)]), torch.zeros(3), atol=1e-6)
    assert torch.allclose(affine.wasserstein(first, first + 2), torch.full((3,), 2.0), atol=1e-5)
    many = torch.randn(4000, 3)
    assert bool((affine.wasserstein(many, many[:1500]) < 0.15).all())
    twice = first.repeat_interleave(2, 0)
    assert bool((affine.wasserstein(first, twice) < 0.05).all())


def test_maps_bring_the_distributions_together(gpt, trained):
    before, after = distance(gpt), distance(gpt, trained)
    assert after < 0.3 * before
    assert trained.facts["distance_before"] == pytest.approx(before, rel=1e-3)
    assert before > distance(gpt, trained, 0.5) > after
    assert distance(gpt, trained, 0.0) == pytest.approx(before, rel=1e-5)
    assert all(parameter.grad is None for parameter in gpt.module.parameters())


def test_every_token_can_be_a_sample(gpt):
    mapped = affine.fit(gpt, SOURCE, TARGET, SITES[:1], read="tokens", steps=80, progress=False)
    wanted, before = (
        read_texts(gpt, texts, SITES[:1], read="tokens", progress=False).rows for texts in (TARGET, SOURCE)
    )
    with mapped.apply(gpt):
        after = read_texts(gpt, SOURCE, SITES[:1], read="tokens", progress=False).rows
    apart = [affine.wasserstein(rows[SITES[0]], wanted[SITES[0]]).mean() for rows in (before, after)]
    assert len(before[SITES[0]]) > len(SOURCE)
    assert float(apart[1]) < 0.8 * float(apart[0])


def test_a_map_in_a_file_is_the_same(gpt, trained, tmp_path):
    path = trained.save(tmp_path / "map.safetensors")
    again = affine.AffineMap.load(path)
    assert again.sites == trained.sites
    assert again.facts == trained.facts
    for name in SITES:
        assert torch.equal(again.scales[name], trained.scales[name])
        assert torch.equal(again.shifts[name], trained.shifts[name])
    assert again.save(tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(FormatError):
        affine.AffineMap.load(path)


def test_the_map_is_its_formula(gpt, trained):
    place = gpt.site(SITES[0])
    ids = torch.tensor([[5, 9, 40]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    before = gpt.read(inputs, [place])[place.name]
    with trained.apply(gpt, 0.5) as told:
        after = gpt.read(inputs, [place])[place.name]
    scale, shift = trained.scales[SITES[0]], trained.shifts[SITES[0]]
    assert torch.allclose(after, before * (1 + 0.5 * (scale - 1)) + 0.5 * shift, atol=1e-5)
    assert "as it was trained" in str(told)


def test_sparse_maps_leave_more_alone(gpt, trained):
    sparse = affine.fit(gpt, SOURCE, TARGET, SITES, read="mean", steps=100, sparsity=0.2, progress=False)
    nothing = affine.fit(gpt, SOURCE, TARGET, SITES, read="mean", steps=30, sparsity=100.0, progress=False)

    def untouched(mapped):
        return sum(int((mapped.shifts[name] == 0).sum()) for name in SITES)

    assert untouched(sparse) > untouched(trained)
    assert untouched(nothing) == 32
    assert all(torch.equal(nothing.scales[name], torch.ones(16)) for name in SITES)


def test_bad_input_is_refused(gpt, trained):
    other = itda.wrap(tiny.module("GPT-2", seed=1), tiny.tokenizer())
    with pytest.raises(MismatchError, match="This map"):
        trained.apply(other)
    with pytest.raises(OptionError, match="strength"):
        trained.apply(gpt, float("nan"))
    with pytest.raises(CorpusError, match="at least two"):
        affine.fit(gpt, ["one"], TARGET, SITES, progress=False)
    with pytest.raises(OptionError, match="sparsity"):
        affine.fit(gpt, SOURCE, TARGET, SITES, sparsity=-1, progress=False)
    with pytest.raises(CorpusError):
        affine.fit(gpt, [], TARGET, SITES, progress=False)
