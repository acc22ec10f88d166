import json

import numpy as np
import pytest
import torch

from itda import Corpus, build, build_from_activations, probe
from itda.errors import ActivationError, CorpusError, MismatchError, OptionError
from itda.evaluation.probing import _balanced, _draws
from support import tiny

TEXTS = [f"{word} number {number} of the old house" for number in range(30) for word in ("glad", "dull")]
LABELS = ["good" if text.startswith("glad") else "bad" for text in TEXTS]


@pytest.fixture(scope="module")
def dictionary(model):
    return build(model, Corpus.from_texts(tiny.KINGS), site="resid_post.1", atoms=32, progress=False)


@pytest.fixture(scope="module")
def report(model, dictionary):
    sign = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    return probe(dictionary, model, TEXTS, LABELS, others={"mine": lambda rows: rows @ sign}, progress=False)


def test_what_a_label_is_made_of_is_found(report):
    assert report.classes == {"bad": 30, "good": 30}
    assert (report.train_texts, report.test_texts) == (42, 18)
    # The words share no letter but l and d, and every letter is a token
    assert report.features["token identity"].accuracy["1"] == 1.0
    assert report.features["this dictionary"].accuracy["all"] > 0.9
    assert report.features["activation"].accuracy["all"] == 1.0


def test_every_kind_of_features_is_measured_at_every_size(report):
    kinds = {"this dictionary", "mine", "activation", "random directions", "principal components", "token identity"}
    assert set(report.features) == kinds
    for name, probed in report.features.items():
        assert list(probed.accuracy) == ["1", "2", "5", "all"]
        assert all(0 <= value <= 1 for value in probed.accuracy.values())
        assert set(probed.advantage) == (set() if name == "this dictionary" else set(probed.accuracy))
        assert all(low <= high for low, high in probed.advantage.values())
    assert json.loads(json.dumps(report.to_json()))["features"]["activation"]["accuracy"]["all"] == 1.0
    assert "token identity" in str(report)


def test_labels_that_say_nothing_about_the_text_are_not_found(model, dictionary):
    labels = np.random.default_rng(1).permutation(LABELS).tolist()
    report = probe(dictionary, model, TEXTS, labels, test=0.5, progress=False)
    assert abs(report.features["this dictionary"].accuracy["1"] - 0.5) < 0.3


def test_a_dictionary_is_as_good_as_itself(model, dictionary):
    found = probe(dictionary, model, TEXTS, LABELS, others={"again": dictionary}, progress=False).features
    assert found["again"].accuracy == found["this dictionary"].accuracy
    assert set(found["again"].advantage.values()) == {(0.0, 0.0)}


def test_balanced_accuracy_by_its_definition():
    from sklearn.metrics import balanced_accuracy_score

    generator = np.random.default_rng(0)
    targets, said = generator.random((3, 40)) < 0.3, generator.random((3, 40)) < 0.5
    once = np.ones((1, 40), np.int64)
    expected = np.mean([balanced_accuracy_score(t, s) for t, s in zip(targets, said, strict=True)])
    assert _balanced(said == targets, targets, once)[0] == pytest.approx(expected)


def test_what_cannot_be_probed_is_refused(model, dictionary):
    def ask(texts=TEXTS, labels=LABELS, **options):
        return probe(dictionary, model, texts, labels, progress=False, **options)

    with pytest.raises(OptionError, match="two kinds at least"):
        ask(labels=["good"] * len(TEXTS))
    with pytest.raises(OptionError, match="60 texts and 59 labels"):
        ask(labels=LABELS[1:])
    with pytest.raises(OptionError, match="'rare' has 1"):
        ask(labels=["rare", *LABELS[1:]])
    with pytest.raises(OptionError, match="list of texts"):
        ask(texts="a text")
    with pytest.raises(OptionError, match="list of texts"):
        ask(labels=None)
    with pytest.raises(OptionError, match="Text 0 is no text"):
        ask(texts=[None] * len(TEXTS))
    assert ask(texts=[TEXTS[0], "a lone \ud800", *TEXTS[2:]]).test_texts == 18
    with pytest.raises(OptionError, match="Text 2 has no label"):
        ask(labels=[*LABELS[:2], float("nan"), *LABELS[3:]])
    with pytest.raises(OptionError, match="to train on"):
        ask(test=0.97)
    with pytest.raises(OptionError, match="seed must be below"):
        ask(seed=2**32)
    with pytest.raises(OptionError, match="sizes must be"):
        ask(sizes=5)
    for others in (dictionary, {"mine": "a name"}):
        with pytest.raises(OptionError, match="must be"):
            ask(others=others)
    with pytest.raises(ActivationError):
        ask(others={"mine": lambda rows: rows * float("nan")})
    with pytest.raises(OptionError, match="a column at least"):
        ask(others={"mine": lambda rows: rows[:, :0]})
    corpus = Corpus.from_texts([text * 3 for text in tiny.KINGS])
    elsewhere = build(model, corpus, site="resid_post.0", atoms=16, steps=2, progress=False)
    with pytest.raises(MismatchError, match="'mine' was built at 'resid_post.0'"):
        ask(others={"mine": elsewhere})
    with pytest.raises(OptionError, match="test must be"):
        ask(test=1.5)
    with pytest.raises(OptionError, match="sizes must be"):
        ask(sizes=(0,))
    with pytest.raises(OptionError, match="measured anyway"):
        ask(others={"activation": dictionary})
    with pytest.raises(CorpusError, match="no token"):
        ask(texts=["", *TEXTS[1:]])
    with pytest.raises(OptionError, match="row of features for each"):
        ask(others={"mine": lambda rows: rows[:3]})


def test_no_text_is_trained_on_and_tested(model, dictionary):
    generator = np.random.default_rng(0)
    labels = generator.permutation(LABELS).tolist()
    report = probe(dictionary, model, TEXTS * 5, labels * 5, progress=False)
    assert (report.repeated_texts, report.train_texts, report.test_texts) == (240, 42, 18)
    assert report.classes == {"bad": 30, "good": 30}
    assert report.features == probe(dictionary, model, TEXTS, labels, progress=False).features
    assert "240 given again left out" in str(report)
    with pytest.raises(OptionError, match="Texts 1 and 60 are the same and have the labels 'bad' and 'good'"):
        probe(dictionary, model, [*TEXTS, TEXTS[1]], [*LABELS, "good"], progress=False)


def test_a_rare_label_is_in_every_draw(model, dictionary):
    texts, labels = [*TEXTS, *(f"rare {number}" for number in range(4))], [*LABELS, *["rare"] * 4]
    with pytest.raises(OptionError, match="test=0.05 leaves 0 texts of 'rare' to test on"):
        probe(dictionary, model, texts, labels, test=0.05, progress=False)
    targets = np.arange(60)[None] < 1
    drawn = _draws(np.concatenate([targets, ~targets]), 200, seed=0)
    assert (drawn.sum(1) == 60).all()
    assert (drawn[:, 0] == 1).all()
    # A perfect feature is ahead of one that always says no by half, in every draw
    perfect, never = np.ones((1, 60), bool), ~targets
    assert np.ptp(_balanced(perfect, targets, drawn) - _balanced(never, targets, drawn)) == 0


def test_few_texts(model, dictionary):
    few, labels = TEXTS[:8], LABELS[:8]
    assert probe(dictionary, model, few, labels, test=0.5, progress=False).train_texts == 4
    with pytest.raises(OptionError, match="test=0.9 leaves no text of some label to train on"):
        probe(dictionary, model, few, labels, test=0.9, progress=False)
    with pytest.raises(OptionError, match="'good' has 1"):
        probe(dictionary, model, [TEXTS[0]] * 4 + TEXTS[1::2], ["good"] * 4 + ["bad"] * 30, progress=False)
    blank = [" " * number for number in range(8)]
    with pytest.raises(CorpusError, match="no token"):
        probe(dictionary, model, blank, labels, progress=False)


def test_another_model_is_refused(dictionary):
    from itda import wrap

    with pytest.raises(MismatchError):
        probe(dictionary, wrap(tiny.module("Llama", seed=1), tiny.tokenizer()), TEXTS, LABELS, progress=False)


def test_questions_of_a_real_encoder(minilm, data):
    lines = (data / "labelled" / "trec" / "TREC.test.all").read_text(errors="replace").splitlines()
    labels, texts = zip(*(line.split(" ", 1) for line in lines if line[0] in "035"), strict=True)
    rows = torch.randn(500, 384, generator=torch.Generator().manual_seed(0))
    dictionary = build_from_activations(rows, atoms=200, steps=8, progress=False)
    report = probe(dictionary, minilm, list(texts), list(labels), site="resid_post.3", progress=False)
    found = report.features
    assert found["activation"].accuracy["all"] > 0.8
    assert found["activation"].accuracy["all"] > found["activation"].accuracy["1"] > 0.5
