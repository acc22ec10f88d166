"""A vector is read as atoms, carried to another model by them, and one atom's coefficient can be changed."""

import pytest
import torch

import itda
from itda import compare, steer
from itda.errors import MismatchError, OptionError
from itda.models import tokenizing
from support import tiny

SITE = "resid_post.1"
CORPUS = itda.Corpus.from_texts(tiny.KINGS)


@pytest.fixture(scope="module")
def gpt():
    return itda.wrap(tiny.module("GPT-2"), tiny.tokenizer())


@pytest.fixture(scope="module")
def other():
    return itda.wrap(tiny.module("GPT-2", seed=1), tiny.tokenizer())


@pytest.fixture(scope="module")
def dictionary(gpt):
    coding = itda.Coding(steps=4, method="omp", nonnegative=True)
    return itda.build(gpt, CORPUS, site=SITE, atoms=12, coding=coding, method="random", progress=False)


def test_a_sum_of_atoms_is_read_as_these_atoms(dictionary):
    vector = steer.SteeringVector.from_atoms(dictionary, {3: 2.0, 7: -1.0})
    found = vector.explain(dictionary, count=2)
    assert found.unexplained == pytest.approx(0, abs=1e-5)
    assert [(one.atom, one.coefficient > 0) for one in found.atoms] == [(3, True), (7, False)]
    assert found.atoms[0].coefficient / found.atoms[1].coefficient == pytest.approx(-2, rel=1e-3)
    assert found.atoms[0].text == dictionary.describe(3)
    assert "is in none of these atoms" in str(found)
    assert found.to_json()["atoms"][0]["atom"] == 3


def test_a_difference_of_activations_is_carried_as_that_difference(dictionary, other):
    """x_1 - x_2 in one model is y_1 - y_2 in the other: the same places of the same texts."""
    there = compare.transplant(dictionary, other, CORPUS, progress=False)
    first, second = 2, 9
    difference = dictionary.activations[first] - dictionary.activations[second]
    vector = steer.SteeringVector(directions={SITE: difference}, norms={SITE: 1.0}, model=dictionary.provenance.model)
    carried = vector.transfer(dictionary, there, count=2)
    expected = there.activations[first] - there.activations[second]
    assert carried.sites == (SITE,)
    assert float(torch.nn.functional.cosine_similarity(carried.directions[SITE], expected, dim=0)) > 0.9999
    assert carried.directions[SITE].norm() == pytest.approx(1)
    assert carried.model.is_same_model(other.record)
    with carried.apply(other, 0.5):
        pass


def test_carrying_is_refused_without_its_own_dictionary(gpt, other, dictionary):
    vector = steer.SteeringVector.from_atom(dictionary, 0)
    there = compare.transplant(dictionary, other, CORPUS, progress=False)
    second = itda.build(gpt, CORPUS, site=SITE, atoms=10, steps=2, method="random", seed=3, progress=False)
    with pytest.raises(MismatchError, match="transplant"):
        vector.transfer(second, there)
    with pytest.raises(MismatchError, match="transplant"):
        vector.transfer(dictionary, dictionary)
    elsewhere = itda.build(gpt, CORPUS, site="resid_post.0", atoms=10, steps=2, method="random", progress=False)
    with pytest.raises(OptionError, match="the dictionary at resid_post.0"):
        vector.explain(elsewhere)
    foreign = itda.build(other, CORPUS, site=SITE, atoms=10, steps=2, method="random", progress=False)
    with pytest.raises(MismatchError, match="of the model"):
        vector.explain(foreign)
    bare = itda.build_from_activations(torch.randn(50, 16), atoms=4, steps=1, progress=False)
    with pytest.raises(OptionError, match="bare array"):
        vector.explain(bare)


@pytest.mark.parametrize(("kind", "value"), [("set", 3.0), ("scale", 0.0), ("scale", 2.5), ("clamp", 0.5)])
def test_an_atom_gets_another_coefficient_and_the_rest_stays(gpt, dictionary, kind, value):
    part = tokenizing.windows(gpt, ["the good king and the old queen"], length=48)[0][0]
    inputs = tokenizing.batch(gpt, [part], length=None)
    place = gpt.site(SITE)
    before = gpt.read(inputs, [place])[SITE][0]
    codes = dictionary.encode(before)
    atom = int(codes.usage(12).argmax())
    had = torch.where(codes.atoms == atom, codes.coefficients, 0).sum(1)
    wanted = {"set": torch.full_like(had, value), "scale": value * had, "clamp": had.clamp_max(value)}[kind]
    with steer.AtomEdit(dictionary, atom, kind, value).apply(gpt) as told:
        after = gpt.read(inputs, [place])[SITE][0]
    assert torch.allclose(after - before, (wanted - had)[:, None] * dictionary.atoms[atom], atol=1e-4)
    assert f"atom {atom}" in str(told)
    assert bool((had > 0).any())


def test_edits_of_atoms_are_checked(gpt, other, dictionary):
    for atom, kind, value in ((12, "set", 1.0), (0, "double", 1.0), (0, "set", float("nan")), ("0", "set", 1.0)):
        with pytest.raises(OptionError):
            steer.AtomEdit(dictionary, atom, kind, value)
    with pytest.raises(MismatchError):
        steer.AtomEdit(dictionary, 0, "set", 1.0).apply(other)
