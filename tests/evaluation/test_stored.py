"""A dictionary measured on activations that are there already."""

import dataclasses

import pytest

import itda
from itda.errors import CorpusError, MismatchError, ShapeError
from support import tiny


@pytest.fixture(scope="module")
def parts():
    return itda.Corpus.from_texts([text * 2 for text in tiny.KINGS]).split(held_out=0.3)


@pytest.fixture(scope="module")
def dictionary(model, parts):
    return itda.build(model, parts[0], site="resid_post.1", atoms=40, steps=4, progress=False)


def test_its_numbers_are_those_of_a_model_that_runs(model, parts, dictionary, tmp_path):
    whole = itda.evaluate(dictionary, model, parts[1], tokens=None, progress=False)
    captured = itda.capture(model, parts[1], "resid_post.1", progress=False)
    stored = itda.capture(model, parts[1], "resid_post.1", store=tmp_path / "store", progress=False)
    for given in (captured, stored):
        report = itda.evaluate_activations(dictionary, given, progress=False)
        assert report.fvu == pytest.approx(whole.fvu, rel=1e-5)
        assert report.residual_fvu == pytest.approx(whole.residual_fvu, rel=1e-5)
        assert report.tokens == whole.tokens
        assert report.l0 == pytest.approx(whole.l0)
        assert report.delta_ce is None
        assert set(report.baselines) == {"mean", "token mean"}
        assert report.intervals["fvu"] == pytest.approx(whole.intervals["fvu"], rel=1e-4)
        assert "no loss" in str(report)


def test_documents_it_was_built_from_are_left_out(model, parts, dictionary):
    both = itda.Corpus.from_texts([text * 2 for text in tiny.KINGS])
    everything = itda.capture(model, both, "resid_post.1", progress=False)
    report = itda.evaluate_activations(dictionary, everything, progress=False)
    assert report.excluded_documents == len(parts[0])
    assert report.documents == len(parts[1])
    seen = itda.capture(model, parts[0], "resid_post.1", progress=False)
    with pytest.raises(CorpusError, match="none is held out"):
        itda.evaluate_activations(dictionary, seen, progress=False)


def test_what_does_not_belong_to_it_is_refused(model, parts, dictionary):
    other_site = itda.capture(model, parts[1], "resid_post.0", progress=False)
    with pytest.raises(MismatchError, match="built at 'resid_post.1'"):
        itda.evaluate_activations(dictionary, other_site, progress=False)
    other = itda.wrap(tiny.module("Llama", seed=1), tiny.tokenizer())
    with pytest.raises(MismatchError, match="belongs to the model"):
        itda.evaluate_activations(
            dictionary, itda.capture(other, parts[1], "resid_post.1", progress=False), progress=False
        )
    with pytest.raises(ShapeError, match="capture them first"):
        itda.evaluate_activations(dictionary, other_site.rows, progress=False)


def test_tokens_that_the_dictionary_leaves_out_are_no_part_of_it(model, parts, dictionary):
    everything = itda.capture(
        model, parts[1], "resid_post.1", special_tokens="keep", sinks="keep", bos=True, progress=False
    )
    with pytest.raises(MismatchError, match="special tokens, which the dictionary leaves out"):
        itda.evaluate_activations(dictionary, everything, progress=False)
    held_out = itda.capture(model, parts[1], "resid_post.1", progress=False)
    capture = dictionary.provenance.capture | {"sink_norm": float(held_out.rows.norm(dim=1).median())}
    strict = dataclasses.replace(dictionary, provenance=dataclasses.replace(dictionary.provenance, capture=capture))
    report = itda.evaluate_activations(strict, held_out, progress=False)
    assert report.not_decomposed["sink"] == len(held_out) // 2
    assert report.tokens == len(held_out) - len(held_out) // 2
    assert report.everything_replaced is not None
    chats = dataclasses.replace(
        dictionary, provenance=dataclasses.replace(dictionary.provenance, capture=capture | {"roles": ["user"]})
    )
    with pytest.raises(MismatchError, match=r"of what user says.* roles=\['user'\]"):
        itda.evaluate_activations(chats, held_out, progress=False)
