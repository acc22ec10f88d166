from dataclasses import replace

import pytest
import torch

from itda import Coding, Corpus, build_from_activations, build_many, capture, compare_codes
from itda.errors import ActivationError, MismatchError, OptionError, ShapeError
from itda.evaluation.stability import counterparts, kept
from itda.pursuit import Codes
from support import tiny

ROWS = torch.randn(400, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def dictionary():
    return build_from_activations(ROWS, atoms=64, steps=4, progress=False)


def codes(atoms, coefficients):
    return Codes(torch.tensor(atoms, dtype=torch.int32), torch.tensor(coefficients), torch.zeros(len(atoms)))


def test_what_is_kept_by_hand():
    one = codes([[0, 1], [2, -1]], [[3.0, 4.0], [1.0, 0.0]])
    other = codes([[1, 5], [2, 3]], [[4.0, 1.0], [1.0, 1.0]])
    found = kept(one, other)
    assert found.atoms == pytest.approx((1 / 2 + 1) / 2)
    assert found.energy == pytest.approx((16 / 25 + 1) / 2)
    assert found.chance == 0.0  # of two rows each is beside the other


def test_a_code_is_as_stable_as_the_change_is_small(dictionary):
    found = compare_codes(dictionary, ROWS, noise=(1e-6, 0.1, 10.0))
    small, some, large = (found.changes[f"noise of {length:g}"] for length in (1e-6, 0.1, 10.0))
    assert small.energy > 0.99
    assert small.energy >= some.energy > large.energy
    assert large.energy < 0.5
    # Matching pursuit takes one atom after the other, so one step less is the same code but for its end; and but for
    # an atom, now and then, that has to leave since the last one leaves it nothing to add
    assert found.changes["5 steps"].atoms > 0.995
    assert 0.7 < found.changes["3 steps"].atoms < 1.0
    assert "noise of 0.1" in str(found)


def test_another_dictionary(dictionary, model):
    same = compare_codes(dictionary, ROWS, others={"again": dictionary}).changes["again"]
    assert (same.atoms, same.energy, same.dictionary) == (1.0, 1.0, 1.0)
    rows = torch.randn(400, 16, generator=torch.Generator().manual_seed(9))
    strange = build_from_activations(rows, atoms=64, steps=4, progress=False)
    other = compare_codes(dictionary, ROWS, others={"other": strange}).changes["other"]
    assert other.dictionary < 0.2
    assert other.energy < 0.2
    # By name: the same places of the same texts are the same atoms, whatever their vectors
    found = capture(model, Corpus.from_texts(tiny.KINGS), "resid_post.1", progress=False)
    one = build_from_activations(found, atoms=32, steps=4, progress=False)
    places = counterparts(one, one, signed=False)
    assert places.tolist() == list(range(32))


def test_what_points_the_other_way_is_the_same_only_where_codes_have_signs(dictionary):
    turned = replace(dictionary, atoms=-dictionary.atoms)
    assert dictionary.coding.nonnegative
    assert compare_codes(dictionary, ROWS, others={"turned": turned}).changes["turned"].dictionary < 0.1
    signed = Coding(steps=4, method="omp")
    assert compare_codes(dictionary, ROWS, others={"turned": turned}, coding=signed).changes["turned"].dictionary == 1


def test_bad_input(dictionary, model):
    with pytest.raises(ActivationError, match="two at least"):
        compare_codes(dictionary, ROWS[:1])
    with pytest.raises(OptionError, match="noise must be"):
        compare_codes(dictionary, ROWS, noise=(-1.0,))
    with pytest.raises(ShapeError):
        compare_codes(dictionary, ROWS[:, :5])
    narrow = build_from_activations(ROWS[:, :8], atoms=32, steps=2, progress=False)
    with pytest.raises(MismatchError, match="width 8"):
        compare_codes(dictionary, ROWS, others={"narrow": narrow})
    corpus = Corpus.from_texts([text * 3 for text in tiny.KINGS])
    sites = build_many(model, corpus, sites=["resid_post.0", "resid_post.1"], atoms=16, steps=2, progress=False)
    with pytest.raises(MismatchError, match="'other' was built at 'resid_post.1'"):
        compare_codes(sites["resid_post.0"], torch.randn(9, 16), others={"other": sites["resid_post.1"]})
    with pytest.raises(OptionError, match="measured anyway"):
        compare_codes(dictionary, ROWS, others={"noise of 0.05": dictionary})
    for options in ({"noise": 0.1}, {"noise": "0.1"}, {"others": [dictionary]}, {"seed": 2**64}):
        with pytest.raises(OptionError, match="must be"):
            compare_codes(dictionary, ROWS, **options)
    with pytest.raises(ActivationError, match="has a code"):
        compare_codes(dictionary, dictionary.mean.expand(5, -1))
