"""Whole models beside each other: budgets, chance, architectures, the untrained null."""

import json

import numpy as np
import pytest

import itda
from itda import Corpus, compare
from itda.errors import OptionError
from support import tiny

CORPUS = Corpus.from_texts([f"{line} {number}" for number in range(4) for line in tiny.KINGS])


@pytest.fixture(scope="module")
def four():
    made = {"a": ("Llama", 0), "b": ("Llama", 1), "c": ("GPT-2", 0), "d": ("GPT-2", 1)}
    return {name: itda.wrap(tiny.module(kind, seed=seed), tiny.tokenizer()) for name, (kind, seed) in made.items()}


def test_a_model_is_most_like_itself_and_then_its_own_kind(four):
    found = compare.model_matrix(four, CORPUS, tokens=2_000, atoms=300, untrained="d", progress=False)
    assert np.diag(found.values) == pytest.approx(1)
    assert (found.values == found.values.T).all()
    assert found.architectures == ("llama, 3 x 16",) * 2 + ("gpt2, 3 x 16",) * 2
    assert found.within == found.values[0, 1], "the untrained model is in no mean"
    assert found.across == pytest.approx(found.values[[0, 1], 2].mean())
    assert found.beside_untrained == pytest.approx(found.values[:3, 3].mean())
    assert all(100 <= atoms <= 330 for atoms in found.atoms), "at most the budget, whatever the layers share"
    assert (found.expected < found.jaccard).all()
    assert "within architectures" in str(found)
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_one_architecture_has_nothing_across(four):
    found = compare.model_matrix({name: four[name] for name in "ab"}, CORPUS, tokens=500, atoms=90, progress=False)
    assert np.isnan(found.across)
    assert found.to_dict()["across"] is None
    assert found.difference()[1] is None


def test_bad_input(four):
    with pytest.raises(OptionError, match="3 layers"):
        compare.model_matrix(four, CORPUS, tokens=500, atoms=2, progress=False)
    with pytest.raises(OptionError, match="no model 'e'"):
        compare.model_matrix(four, CORPUS, tokens=500, untrained="e", progress=False)
    varied = Corpus.from_texts([f"{number} {number * 7919} {number * 104729}" for number in range(60)])
    with pytest.raises(OptionError, match="because there are no others"):
        compare.model_matrix({name: four[name] for name in "ab"}, varied, tokens=300, atoms=700, progress=False)
