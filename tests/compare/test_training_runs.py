"""Training runs: births by hand, ablations that do something, and what is refused."""

import json
import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

import itda
from itda import Corpus, compare
from itda.compare.births import Watched, births_of, scores_of, watched
from itda.compare.run_report import _settled
from itda.compare.training_runs import _needed
from itda.errors import CorpusError, MismatchError, ModelError, OptionError
from support import tiny
from support.runs import training_run

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
        assert 0 <= atom.born < 3
        assert atom.interval[0] <= atom.born <= atom.interval[1] <= 3
        assert atom.born == 0 or min(atom.told[atom.born :]) > atom.told[atom.born - 1]


def test_leaving_an_atom_out_costs_something(run_of_three):
    tried = [atom for atom in run_of_three.atoms if atom.costs is not None]
    assert len(tried) == min(8, len(run_of_three.atoms))
    assert any(abs(own) > 0.01 for atom in tried for own, _ in atom.costs)
    costs = run_of_three.cost_of_birth()
    assert costs is None or costs["rise"][0] == pytest.approx(costs["after"][0] - costs["before"][0])
    for atom in tried:
        beyond = [own - other for own, other in atom.costs]
        assert atom.needed is None or min(beyond[atom.needed :]) >= beyond[-1] / 2 > 0


def test_it_reads_and_saves(run_of_three, tmp_path):
    assert "born at step0" in str(run_of_three)
    document = json.loads(run_of_three.save(tmp_path / "run.json").read_text())
    assert document["births"] == list(run_of_three.births)
    assert all(0 < when < 2 for when in document["settled"]["cka"].values())
    assert len(document["atoms"]) == len(run_of_three.atoms)


def test_the_cost_of_a_birth_stands_beside_those_of_others():
    """Beyond another atom: (.1 .2 .4), (0 .4 .6), (0 .1 .6), the second and third born at 1 and 2."""
    costs = {name: mean for name, (mean, _) in training_run().cost_of_birth().items()}
    assert costs["before"] == pytest.approx((0 + 0.1) / 2)
    assert costs["after"] == pytest.approx((0.4 + 0.6) / 2)
    assert costs["rise"] == pytest.approx(0.45)
    # The others: (.1 + 0) / 2 and (.2 + .1) / 2 at the first birth, (.2 + .4) / 2 and (.4 + .6) / 2 at the second
    assert costs["rise beyond others"] == pytest.approx(0.45 - 0.15)
    assert costs["before, to others"] == pytest.approx(0.05 / 0.175)
    assert costs["after, to others"] == pytest.approx(0.5 / 0.325)
    assert costs["rise, to others"] == pytest.approx(0.5 / 0.325 - 0.05 / 0.175)


def test_when_a_layer_settles():
    """Halfway from the first to the last, for good, between checkpoints."""
    assert _settled([0.0, 0.25, 0.75, 1.0]) == 1.5
    assert _settled([0.2, 0.9, 0.3, 1.0]) == pytest.approx(2 + 3 / 7)
    assert _settled([1.0, 0.0, 0.0]) == pytest.approx(0.5)
    assert _settled([1.0, 1.0, 1.0]) is None
    assert _settled([math.nan, 0.2, 1.0]) is None


def test_an_atom_is_needed_when_it_costs_half_of_what_it_does_at_last():
    atoms = torch.tensor([4] * 12 + [9] * 12)
    noise = torch.randn((3, 2, 24), generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 100
    noise[0, 0, :12] += 0.05
    noise[1:, 0, :12] += torch.tensor([0.5, 0.8])[:, None]
    noise[2, :, 3] = math.nan
    found = _needed(list(noise), atoms)
    assert found[4] == 1  # and of the other nothing sure can be said
    assert 9 not in found


def watch_of(own, near, others, needed=0.75):
    count = len(own)
    tokens = (own >= 0).sum(1)
    return Watched(torch.arange(count), tokens, own, near, others, torch.full((count,), needed))


def test_areas_are_those_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    documents = torch.arange(400) // 10
    own, near, others = (torch.randint(400, (3, size), generator=generator) for size in (60, 120, 120))
    near[1, 50:] = -1
    watch = watch_of(own, near, others)
    rows, atoms = torch.randn(400, 8, generator=generator), torch.randn(3, 8, generator=generator)
    scores = scores_of(watch, atoms, rows)
    found = births_of(watch, [scores, scores], documents, seed=0)
    dates = documents % 2 == 1
    for index in range(3):
        high = scores[0][index][dates[own[index]]]
        for places, values, area in (
            (near, scores[1], found.told[index, 0]),
            (others, scores[2], found.found[index, 1]),
        ):
            low = values[index][(places[index] >= 0) & dates[places[index]]]
            labels = [1] * len(high) + [0] * len(low)
            assert area == pytest.approx(roc_auc_score(labels, torch.cat([high, low])), abs=1e-5)


def test_an_atom_is_born_when_it_stays_told():
    documents = torch.arange(300) // 10
    own, near = torch.arange(60)[None], torch.arange(60, 180)[None]
    watch = watch_of(own, near, near + 100)
    told, untold = torch.ones(1, 60), torch.zeros(1, 60)
    others = torch.linspace(0, 0.9, 120)[None]
    found = births_of(watch, [(one, others, others) for one in (untold, told, untold, told, told)], documents, seed=0)
    assert found.born.tolist() == [3]
    assert found.interval.tolist() == [[3, 3]]
    never = births_of(watch, [(one, others, others) for one in (told, untold)], documents, seed=0)
    assert never.born.tolist() == [2]


def test_no_document_both_admits_and_dates():
    """Scores that tell atoms on even documents alone admit them, and give them no birth."""
    documents = torch.arange(400) // 10
    own, near = torch.arange(0, 100)[None], torch.arange(100, 300)[None]
    even = (documents % 2 == 0).float()
    watch = watch_of(own, near, near)
    found = births_of(watch, [(even[own], 0.5 + 0 * near, 0.5 + 0 * near)], documents, seed=0)
    assert found.told.tolist() == [[0]]
    assert found.born.tolist() == [1]


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
