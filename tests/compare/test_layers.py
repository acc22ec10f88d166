"""Layers of several models beside each other: the same places, one pass, two tokenizers, and what is refused."""

import numpy as np
import pytest
import torch

import itda
from itda import Corpus, compare, wrap
from itda.compare.layers import layers_at_common_places
from itda.errors import CorpusError, OptionError, SiteError
from itda.models.loading import Model
from support import tiny

CORPUS = Corpus.from_texts(tiny.KINGS)
PLAIN = {"tokens": 400, "progress": False}


@pytest.fixture(scope="module")
def two() -> dict[str, Model]:
    found = {}
    for seed, name in enumerate(("first", "second")):
        torch.manual_seed(seed)
        found[name] = wrap(tiny.module("Llama"), tiny.tokenizer())
    return found


def test_every_value_is_the_similarity_of_the_rows(two):
    several = compare.layer_matrices(two, CORPUS, measures=["cka", "regression", "neighbours"], **PLAIN)
    layers = layers_at_common_places(two, CORPUS, sites="resid_post", tokens=400, seed=0, progress=False)
    assert [layer.site for layer in layers] == [f"resid_post.{index}" for index in range(3)] * 2
    for measure, matrix in several.items():
        assert np.diag(matrix.values) == pytest.approx(1, abs=1e-5)
        for row, column in ((0, 4), (4, 0), (5, 2)):
            wanted = compare.similarity(
                layers[row].activations.rows, layers[column].activations.rows, measure
            )  # fmt: skip
            assert matrix.values[row, column] == pytest.approx(wanted, abs=1e-6)
    assert not np.allclose(several["regression"].values, several["regression"].values.T)
    assert (several["cka"].values == several["cka"].values.T).all()


def test_rows_are_of_the_same_places(two):
    layers = layers_at_common_places(two, CORPUS, sites="resid_post", tokens=400, seed=0, progress=False)
    places = [layer.activations.sources.keys() for layer in layers]
    assert all(one == places[0] for one in places)
    assert len(places[0]) == 400


def test_a_model_beside_itself_matches_every_layer(two):
    torch.manual_seed(0)
    same = {"first": two["first"], "again": wrap(tiny.module("Llama"), tiny.tokenizer())}
    found = compare.match_layers(compare.layer_matrix(same, CORPUS, measure="cka", **PLAIN))
    assert found.accuracy == 1


def test_whitened(two):
    matrix = compare.layer_matrix(two, CORPUS, measure="cka", whiten=True, **PLAIN)
    assert matrix.whiten
    plain = compare.layer_matrix(two, CORPUS, measure="cka", **PLAIN)
    assert not np.allclose(matrix.values, plain.values)


def test_what_a_measure_cannot_do_is_missing_and_said(two):
    several = compare.layer_matrices(two, CORPUS, measures=["cca", "cka"], tokens=30, progress=False)
    assert np.isnan(several["cca"].values).all()
    assert "need more than" in several["cca"].facts["missing"]
    assert not np.isnan(several["cka"].values).any()
    assert compare.match_layers(several["cca"]).missing == 6


def test_two_tokenizers_meet_where_tokens_of_both_end(data, stories):
    models = {name: itda.load_model(data / "models" / name) for name in ("stories260k", "babyllama-char105")}
    layers = layers_at_common_places(models, stories, sites=["resid_post.1"], tokens=300, seed=0, progress=False)
    first, second = (layer.activations for layer in layers)
    assert len(first) == len(second) == 300
    for one, other in zip(first.sources, second.sources, strict=True):
        assert (one.document, one.char_end, one.window_start) == (other.document, other.char_end, other.window_start)
        assert one.token.endswith(other.token) or other.token.endswith(one.token)
    matrix = compare.layer_matrix(models, stories, measure="cka", sites=["resid_post.1"], tokens=300, progress=False)
    assert 0.05 < matrix.values[0, 1] < 1
    assert 0.3 < matrix.facts["common"] < 0.7
    assert {one.window_start for one in first.sources} - {0}, "not only beginnings of documents"
    swapped = compare.layer_matrix(
        dict(reversed(models.items())), stories, measure="overlap", sites=["resid_post.1"], tokens=300, progress=False
    )
    same = compare.layer_matrix(models, stories, measure="overlap", sites=["resid_post.1"], tokens=300, progress=False)
    assert swapped.values[0, 1] == pytest.approx(same.values[0, 1])
    some = Corpus.from_texts([document.text for document in stories][:5])
    with pytest.raises(CorpusError, match="at which a token of every model ends"):
        compare.layer_matrix(models, some, measure="cka", sites=["resid_post.1"], tokens=5000, progress=False)


def test_layers_without_a_common_place_are_refused(two, monkeypatch):
    """As if sinks had taken every token of one model that the other kept."""
    halves = iter((slice(0, None, 2), slice(1, None, 2)))

    def half(*arguments, **options):
        rows = next(halves)
        found = itda.capture(*arguments, **options)
        return {site: one.select(torch.arange(len(one))[rows]) for site, one in found.items()}

    monkeypatch.setattr("itda.compare.layers.capture", half)
    with pytest.raises(CorpusError, match="by every model"):
        compare.layer_matrix(two, CORPUS, measure="cka", **PLAIN)


def test_bad_input(two, model):
    with pytest.raises(OptionError, match="one name"):
        compare.layer_matrix([model, model], CORPUS, measure="cka")
    with pytest.raises(OptionError, match="at least one"):
        compare.layer_matrix([], CORPUS, measure="cka")
    with pytest.raises(OptionError, match="no measure"):
        compare.layer_matrix(two, CORPUS, measure="similarity")
    with pytest.raises(OptionError, match="list of names"):
        compare.layer_matrices(two, CORPUS, measures="cka")
    with pytest.raises(OptionError, match="list of names"):
        compare.layer_matrices(two, CORPUS, measures=[])
    with pytest.raises(OptionError, match="no measure"):
        compare.layer_matrix(two, CORPUS, measure=["cka"])
    with pytest.raises(OptionError, match="a list or a mapping"):
        compare.layer_matrix(model, CORPUS, measure="cka")
    with pytest.raises(OptionError, match="sites must be one of"):
        compare.layer_matrix(two, CORPUS, measure="cka", sites=3)
    with pytest.raises(CorpusError, match="itda.Corpus"):
        compare.layer_matrix(two, "text", measure="cka")
    with pytest.raises(OptionError, match="sites must be one of"):
        compare.layer_matrix(two, CORPUS, measure="cka", sites="residual")
    with pytest.raises(SiteError, match="layers 0 to 2"):
        compare.layer_matrix(two, CORPUS, measure="cka", sites=["resid_post.1", "resid_post.9"])
    with pytest.raises(CorpusError, match="fewer"):
        compare.layer_matrix(two, CORPUS, measure="cka", tokens=10**6)
    with pytest.raises(OptionError, match="tokens"):
        compare.layer_matrix(two, CORPUS, measure="cka", tokens=0)
