import pytest
import torch

from itda import Corpus, Dictionary, build, build_from_activations, capture, extend, extend_from_activations, wrap
from itda.errors import ActivationError, CorpusError, MismatchError, OptionError, ShapeError
from support import tiny
from support.signals import coherent

MORE = [f"a ship of {number} sails went over the grey sea" for number in range(40)]


@pytest.fixture(scope="module")
def dictionary(model):
    return build(model, Corpus.from_texts(tiny.KINGS), site="resid_post.1", atoms=40, progress=False)


@pytest.fixture(scope="module")
def grown(model, dictionary):
    return extend(dictionary, model, Corpus.from_texts([*MORE, *tiny.KINGS]), atoms=24, progress=False)


def test_old_atoms_keep_their_numbers(dictionary, grown, model, tmp_path):
    assert len(grown) == 64
    assert torch.equal(grown.atoms[:40], dictionary.atoms)
    assert torch.equal(grown.mean, dictionary.mean)
    assert [grown.sources[atom].text for atom in range(40)] == [dictionary.sources[atom].text for atom in range(40)]
    assert grown.coding == dictionary.coding
    added = [grown.sources[atom] for atom in range(40, 64)]
    assert all("ship" in source.before + str(source.token) + source.after for source in added)
    assert set(grown.documents) == set(dictionary.documents) | set(Corpus.from_texts(MORE).ids)
    assert (grown.build.method, grown.build.options["had"]) == ("extend", 40)
    grown.save_pretrained(tmp_path / "d")
    assert torch.equal(Dictionary.from_pretrained(tmp_path / "d").atoms, grown.atoms)


def test_a_model_that_is_said_to_be_as_good_is_taken(dictionary):
    other = wrap(tiny.module("Llama", seed=1), tiny.tokenizer(), id="another")
    with pytest.raises(MismatchError, match="'another'"):
        extend(dictionary, other, Corpus.from_texts(MORE), atoms=8, progress=False)
    grown = extend(dictionary, other, Corpus.from_texts(MORE), atoms=8, check_model=False, progress=False)
    assert len(grown) == 48
    assert grown.provenance.model == dictionary.provenance.model


def test_new_atoms_are_real_activations(grown, model):
    rows = capture(model, Corpus.from_texts(MORE), "resid_post.1", progress=False)
    there = dict(zip(rows.sources.keys(), rows.rows, strict=True))
    for atom, key in enumerate(grown.sources.keys()):
        if atom >= 40:
            assert torch.allclose(grown.activations[atom], there[key], atol=1e-4)


def test_what_was_missed_is_explained(dictionary, grown, model):
    rows = capture(model, Corpus.from_texts(MORE), "resid_post.1", progress=False).rows
    before, after = (float(made.encode(rows).unexplained.mean()) for made in (dictionary, grown))
    assert after < 0.6 * before


def test_mixtures_are_added_to_mixtures(model, tmp_path):
    small = build(model, Corpus.from_texts(tiny.KINGS), site="resid_post.1", atoms=40, method="mixture", progress=False)
    grown = extend(small, model, Corpus.from_texts(MORE), atoms=24, progress=False)
    assert grown.kind == "mixtures"
    assert torch.equal(grown.atoms[:40], small.atoms)
    assert [grown.mixtures[atom] for atom in range(40)] == [small.mixtures[atom] for atom in range(40)]
    found = capture(model, Corpus.from_texts(MORE), "resid_post.1", progress=False)
    there = dict(zip(found.sources.keys(), found.rows, strict=True))
    keys, parts = grown.mixtures.sources.keys(), small.mixtures.weights.shape[1]
    for atom in range(40, 64):
        weights = grown.mixtures.weights[atom]
        mixed = sum(weights[place] * there[keys[atom * parts + place]] for place in range(parts))
        assert torch.allclose(grown.activations[atom], mixed, atol=1e-4)
    before, after = (float(made.encode(found.rows).unexplained.mean()) for made in (small, grown))
    assert after < 0.6 * before
    again = extend(grown, model, Corpus.from_texts(["a lamp was lit in every house"] * 2), atoms=4, progress=False)
    again.save_pretrained(tmp_path / "d")
    assert len(Dictionary.from_pretrained(tmp_path / "d").mixtures) == 68


@pytest.mark.parametrize("method", ["budget", "mixture"])
def test_growing_is_worth_nearly_as_much_as_building_anew(method):
    rows, held_out = coherent(6000, 32, 1)[0], coherent(2000, 32, 1)[0]
    small = build_from_activations(rows, atoms=64, steps=4, method=method, progress=False)
    large = build_from_activations(rows, atoms=128, steps=4, method=method, progress=False)
    grown = extend_from_activations(small, rows, atoms=64, progress=False)
    left = {name: float(made.encode(held_out, steps=4).unexplained.mean()) for name, made in
            (("small", small), ("large", large), ("grown", grown))}  # fmt: skip
    assert left["grown"] < left["small"]
    assert left["grown"] < left["large"] + 0.5 * (left["small"] - left["large"]), left


def test_the_same_seed_gives_the_same_atoms(dictionary, model):
    text = Corpus.from_texts(MORE)
    one, other = (extend(dictionary, model, text, atoms=8, seed=3, progress=False) for _ in range(2))
    assert one.fingerprint == other.fingerprint
    assert one.facts() == other.facts()


def test_bad_input(dictionary, model):
    with pytest.raises(CorpusError, match="Give other text"):
        extend(dictionary, model, Corpus.from_texts(tiny.KINGS), atoms=8, progress=False)
    with pytest.raises(CorpusError, match=r"itda\.Corpus"):
        extend(dictionary, model, MORE, atoms=8, progress=False)
    with pytest.raises(OptionError, match="ask for fewer"):
        extend(dictionary, model, Corpus.from_texts(MORE), atoms=10**6, progress=False)
    with pytest.raises(OptionError, match="atoms must be"):
        extend(dictionary, model, Corpus.from_texts(MORE), atoms=0, progress=False)
    from itda import wrap

    other = wrap(tiny.module("Llama", seed=1), tiny.tokenizer())
    with pytest.raises(MismatchError):
        extend(dictionary, other, Corpus.from_texts(MORE), atoms=8, progress=False)
    with pytest.raises(OptionError, match=r"itda\.capture"):
        extend_from_activations(dictionary, torch.randn(50, 16), atoms=4)
    rows = torch.randn(300, 8)
    bare = build_from_activations(rows, atoms=20, progress=False)
    with pytest.raises(ShapeError):
        extend_from_activations(bare, torch.randn(50, 9), atoms=4)
    with pytest.raises(ActivationError, match="nothing to add"):
        extend_from_activations(bare, bare.activations, atoms=4, progress=False)
    with pytest.raises(ActivationError, match="nothing to add"):
        extend_from_activations(bare, bare.mean.expand(6, -1), atoms=4, progress=False)
    learned = build_from_activations(rows, atoms=20, method="learned", progress=False)
    with pytest.raises(OptionError, match="belong to no text"):
        extend_from_activations(learned, rows, atoms=4)


def test_bare_rows_are_numbered_on_and_named_ones_keep_names():
    rows, _ = coherent(600, 16, 10)
    bare = build_from_activations(rows[:300], atoms=30, steps=3, progress=False)
    grown = extend_from_activations(bare, rows[300:], atoms=10, progress=False)
    assert torch.allclose(grown.activations, rows[grown.sources.row], atol=1e-4)
    names = [f"recording {row}" for row in range(600)]
    named = build_from_activations(rows[:300], sources=names[:300], atoms=30, steps=3, progress=False)
    grown = extend_from_activations(named, rows[300:], atoms=10, sources=names[300:], progress=False)
    assert grown.sources.named
    assert len(set(grown.sources.keys())) == 40
    for atom in range(40):
        row = int(grown.sources[atom].text.split()[-1])
        assert torch.allclose(grown.activations[atom], rows[row], atol=1e-4)
    with pytest.raises(OptionError, match="Give sources= for the new rows too"):
        extend_from_activations(named, rows[300:], atoms=10, progress=False)
    with pytest.raises(OptionError, match="Leave sources= out"):
        extend_from_activations(bare, rows[300:], atoms=10, sources=names[300:], progress=False)
    with pytest.raises(OptionError, match="has the name of an atom that is there, recording"):
        extend_from_activations(named, rows[300:], atoms=10, sources=names[:300], progress=False)


def test_token_means_are_of_all_rows(dictionary, grown, model):
    more = capture(model, Corpus.from_texts(MORE), "resid_post.1", progress=False)
    assert int(grown.token_means.counts.sum()) == int(dictionary.token_means.counts.sum()) + len(more.rows)
    there = int(dictionary.token_means.counts.sum())
    expected = (dictionary.token_means.overall * there + more.rows.sum(0)) / (there + len(more.rows))
    assert torch.allclose(grown.token_means.overall, expected, atol=1e-2)
