"""Builders that keep a pool of rows: what they promise, and that each beats what is plainer than it."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

from itda import Coding, Corpus, Dictionary, build, build_from_activations, capture, explain
from itda.building import BuildRequest
from itda.building.learning import learn
from itda.building.mixing import Mix
from itda.building.pools import Encoder, Pool
from itda.building.proposing import propose
from itda.building.request import _POOL_BYTES, _ROW_BYTES
from itda.building.resembling import Likeness
from itda.building.reservoir import Reservoir
from itda.data.lots import evenly
from itda.data.sources import Sources
from itda.errors import ActivationError, FormatError, OptionError
from itda.progress import Bar
from itda.pursuit import pursue, rebuild
from support import tiny
from support.signals import coherent

METHODS = ["budget", "mixture", "learned", "random", "kmeans"]


def make(rows, **options):
    return build_from_activations(rows, progress=False, **options)


@pytest.fixture(scope="module")
def rows():
    return coherent(6000, 32, 1)[0]


@pytest.fixture(scope="module")
def built(rows):
    return {method: make(rows[:5000], atoms=100, steps=4, method=method) for method in METHODS}


def left(dictionary, rows):
    """Share of the variance of rows that is not explained."""
    error = rows - dictionary.decode(dictionary.encode(rows))
    return float(error.square().sum() / (rows - rows.mean(0)).square().sum())


@pytest.mark.parametrize("method", ["budget", "random", "kmeans"])
def test_atoms_are_real_rows_each_once(built, rows, method):
    dictionary = built[method]
    assert dictionary.kind == "activations"
    assert len(dictionary) == 100 if method != "kmeans" else 90 < len(dictionary) <= 100
    taken = dictionary.sources.row
    assert len(set(taken.tolist())) == len(dictionary)
    centred = rows[taken] - dictionary.mean
    assert torch.allclose(dictionary.atoms, torch.nn.functional.normalize(centred, dim=1), atol=1e-6)
    assert torch.allclose(dictionary.norms, centred.norm(dim=1), rtol=1e-5)
    assert torch.allclose(dictionary.mean, rows[:5000].mean(0), atol=1e-5)


def test_each_is_better_than_what_is_plainer(built, rows):
    error = {method: left(dictionary, rows[5000:]) for method, dictionary in built.items()}
    assert error["learned"] < error["mixture"] < error["budget"] < error["kmeans"] < error["random"]


def test_mixtures_are_convex_and_can_be_made_again(built, rows):
    dictionary = built["mixture"]
    mixtures = dictionary.mixtures
    assert dictionary.kind == "mixtures"
    assert mixtures.weights.shape == (100, 5)
    assert (mixtures.weights >= 0).all()
    assert torch.allclose(mixtures.weights.sum(1), torch.ones(100), atol=1e-5)
    assert (mixtures.weights[:, :-1] >= mixtures.weights[:, 1:]).all()
    again = torch.stack([sum(part.weight * rows[part.source.row] for part in mixtures[atom]) for atom in range(100)])
    assert torch.allclose(dictionary.activations, again, atol=1e-4)
    assert torch.allclose(torch.nn.functional.normalize(again - dictionary.mean, dim=1), dictionary.atoms, atol=1e-5)
    assert [source.row for source in dictionary.sources] == [mixtures[atom][0].source.row for atom in range(100)]
    some = mixtures.select(torch.tensor([7, 3]))
    assert some[1] == mixtures[3]


def test_a_mixture_of_one_is_a_real_activation(rows):
    dictionary = make(rows[:2000], atoms=40, steps=4, method="mixture", parts=1)
    assert torch.equal(dictionary.mixtures.weights, torch.ones(40, 1))
    expected = torch.nn.functional.normalize(rows[dictionary.sources.row] - dictionary.mean, dim=1)
    assert torch.allclose(dictionary.atoms, expected, atol=1e-6)


@pytest.mark.parametrize("method", ["budget", "mixture", "learned"])
def test_files_hold_all_of_it(built, method, tmp_path):
    built[method].save_pretrained(tmp_path / "d")
    loaded = Dictionary.from_pretrained(tmp_path / "d")
    assert loaded.kind == built[method].kind
    assert loaded.fingerprint == built[method].fingerprint
    if method == "mixture":
        assert all(loaded.mixtures[atom] == built[method].mixtures[atom] for atom in range(100))


def test_mixtures_that_do_not_add_up_are_damage(built, tmp_path, monkeypatch):
    from itda.data.mixtures import Mixtures

    real = Mixtures.to_tensors
    monkeypatch.setattr(Mixtures, "to_tensors", lambda self: {**real(self), "weights": self.weights * 2})
    built["mixture"].save_pretrained(tmp_path / "d")
    with pytest.raises(FormatError, match="do not add up to 1"):
        Dictionary.from_pretrained(tmp_path / "d")


def test_learned_atoms_have_no_name(built):
    dictionary = built["learned"]
    assert dictionary.kind == "learned"
    with pytest.raises(OptionError, match="belong to no text"):
        _ = dictionary.activations
    with pytest.raises(OptionError, match="belong to no text"):
        dictionary.check_named("A transplant")


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_atoms_and_another_others(rows, method):
    options = {"atoms": 40, "steps": 3, "method": method}
    one, again = (make(rows[:1500], **options, seed=1) for _ in range(2))
    assert one.fingerprint == again.fingerprint
    assert one.fingerprint != make(rows[:1500], **options, seed=2).fingerprint


@pytest.mark.parametrize(("method", "error"), [("budget", 0.01), ("mixture", 0.01), ("snmf", 1e-7)])
def test_square_roots_of_float32_decide_nothing(rows, method, error, monkeypatch):
    """The first that torch takes in a process has other last bits now and then."""
    real = torch.Tensor.sqrt
    first = make(rows[:1500], atoms=40, steps=3, method=method)

    def other(values):
        return real(values) * (1 + error * (values.dtype == torch.float32))

    monkeypatch.setattr(torch.Tensor, "sqrt", other)
    again = make(rows[:1500], atoms=40, steps=3, method=method)
    assert torch.equal(again.atoms, first.atoms)
    assert again.coding == first.coding


@pytest.mark.parametrize("method", ["budget", "mixture"])
def test_pieces_make_no_difference(model, rows, method):
    found = capture(model, Corpus.from_texts(tiny.KINGS), "resid_post.1", progress=False)
    sources = Sources.concatenate([found.sources] * 40).select(torch.arange(3000))
    wanted = BuildRequest(atoms=50, steps=4, method=method, pool=500)
    whole = wanted.builder(32, 3000)
    whole.update(rows[:3000], sources)
    pieces = wanted.builder(32, 3000)
    for start in range(0, 3000, 37):
        places = torch.arange(start, min(start + 37, 3000))
        pieces.update(rows[places], sources.select(places))
    one, other = whole.finish(), pieces.finish()
    assert one.fingerprint == other.fingerprint
    assert list(one.sources) == list(other.sources)
    assert torch.equal(one.token_means.offsets, other.token_means.offsets)


def test_the_size_is_what_was_asked_for_of_all_rows(rows):
    dictionary = make(rows, atoms=300, steps=4, method="budget", pool=1000)
    assert len(dictionary) == 300
    assert torch.histc(dictionary.sources.row.float(), bins=5, min=0, max=6000).min() >= 30
    assert dictionary.build.rows == 6000


def test_repeated_rows_are_one_atom_and_the_rest_is_said(rows):
    repeated = rows[:60].repeat(20, 1)
    for method in ("budget", "mixture", "random", "learned"):
        dictionary = make(repeated, atoms=100, steps=2, method=method)
        assert len(dictionary) == 60
        assert dictionary.build.notes == ("Only 60 of 100 atoms could be taken: there are no more different rows.",)
    assert "the centres are nearest to no others" in make(repeated, atoms=100, steps=2, method="kmeans").build.notes[0]
    with pytest.raises(ActivationError, match="only 3 different ones"):
        make(rows[:3].repeat(20, 1), atoms=20, steps=4, method="budget")


def test_token_means_know_only_tokens(model):
    train, _ = Corpus.from_texts([text * 6 for text in tiny.KINGS]).split()
    dictionary = build(model, train, site="resid_post.1", atoms=20, steps=2, method="token_means", progress=False)
    assert dictionary.kind == "learned"
    most = int(dictionary.token_means.counts.argmax())
    mean = dictionary.token_means.of(dictionary.token_means.token_ids[most : most + 1]) - dictionary.mean
    assert torch.allclose(dictionary.atoms[0], torch.nn.functional.normalize(mean, dim=1)[0], atol=1e-5)
    with pytest.raises(ActivationError, match="know their tokens"):
        make(torch.randn(100, 8), atoms=20, steps=2, method="token_means")


def test_snmf_finds_neurons_that_fire_together():
    generator = torch.Generator().manual_seed(0)
    parts = torch.zeros(4, 40)
    for part in range(4):
        parts[part, 10 * part : 10 * part + 4] = torch.randn(4, generator=generator)
    use = torch.rand(2000, 4, generator=generator) * (torch.rand(2000, 4, generator=generator) < 0.4)
    dictionary = make(use @ parts + 1e-3, atoms=4, steps=2, method="snmf", parts=None)
    assert dictionary.kind == "learned"
    assert float(dictionary.mean.abs().max()) == 0
    assert ((dictionary.atoms != 0).sum(1) <= 1).all()  # one in a hundred of 40, at least one
    found = make(use @ parts, atoms=4, steps=2, method="snmf", kept=0.1)
    alike = (found.atoms @ torch.nn.functional.normalize(parts, dim=1).T).abs()
    assert alike.amax(0).min() > 0.97
    for atom in range(4):  # the input shown for a feature is one in which it is strong
        part = int(alike[atom].argmax())
        assert use[int(found.sources.row[atom]), part] > 0.8 * use[:, part].max()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"method": "budget", "max_unexplained": 0.1}, "max_unexplained is not an option of method='budget'"),
        ({"method": "greedy", "pool": 100}, "pool is not an option of method='greedy'"),
        ({"method": "paper", "max_cosine_gap": 0.1, "passes": 2}, "passes is not an option"),
        ({"method": "budget", "parts": 3}, "take method='mixture'"),
        ({"method": "mixture", "parts": 6}, "parts must be 1 to 5"),
        ({"method": "mixture", "parts": True}, "parts must be a whole number"),
        ({"method": "mixture", "rounds": 2}, "rounds is not an option"),
        ({"method": "budget", "rounds": -1}, "rounds must be"),
        ({"method": "budget", "center": "yes"}, "center must be True or False"),
        ({"method": "budget", "seed": 2**64}, "seed must be below"),
        ({"method": "budget", "atoms": 50, "pool": 20}, "cannot give 50 atoms"),
        ({"method": "budget", "passes": 0}, "passes must be"),
        ({"method": "learned", "seed": -1}, "seed must be"),
        ({"method": "best"}, "method must be one of"),
        ({"method": "budget", "block": 8}, "method='greedy' or 'paper'"),
    ],
)
def test_options_that_contradict_each_other(rows, options, what):
    with pytest.raises(OptionError, match=what):
        make(rows[:500], **{"atoms": 20, "steps": 2, **options})


def test_a_reservoir_keeps_rows_evenly_whatever_pieces_they_come_in():
    rows, found = torch.arange(5000).float()[:, None], []
    for piece in (1, 70, 999, 5000):
        kept = Reservoir(1, 100)
        for start in range(0, 5000, piece):
            part = rows[start : start + piece]
            kept.update(part, Sources.of_rows(len(part), first=start))
        found.append(kept.sources.row)
        assert torch.equal(kept.rows[:, 0].long(), kept.sources.row)
    assert len(found[0]) == 100  # all that there is room for
    assert bool((found[0].diff() > 0).all())
    assert all(torch.equal(rows, found[0]) for rows in found)
    # As many of every fifth of the stream, and of every place in windows of 128 (chi squared of 15, 99.9 %)
    assert torch.histc(found[0].float(), 5, 0, 5000).min() > 8
    many = evenly(1 << 20, 16_384)
    counts = torch.bincount(many % 128 // 8, minlength=16).double()
    assert float(((counts - 1024) ** 2 / 1024).sum()) < 37.7


@pytest.mark.parametrize("method", ["budget", "mixture", "random"])
def test_atoms_are_chosen_from_all_of_a_stream_longer_than_the_pool(method):
    rows = coherent(20_000, 16, 3)[0]
    built = make(rows, atoms=400, steps=2, method=method, pool=2000, passes=None if method == "random" else 1)
    places = torch.tensor([source.row for source in built.sources]).double()
    assert len(built) == 400
    assert built.build.rows == 20_000
    quarters = torch.histc(places, 4, 0, 20_000) / len(built)
    assert float(quarters.min()) > 0.15, "a quarter of the stream gives a quarter of the atoms, more or less"


@pytest.mark.long
@pytest.mark.parametrize("method", ["budget", "mixture"])
def test_a_pool_needs_the_memory_that_is_reckoned_for_it(method):
    """In processes of their own, whose memory at most is known: what so many more rows take."""
    width, rows = 256, (40_000, 120_000)
    code = """
import resource, sys, torch
from itda.building import BuildRequest
from itda.data.sources import Sources
method, width, rows = sys.argv[1], *map(int, sys.argv[2:])
builder = BuildRequest(atoms=64, steps=1, method=method, pool=rows, passes=1).builder(width, rows)
for first in range(0, rows, 4000):
    builder.update(torch.randn(4000, width), Sources.of_rows(4000, first=first))
builder.finish()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10)
"""
    peaks = []
    for count in rows:
        asked = [sys.executable, "-c", code, method, str(width), str(count)]
        peaks.append(int(subprocess.run(asked, capture_output=True, text=True, check=True).stdout))
    assert (peaks[1] - peaks[0]) / (rows[1] - rows[0]) < 1.1 * (_POOL_BYTES * width + _ROW_BYTES)


def test_a_reservoir_loses_no_bit():
    generator = torch.Generator().manual_seed(0)
    exact, other = torch.randn(50, 8, generator=generator).bfloat16().float(), torch.randn(50, 8, generator=generator)
    kept = Reservoir(8, 100)
    kept.update(exact, Sources.of_rows(50))
    assert kept.state()["rows"].dtype == torch.bfloat16
    assert torch.equal(kept.rows, exact)
    kept.update(other, Sources.of_rows(50, first=50))
    assert torch.equal(kept.rows, torch.cat([exact, other]))
    again = Reservoir(8, 100)
    again.restore(kept.state())
    assert torch.equal(again.rows, kept.rows)
    assert torch.equal(again.sources.row, kept.sources.row)


def test_a_proposal_is_what_saves_the_most():
    atoms = torch.eye(6)[:2]
    rows = torch.zeros(30, 6)
    rows[:, 0], rows[:20, 2], rows[20:, 3] = 1.0, 2.0, 2.5
    candidates = torch.eye(6)[[4, 3, 2]]
    chosen = propose(rows, atoms, candidates, Encoder(Coding(steps=2), "auto", None), 3)
    assert chosen.tolist() == [2, 1]  # 20 rows save 4 each, 10 save 6.25; the third saves nothing


def test_a_mix_finds_the_rows_that_a_direction_is_made_of():
    generator = torch.Generator().manual_seed(0)
    units = torch.nn.functional.normalize(torch.randn(200, 12, generator=generator), dim=1)
    pool = Pool(units, torch.ones(200), Sources.of_rows(200), torch.zeros(12))
    rows, weights = torch.tensor([[3, 50], [7, 120]]), torch.tensor([[0.7, 0.5], [0.9, 0.3]])
    directions = torch.nn.functional.normalize((weights[..., None] * units[rows]).sum(1), dim=1)
    mix = Mix.of(directions, pool, Likeness(torch.eye(12)), 5)
    assert (mix.atoms * directions).sum(1).min() > 0.99
    assert (mix.weights >= 0).all()
    mix.weigh(-directions)  # every part points away: one is kept all the same
    assert (mix.weights.sum(1) > 0).all()
    assert torch.isfinite(mix.atoms).all()


def test_likeness_counts_what_codes_leave():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3000, 6, generator=generator) * torch.tensor([10.0, 10.0, 10.0, 1.0, 1.0, 1.0])
    encode = Encoder(Coding(steps=3), "auto", None)
    plain = Likeness.of(rows, torch.eye(6), encode, exponent=0.0)
    assert torch.allclose(plain.weights, torch.eye(6), atol=1e-4)
    weighted = Likeness.of(rows, torch.eye(6), encode, exponent=0.5)
    lengths = torch.linalg.vector_norm(weighted.apply(torch.eye(6)), dim=1)
    assert lengths[3:].min() > 5 * lengths[:3].max()  # three steps explain the first three, and nothing of the others
    assert pursue(rows, torch.eye(6), steps=3).unexplained.mean() < 0.05
    huge = Likeness.of(rows * 2.0**70, torch.eye(6), encode, exponent=0.5)  # whose squares are no float32
    assert torch.allclose(huge.weights, weighted.weights, atol=1e-4)


@pytest.fixture(scope="module")
def named(model):
    corpus = Corpus.from_texts([text * 6 for text in tiny.KINGS])
    options = {"site": "resid_post.1", "atoms": 24, "steps": 3, "progress": False}
    return {method: build(model, corpus, method=method, **options) for method in ("budget", "mixture", "learned")}


def test_a_mixture_reads_as_its_texts(model, named):
    dictionary = named["mixture"]
    parts = max((dictionary.mixtures[atom] for atom in range(24)), key=len)
    atom = next(atom for atom in range(24) if dictionary.mixtures[atom] == parts)
    assert len(parts) > 1
    said = dictionary.describe(atom)
    for part in parts:
        assert f"{part.weight:.0%} " in said
        assert f"[{part.source.token}]" in said
    found = [answer.atom for answer in dictionary.find(token=parts[-1].source.token, limit=24)]
    assert atom in found  # not only by what it is made of most
    explanation = explain(dictionary, model, "a king and a queen")
    pieces = [piece for token in explanation.tokens for piece in token.pieces]
    assert all(list(piece.mixture) == dictionary.mixtures[piece.atom] for piece in pieces)
    assert explanation.to_json()["tokens"][1]["pieces"][0]["mixture"][0]["weight"] > 0
    assert "% " in str(explanation)
    assert dictionary.origin(atom)["mixture"][0]["weight"] == parts[0].weight


def test_a_mixture_needs_no_corpus_once_there_are_activations(model, tmp_path):
    texts = tmp_path / "kings.json"
    texts.write_text(json.dumps([{"text": text * 6} for text in tiny.KINGS]))
    corpus = Corpus.from_files(texts)
    stored = capture(model, corpus, "resid_post.1", store=tmp_path / "store", progress=False)
    texts.unlink()
    dictionary = make(stored, atoms=24, steps=3, method="mixture")
    dictionary.save_pretrained(tmp_path / "dictionary")
    shutil.rmtree(tmp_path / "store")
    again = Dictionary.from_pretrained(tmp_path / "dictionary")
    parts = [part for atom in range(24) for part in again.mixtures[atom]]
    assert all(f"[{part.source.token}]" in part.source.text for part in parts)
    assert len({part.source.token for part in parts}) > 3


def test_what_is_shown_of_a_learned_atom_is_an_example(model, named):
    learned, real = named["learned"], named["budget"]
    assert learned.describe(3).startswith("e.g. ")
    assert real.describe(3) == real.sources[3].text
    explanation = explain(learned, model, "a king and a queen")
    assert "e.g." in str(explanation)
    assert not explanation.to_json()["tokens"][1]["pieces"][0]["named"]
    assert explain(real, model, "a king").to_json()["tokens"][1]["pieces"][0]["named"]


@pytest.mark.parametrize("method", ["budget", "mixture", "learned"])
def test_progress_says_how_far_the_choice_of_atoms_is(rows, method):
    class Told(Bar):
        done, lines = 0.0, {}

        def __call__(self, done):
            Told.done += done

        def then(self, what, total):
            Told.lines[what] = total
            return self

    builder = BuildRequest(atoms=100, steps=4, method=method).builder(32, len(rows))
    builder.update(rows, Sources.of_rows(len(rows)))
    builder.finish(bar=Told())
    assert list(Told.lines) == ["choose atoms"]
    assert 0.8 < Told.done / Told.lines["choose atoms"] < 1.3


@pytest.mark.parametrize("steps", [4, 16])
def test_learning_does_not_overshoot_where_codes_have_many_atoms(steps):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4000, 32, generator=generator) * torch.arange(1, 33).float() ** -1.5
    start = torch.nn.functional.normalize(rows[:128], dim=1)
    encode = Encoder(Coding(steps=steps, method="omp", nonnegative=True), "auto", None)

    def left(atoms):
        return float((rows - rebuild(encode(rows, atoms), atoms)).square().sum())

    one_pass = learn(rows, start, encode, 1, torch.Generator().manual_seed(0))
    assert left(one_pass) < 0.65 * left(start)  # 0.96 with 16 steps, were every atom to go all the way
