"""Diffs of two models: what was planted is found, what is equal is not, and what cannot be compared is refused."""

import copy
import json

import numpy as np
import pytest
import torch

import itda
from itda import Corpus, compare
from itda.compare.changes import Half, changes
from itda.compare.scaling import latent_scaling
from itda.errors import CorpusError, MismatchError, OptionError, ShapeError
from itda.pursuit import Codes
from support import tiny

TEXTS = Corpus.from_texts([f"{line} or {number} {'x' * (number % 5)}" for number in range(8) for line in tiny.KINGS])


@pytest.fixture(scope="module")
def base():
    return itda.wrap(tiny.module("GPT-2"), tiny.tokenizer(), id="base")


@pytest.fixture(scope="module")
def tuned(base):
    """The same model to which the letter g means something else."""
    module = copy.deepcopy(base.module)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(5)
        token = base.tokenizer("g")["input_ids"][-1]
        weight = module.transformer.wte.weight
        weight[token] = torch.randn(weight.shape[1], generator=generator) * weight.norm(dim=1).mean()
    return itda.wrap(module, tiny.tokenizer(), id="tuned")


@pytest.fixture(scope="module")
def found(base, tuned):
    return compare.diff(base, tuned, TEXTS, atoms=60, steps=3, progress=False)


def test_what_was_planted_is_found_first(found):
    changed = found.joint.changed
    assert changed
    assert "g" in {atom.source.token for atom in changed}
    assert {atom.only_in for atom in changed} & {"base", "tuned"}
    assert all(atom.q <= 0.05 and atom.p >= 1 / 5000 for atom in changed)
    assert [atom.atom for atom in found.joint.atoms][: len(changed)] == found.joint.order[: len(changed)].tolist()
    assert sorted(found.joint.order.tolist()) == list(range(60))
    assert {place.token for place in found.places[:5]} <= {"g", " "}
    more = next(atom for atom in changed if atom.more_in == "tuned")
    assert more.taken_from == "tuned"
    assert more.frequency[1] > more.frequency[0]
    assert more.contexts
    assert all(token == "g" for _, token, _ in more.contexts)


def test_the_joint_dictionary_holds_activations_of_both(found, base, tuned):
    dictionary = found.joint.dictionary
    for place in range(5):
        source = dictionary.sources[place]
        rows = []
        for model in (base, tuned):
            text = Corpus.from_texts([document.text for document in TEXTS if document.id == source.document])
            captured = itda.capture(model, text, found.site, sinks="keep", progress=False)
            rows.append(captured.rows[captured.sources.keys().index((source.document, source.char_end))])
        nearest = min(float((dictionary.activations[place] - row).norm()) for row in rows)
        assert nearest < 1e-4
    assert "Built from 'tuned' too" in dictionary.build.notes[-1]


def test_a_model_beside_itself_has_not_changed(base):
    same = compare.diff(base, base, TEXTS, atoms=60, steps=3, progress=False)
    assert not same.joint.changed
    assert not any(table.changed for table in same.own.values())
    assert same.mean_shift == 0
    assert same.outputs.kl == pytest.approx(0, abs=1e-6)
    assert "0 of 60 atoms changed" in str(same)


def test_the_report_reads_and_saves(found, tmp_path):
    text = str(found)
    assert "g" in text
    assert "where they differ most" in text
    document = json.loads(found.save(tmp_path / "diff.json").read_text())
    assert document["joint"]["atoms"][0]["changed"] is True
    assert document["own"].keys() == {"base", "tuned"}
    assert len(document["baseline_orders"]["mean difference"]) == 60
    assert document["outputs"]["kl"] > 0


def test_encoders_have_no_predictions_and_are_compared_all_the_same():
    models = [itda.wrap(tiny.module("BERT", seed=seed), tiny.tokenizer(), id=f"bert-{seed}") for seed in (0, 1)]
    found = compare.diff(*models, TEXTS, atoms=40, steps=2, progress=False)
    assert found.outputs is None
    assert found.by_logits is None
    assert found.places[0].difference > 0
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_latent_scaling_is_one_for_the_same_and_nothing_without_the_atom():
    rows = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    dictionary = itda.build_from_activations(rows, atoms=20, steps=2, method="random", progress=False)
    codes, documents = dictionary.encode(rows), torch.arange(300) // 5
    for of_all in latent_scaling(dictionary, rows, codes, rows, documents):
        assert of_all.nan_to_num(1) == pytest.approx(1, abs=1e-5)
    atom = int(codes.usage(20).argmax())
    has = (codes.atoms == atom).any(1)
    without = rows.clone()
    without[has] -= torch.where(codes.atoms == atom, codes.coefficients, 0).sum(1)[has, None] * dictionary.atoms[atom]
    assert latent_scaling(dictionary, rows, codes, without, documents).shared[atom] == pytest.approx(0, abs=1e-5)
    half = torch.where((documents % 2 == 0)[:, None], rows, without)
    found = latent_scaling(dictionary, rows, codes, half, documents)
    assert found.low[atom] < found.shared[atom] < found.high[atom]
    assert found.low[atom] > 0.05
    assert found.high[atom] < 0.95
    alone = latent_scaling(dictionary, rows, codes, half, torch.zeros_like(documents))
    assert alone.shared[atom] == pytest.approx(float(found.shared[atom]))
    assert alone.low.isnan().all()
    assert alone.high.isnan().all()


def _half(generator, documents=60, tokens=20, atoms=50, more=None, far=None, bursts=False):
    """Codes of one atom a token; `more`: atoms that the second model uses three times as often; `bursts`: each document
    has one atom in each model, so that an atom is in two or none."""
    number = torch.arange(documents).repeat_interleave(tokens)
    size = documents if bursts else len(number)
    drawn = [torch.from_numpy(generator.integers(0, atoms, size)) for _ in range(2)]
    drawn = [one[number] if bursts else one for one in drawn]
    distance = torch.from_numpy(generator.exponential(1.0, len(number)))
    if more is not None:
        swapped = torch.from_numpy(generator.random(len(number))) < 0.1
        drawn[1][swapped] = more
        distance[swapped] *= far
    codes = [Codes(one[:, None].int(), torch.ones(len(number), 1), torch.zeros(len(number))) for one in drawn]
    return Half(*codes, number, distance)


@pytest.mark.parametrize("bursts", [False, True])
def test_false_ones_are_rare_where_nothing_changed(bursts):
    generator = np.random.default_rng(0)
    discoveries = [
        int(
            changes(
                _half(generator, bursts=bursts),
                _half(generator, bursts=bursts),
                50,
                margin=0.0001,
                apart=0.0001,
                rate=0.05,
                seed=seed,
            )
            .significant(0.05)
            .sum()
        )
        for seed in range(40)
    ]
    assert sum(count > 0 for count in discoveries) <= 6, "at most 5 % of 40, and chance"


@pytest.mark.parametrize(("far", "wanted"), [(8.0, True), (1.0, False)])
def test_use_and_distance_must_both_have_changed(far, wanted):
    generator = np.random.default_rng(1)
    halves = [_half(generator, more=7, far=far) for _ in range(2)]
    found = changes(*halves, 50, margin=0.5, apart=2.5, rate=0.05, seed=0)
    assert found.significant(0.05).nonzero().flatten().tolist() == ([7] if wanted else [])
    assert bool(found.more[7])
    assert (found.order(0.05)[0] == 7) or not wanted


def test_one_token_however_large_is_no_change():
    generator = np.random.default_rng(2)
    halves = [_half(generator) for _ in range(2)]
    for half in halves:
        half.second.coefficients[5] = 1e6
        half.distance[5] = 4.0
    assert not changes(*halves, 50, margin=0.5, apart=1.1, rate=0.05, seed=0).significant(0.05).any()


def test_bad_input(base, tuned):
    with pytest.raises(MismatchError, match="two tokenizers"):
        compare.diff(base, itda.wrap(tiny.module("GPT-2"), tiny.tokenizer(begin=False), id="other"), TEXTS)
    with pytest.raises(ShapeError, match="one width"):
        compare.diff(base, _wide(), TEXTS)
    with pytest.raises(CorpusError, match="at least 12"):
        compare.diff(base, tuned, Corpus.from_texts(["one", "two", "three"]))
    for wrong in (None, "text", ["one", "two", "three", "four"]):
        with pytest.raises(CorpusError, match=r"itda\.Corpus"):
            compare.diff(base, tuned, wrong)
    with pytest.raises(OptionError, match="atoms"):
        compare.diff(base, tuned, TEXTS, atoms=0)
    with pytest.raises(OptionError, match="margin"):
        compare.diff(base, tuned, TEXTS, margin=-1)
    with pytest.raises(OptionError, match="apart"):
        compare.diff(base, tuned, TEXTS, apart=float("nan"))
    with pytest.raises(OptionError, match="rate"):
        compare.diff(base, tuned, TEXTS, rate=2)


def _wide():
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(**{**tiny._GPT, "n_embd": 24})
    return itda.wrap(transformers.AutoModelForCausalLM.from_config(config).eval(), tiny.tokenizer(), id="wide")
