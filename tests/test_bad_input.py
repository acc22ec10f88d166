"""What is wrong is refused where it is given, in words, by every door."""

import numpy as np
import pytest
import torch

import itda
from itda import steer
from itda.errors import ActivationError, CorpusError, ItdaError, OptionError, ShapeError, SiteError
from support import tiny

SITE = "resid_post.1"


@pytest.fixture(scope="module")
def gpt():
    return itda.wrap(tiny.module("GPT-2"), tiny.tokenizer())


@pytest.fixture(scope="module")
def corpus():
    return itda.Corpus.from_texts(tiny.KINGS)


@pytest.fixture(scope="module")
def dictionary(gpt, corpus):
    return itda.build(gpt, corpus, site=SITE, atoms=24, steps=3, progress=False)


def test_texts_that_no_tokenizer_takes(gpt):
    broken = "a\ud800b"
    assert steer.generate(gpt, broken, max_new_tokens=2)[0].prompt == broken
    assert len(itda.capture_generation(gpt, [broken], new_tokens=2, progress=False)) > 0
    steer.SteeringVector.fit(gpt, [(broken, "b king"), ("a queen", "b")], [SITE], progress=False)
    vector = steer.SteeringVector.from_direction(gpt, SITE, torch.ones(16), norm=1.0)
    for call in (
        lambda: steer.sweep(gpt, vector, [("a", "b", "c")], [1], progress=False),
        lambda: steer.sweep(gpt, vector, [("a", "b", "c")], None, progress=False),
        lambda: steer.sweep(gpt, vector, None, ["the king"], progress=False),
        lambda: steer.generate(gpt, None),
        lambda: itda.capture_generation(gpt, None, progress=False),
        lambda: itda.capture_generation(gpt, ["a"], seed="x", progress=False),
    ):
        with pytest.raises((CorpusError, OptionError)):
            call()


def test_corpora(tmp_path, corpus):
    rows = [{"text": "a king"}, {"text": "a queen"}]
    assert len(list(itda.Corpus.from_dataset(rows, limit=1))) == 1
    for dataset in (None, 3, [1]):
        with pytest.raises(CorpusError):
            list(itda.Corpus.from_dataset(dataset))
    with pytest.raises(CorpusError, match="name of a column"):
        itda.Corpus.from_dataset(rows, text_field=[])
    (tmp_path / "long.jsonl").write_text('{"text": "a"}\n{"text": ' + "1" * 5000 + "}\n")
    with pytest.raises(CorpusError, match="Line 2 of .* cannot be read"):
        list(itda.Corpus.from_files(tmp_path / "long.jsonl"))
    for ids in (corpus.ids[0], None):
        with pytest.raises(CorpusError, match="takes ids"):
            corpus.without(ids)
    for seed in (None, object(), float("nan"), "x"):
        with pytest.raises(OptionError, match="seed"):
            corpus.split(seed=seed)


def test_matrices(gpt, corpus, dictionary):
    rows = torch.randn(5, 16)
    masked = np.ma.masked_array(rows.numpy(), mask=np.eye(5, 16, dtype=bool))
    for wrong in (rows.to_sparse(), rows.to("meta"), masked):
        with pytest.raises(ShapeError):
            dictionary.encode(wrong)
    for wrong in (rows, None, {}):
        with pytest.raises(ShapeError, match="takes the Codes"):
            dictionary.decode(wrong)
    with pytest.raises(OptionError, match="Coding"):
        dictionary.encode(rows, coding=[])
    with pytest.raises(OptionError, match="steps must be"):
        itda.build_from_activations(rows, atoms=4, steps="x", progress=False)
    with pytest.raises(OptionError, match="Dictionary"):
        itda.evaluate_activations(None, itda.capture(gpt, corpus, SITE, progress=False))
    with pytest.raises(ItdaError):
        itda.merge(None)


def test_questions_to_a_dictionary(dictionary, tmp_path):
    for question in ({"text": 5}, {"text": ""}, {"token": 5}, {"text": []}):
        with pytest.raises(OptionError, match="not empty"):
            dictionary.find(**question)
    folder = dictionary.save_pretrained(tmp_path / "d")
    with pytest.raises(OptionError, match="overwrite must be True or False"):
        dictionary.save_pretrained(folder, overwrite="no")


@pytest.mark.parametrize("site", [3, "", [], [3]])
def test_sites(gpt, corpus, site):
    with pytest.raises((SiteError, OptionError)):
        itda.capture(gpt, corpus, site, progress=False)
    with pytest.raises(SiteError):
        gpt.site(site)


def test_vectors(gpt, dictionary):
    for norm in (float("nan"), -1, "x", 0):
        with pytest.raises(OptionError, match="norm must be"):
            steer.SteeringVector.from_direction(gpt, SITE, torch.ones(16), norm=norm)
    for direction in (None, "x", {}):
        with pytest.raises(ShapeError, match="vector of numbers"):
            steer.SteeringVector.from_direction(gpt, SITE, direction)
    for weights in (None, {1: "a"}, {1: 0}, {1: float("nan")}):
        with pytest.raises(OptionError):
            steer.SteeringVector.from_atoms(dictionary, weights)


def test_dense_features_are_features():
    features = np.abs(np.random.default_rng(0).normal(size=(20, 6)))
    features[:10, 2] += 5
    found = steer.Concept.from_features("a", features, [True] * 10 + [False] * 10)
    assert 2 in found.atoms
    with pytest.raises(OptionError, match="atoms must be"):
        steer.Concept.from_features("a", features, [True] * 10 + [False] * 10, atoms=-1)
    with pytest.raises(ActivationError):
        itda.build_from_activations(torch.full((9, 4), float("nan")), atoms=2, progress=False)
