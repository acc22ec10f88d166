"""Training runs: births by hand, ablations that do something, and what is refused."""

import json

import pytest
import torch
from sklearn.metrics import roc_auc_score

import itda
from itda import Corpus, compare
from itda.compare.births import Watched, births_of, scores_of, watched
from itda.errors import CorpusError, MismatchError, ModelError, OptionError
from support import tiny

CHECKPOINTS = ("step0", "step300")


@pytest.fixture(scope="module")
def run_of_three(data):
    """A real run, in short."""
    seeds = data / "models" / "seeds"
    models = {name: seeds / f"gpt2-s21-{name}" for name in CHECKPOINTS} | {"step700": seeds / "gpt2-s21"}
    texts = json.loads((data / "text" / "wikitext_1000.json").read_text())[:120]
    return compare.follow(
        models, Corpus.from_texts(texts), atoms=200, steps=6, tokens=4_000, held_out_tokens=2_500, ablated=8,
        progress=False,
    )  # fmt: skip


def test_a_run_settles_and_gives_birth(run_of_three):
    run = run_of_three
    assert run.names == (*CHECKPOINTS, "step700")
    assert sum(run.births) == len(run.atoms)
    assert len(run.atoms) + run.unwatched == 200
    assert sum(run.births[1:]) > 0
    overlaps = [checkpoint.overlap for checkpoint in run.checkpoints]
    assert overlaps == sorted(overlaps)
    assert overlaps[-1] == 1
    for values in zip(*(one.layers["cka"].values() for one in run.checkpoints), strict=True):
        assert values[0] < values[-1] == 1
    for atom in run.atoms:
        assert atom.told[-1] >= 0.6
        assert atom.interval[0] <= atom.born <= atom.interval[1]
        halfway = 0.5 + (atom.told[-1] - 0.5) / 2
        assert all(value >= halfway for value in atom.told[atom.born :])
        assert atom.born == 0 or atom.told[atom.born - 1] < halfway


def test_leaving_an_atom_out_costs_something(run_of_three):
    tried = [atom for atom in run_of_three.atoms if atom.costs is not None]
    assert len(tried) == min(8, len(run_of_three.atoms))
    assert any(abs(own) > 0.01 for atom in tried for own, _ in atom.costs)
    costs = run_of_three.cost_of_birth()
    assert costs is None or costs["rise"][0] == pytest.approx(costs["after"][0] - costs["before"][0])


def test_it_reads_and_saves(run_of_three, tmp_path):
    assert "born at step0" in str(run_of_three)
    document = json.loads(run_of_three.save(tmp_path / "run.json").read_text())
    assert document["births"] == list(run_of_three.births)
    assert set(document["settled"]["cka"].values()) <= set(run_of_three.names)
    assert len(document["atoms"]) == len(run_of_three.atoms)


def test_areas_are_those_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    documents = torch.arange(400) // 10
    watch = Watched(
        atoms=torch.arange(3), tokens=torch.full((3,), 60), own=torch.randint(400, (3, 60), generator=generator),
        near=torch.randint(400, (3, 120), generator=generator), any=torch.randint(400, (3, 120), generator=generator),
    )  # fmt: skip
    watch.near[1, 50:] = -1
    rows, atoms = torch.randn(400, 8, generator=generator), torch.randn(3, 8, generator=generator)
    scores = scores_of(watch, atoms, rows)
    found = births_of(watch, [scores, scores], documents, seed=0)
    for index in range(3):
        near = watch.near[index] >= 0
        labels = [1] * 60 + [0] * int(near.sum())
        values = torch.cat([scores[0][index], scores[1][index][near]])
        assert found.told[index, 0] == pytest.approx(roc_auc_score(labels, values), abs=1e-5)
        labels = [1] * 60 + [0] * 120
        wanted = roc_auc_score(labels, torch.cat([scores[0][index], scores[2][index]]))
        assert found.found[index, 1] == pytest.approx(wanted, abs=1e-5)


def test_an_atom_is_born_when_it_stays_told():
    documents = torch.arange(300) // 10
    own, near = torch.arange(60)[None], torch.arange(60, 180)[None]
    watch = Watched(torch.tensor([0]), torch.tensor([60]), own, near, near + 100)
    told, untold = torch.ones(1, 60), torch.zeros(1, 60)
    others = torch.linspace(0, 0.9, 120)[None]
    curve = [untold, told, untold, told, told]
    found = births_of(watch, [(one, others, others) for one in curve], documents, seed=0)
    assert found.born.tolist() == [3]
    assert found.interval.tolist() == [[3, 3]]


def test_only_what_is_used_and_told_is_watched(model):
    corpus = Corpus.from_texts([f"{line} {number}" for number in range(6) for line in tiny.KINGS])
    rows = itda.capture(model, corpus, "resid_post.1", progress=False)
    dictionary = itda.build_from_activations(rows, atoms=30, steps=2, progress=False)
    codes = dictionary.encode(rows)
    numbers = {document: number for number, document in enumerate(dict.fromkeys(rows.sources.keys()[0][0:1]))}
    documents = torch.tensor(
        [numbers.setdefault(rows.sources.windows[w].document, len(numbers)) for w in rows.sources.window.tolist()]
    )
    watch = watched(codes, dictionary, rows.rows, documents, seed=0)
    for index, atom in enumerate(watch.atoms.tolist()):
        has = (codes.atoms == atom).any(1)
        assert int(watch.tokens[index]) == int(has.sum()) >= 10
        assert has[watch.own[index][watch.own[index] >= 0]].all()
        assert not has[watch.near[index][watch.near[index] >= 0]].any()
        assert not has[watch.any[index]].any()


def test_bad_input(model, data):
    corpus = Corpus.from_texts([f"{line} {number}" for number in range(6) for line in tiny.KINGS])
    with pytest.raises(OptionError, match="at least two"):
        compare.follow({"only": model}, corpus)
    with pytest.raises(OptionError, match="at least two"):
        compare.follow([model, model], corpus)
    other = itda.wrap(tiny.module("Llama"), tiny.tokenizer(begin=False), id="other")
    with pytest.raises(MismatchError, match="another tokenizer"):
        compare.follow({"a": other, "b": model}, corpus, atoms=20, steps=2, progress=False)
    dictionary = itda.build(model, corpus, site="resid_post.1", atoms=20, steps=2, progress=False)
    with pytest.raises(CorpusError, match="all documents"):
        compare.follow({"a": model, "b": model}, corpus, dictionary=dictionary, progress=False)
    with pytest.raises(OptionError, match="leave site out"):
        compare.follow({"a": model, "b": model}, corpus, dictionary=dictionary, site="resid_post.2", progress=False)
    with pytest.raises(CorpusError, match=r"itda\.Corpus"):
        compare.follow({"a": model, "b": model}, "text")
    with pytest.raises(ModelError, match="needs a Model"):
        compare.follow({"a": None, "b": model}, corpus)
    with pytest.raises(OptionError, match=r"itda\.Dictionary"):
        compare.follow({"a": model, "b": model}, corpus, dictionary=3)
    with pytest.raises(CorpusError, match="No atom is told"):
        compare.follow({"a": model, "b": model}, Corpus.from_texts(tiny.KINGS), atoms=40, steps=2, progress=False)
