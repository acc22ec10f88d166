"""Dictionaries in other models, and codes read there: exact where it must be, counted where it cannot be."""

import json
from dataclasses import fields, replace

import pytest
import torch

import itda
from itda import Corpus, compare
from itda.data.dictionary import Dictionary
from itda.errors import CorpusError, MismatchError, OptionError, ShapeError, SiteError
from support import tiny

TEXTS = Corpus.from_texts([f"{line} {number}" for number in range(4) for line in tiny.KINGS])


@pytest.fixture(scope="module")
def other():
    """The same architecture and tokenizer with other weights."""
    return itda.wrap(tiny.module("Llama", seed=1), tiny.tokenizer(), id="other")


def built(model, corpus=TEXTS, **options):
    options = {"atoms": 40, "steps": 4, "method": "random", "progress": False, **options}
    return itda.build(model, corpus, site="resid_post.1", **options)


def rows_at(model, sources, corpus=TEXTS, site="resid_post.1"):
    """What a capture of everything has at some places."""
    everything = itda.capture(model, corpus, site, sinks="keep", progress=False)
    places = {key: row for row, key in enumerate(everything.sources.keys())}
    wanted = sources.keys()
    return everything.rows[[places[key] for key in wanted]]


@pytest.mark.parametrize("method", ["random", "budget", "mixture"])
def test_in_its_own_model_a_dictionary_is_what_it_was(model, method):
    dictionary = built(model, method=method)
    there = compare.transplant(dictionary, model, TEXTS, progress=False)
    assert there.dropped == 0
    assert torch.equal(there.kept, torch.arange(40))
    assert torch.allclose(there.activations, dictionary.activations, atol=1e-5)
    assert torch.allclose(there.atoms, dictionary.atoms, atol=1e-5)
    assert there.sources.keys() == dictionary.sources.keys()
    assert there.kind == dictionary.kind
    codes = dictionary.encode(itda.capture(model, TEXTS, "resid_post.1", tokens=50, progress=False))
    assert torch.allclose(compare.translate(codes, there), dictionary.decode(codes), atol=1e-4)


def test_atoms_are_the_other_models_activations_at_the_same_places(model, other):
    dictionary = built(model)
    there = compare.transplant(dictionary, other, TEXTS, progress=False)
    assert torch.allclose(there.activations, rows_at(other, dictionary.sources), atol=1e-6)
    assert not torch.allclose(there.activations, dictionary.activations, atol=0.01)
    assert there.sources.keys() == dictionary.sources.keys()
    assert torch.equal(there.sources.token_id, dictionary.sources.token_id)
    assert there.model_id == "other"
    assert there.documents == dictionary.documents
    assert there.original is dictionary
    assert itda.evaluate(there, other, Corpus.from_texts(["something else entirely"]), progress=False).fvu > 0


def test_mixtures_are_mixed_again_from_the_other_models_activations(model, other):
    dictionary = built(model, method="mixture")
    there = compare.transplant(dictionary, other, TEXTS, progress=False)
    parts = rows_at(other, dictionary.mixtures.sources).reshape(*dictionary.mixtures.weights.shape, -1)
    assert torch.allclose(there.activations, (dictionary.mixtures.weights[..., None] * parts).sum(1), atol=1e-5)
    assert torch.equal(there.mixtures.weights, dictionary.mixtures.weights)


def test_a_transplant_is_saved_as_a_dictionary(model, other, tmp_path):
    there = compare.transplant(built(model), other, TEXTS, progress=False)
    opened = Dictionary.from_pretrained(there.save_pretrained(tmp_path / "there"))
    assert torch.equal(opened.atoms, there.atoms)
    assert "were chosen in" in opened.build.notes[0]
    assert len(repr(there)) < 200
    with pytest.raises(OptionError, match="Dictionary.from_pretrained"):
        compare.Transplant.from_pretrained(tmp_path / "there")


def test_another_tokenizer_reads_the_text_of_each_window(data, stories, llama):
    some = Corpus.from_texts([document.text for document, _ in zip(stories, range(20), strict=False)])
    characters = itda.load_model(data / "models" / "babyllama-char105")
    dictionary = itda.build(characters, some, site="resid_post.2", atoms=128, method="random", progress=False)
    there = compare.transplant(dictionary, llama, some, progress=False)
    assert 10 < there.dropped < 100  # most characters are no end of a word or a piece of one
    assert len(there) == len(there.kept) == 128 - there.dropped
    assert f"{there.dropped} others end where no token" in there.build.notes[1]
    keys = dictionary.sources.keys()
    assert there.sources.keys() == [keys[atom] for atom in there.kept.tolist()]
    for atom in (0, len(there) - 1):
        source = dictionary.sources[int(there.kept[atom])]
        read = itda.capture(
            llama, Corpus.from_texts([source.before + source.token + source.after]), "resid_post.2",
            window=llama.positions, sinks="keep", progress=False,
        )  # fmt: skip
        ends = {end: row for row, (_, end) in enumerate(read.sources.keys())}
        row = read.rows[ends[source.char_end - source.window_start]]
        assert torch.allclose(there.activations[atom], row, atol=1e-4)


def test_a_text_too_long_for_the_other_model_is_read_in_stretches_that_overlap(data, gpt2):
    """Windows of 128 tokens are 500 characters; the other model has 256 positions, one for each."""
    text = Corpus.from_texts(json.loads((data / "text" / "tinystories_1000.json").read_text())[:12])
    characters = itda.load_model(data / "models" / "babyllama-char105")
    dictionary = itda.build(gpt2, text, site="resid_post.3", atoms=300, tokens=600, method="random", progress=False)
    there = compare.transplant(dictionary, characters, text, "resid_post.2", progress=False)
    into = [source.char_end - source.window_start for source in there.sources]
    assert there.dropped < 6
    assert max(into) > 400
    for atom in sorted(range(len(there)), key=lambda atom: -into[atom])[:3]:
        source = there.sources[atom]
        whole = source.before + source.token
        alone = Corpus.from_texts([whole[-240:]])
        read = itda.capture(characters, alone, "resid_post.2", window=256, sinks="keep", progress=False)
        nearest = torch.nn.functional.cosine_similarity(read.rows[-1], there.activations[atom], dim=0)
        assert nearest > 0.95  # as much context, from another character on


def planted(rows, linear, kept=None):
    """A dictionary of rows, and the same in a model whose activations are a linear map of these."""
    dictionary = itda.build_from_activations(rows, atoms=60, steps=5, method="random", progress=False)
    kept = torch.arange(60) if kept is None else kept
    moved = (dictionary.atoms * dictionary.norms[:, None])[kept] @ linear
    facts = {field.name: getattr(dictionary, field.name) for field in fields(dictionary)}
    norms = torch.linalg.vector_norm(moved, dim=1)
    facts |= {"atoms": moved / norms[:, None], "norms": norms, "mean": dictionary.mean @ linear}
    facts |= {"sources": dictionary.sources.select(kept), "original": dictionary, "kept": kept}
    return dictionary, compare.Transplant(**facts)


def test_codes_are_read_with_the_other_models_atoms():
    rows, linear = torch.randn(300, 12), torch.randn(12, 9)
    dictionary, there = planted(rows, linear)
    codes = dictionary.encode(rows[:70])
    expected = dictionary.decode(codes) @ linear
    assert torch.allclose(compare.translate(codes, there), expected, atol=1e-4)
    # With nothing held down, five weights that gave the sum give it again
    again = compare.translate(codes, there, refit=True, ridge=1e-6)
    assert torch.allclose(again, expected, atol=0.01 * float(expected.abs().max()))
    held = compare.translate(codes, there, refit=True, ridge=10.0) - there.mean
    assert held.square().sum() < 0.5 * (expected - there.mean).square().sum()


def test_dropped_atoms_add_nothing():
    rows, linear = torch.randn(300, 12), torch.randn(12, 9)
    kept = torch.arange(0, 60, 2)
    dictionary, there = planted(rows, linear, kept)
    codes = dictionary.encode(rows[:70])
    without = replace(codes, coefficients=torch.where(codes.atoms % 2 == 0, codes.coefficients, 0.0))
    assert torch.allclose(compare.translate(codes, there), dictionary.decode(without) @ linear, atol=1e-4)
    assert torch.isfinite(compare.translate(codes, there, refit=True)).all()


def test_beyond_the_token_a_code_without_atoms_is_the_token_mean(model, other):
    dictionary = built(model)
    there = compare.transplant(dictionary, other, TEXTS, progress=False)
    rows = itda.capture(model, TEXTS, "resid_post.1", tokens=30, progress=False)
    codes = dictionary.encode(rows)
    nothing = replace(codes, atoms=torch.full_like(codes.atoms, -1), coefficients=torch.zeros_like(codes.coefficients))
    ids = rows.sources.token_id
    found = compare.translate(nothing, there, token_ids=ids)
    assert torch.allclose(found, there.token_means.of(ids), atol=1e-5)
    swapped = compare.translate(nothing, there, token_ids=(ids, ids.flip(0)))
    assert torch.allclose(swapped, there.token_means.of(ids.flip(0)), atol=1e-5)


def test_an_atom_is_translated_to_itself(model, other):
    """A row that is an atom, coded by it alone: what the other model has there, token or no token."""
    dictionary = built(model)
    there = compare.transplant(dictionary, other, TEXTS, progress=False)
    codes = dictionary.encode(dictionary.activations, steps=1)
    ids = dictionary.sources.token_id
    assert torch.allclose(compare.translate(codes, there), there.activations, atol=1e-3)
    found = compare.translate(codes, there, token_ids=ids, ridge=1e-6)
    assert torch.allclose(found, there.activations, atol=1e-2)


def test_pieces_do_not_matter(monkeypatch):
    dictionary, there = planted(torch.randn(300, 12), torch.randn(12, 9))
    codes = dictionary.encode(torch.randn(50, 12))
    whole = compare.translate(codes, there, refit=True)
    monkeypatch.setattr("itda.compare.translation._FLOATS", 400)
    assert torch.allclose(compare.translate(codes, there, refit=True), whole, atol=1e-5)


@pytest.mark.long
def test_between_real_models_codes_say_more_than_the_token(data, gpt2):
    text = Corpus.from_files(data / "text" / "wikitext_1000.json")
    train, _ = text.split(held_out=0.1)
    second = itda.load_model(data / "models" / "seeds" / "gpt2-s49")
    dictionary = itda.build(
        gpt2, train, site="resid_post.3", atoms=512, tokens=20_000, steps=16, method="random", progress=False
    )
    there = compare.transplant(dictionary, second, train, tokens=30_000, progress=False)
    report = compare.measure_translation(there, gpt2, second, text, tokens=1000, progress=False)
    best = report.codes["codes, refitted, beyond the token"]
    assert best.explains > 0.3
    assert best.delta_ce < report.baselines["token mean"].delta_ce < report.baselines["mean"].delta_ce
    assert best.explains > report.codes["codes, decoded"].explains
    assert report.baselines["token mean"].explains == pytest.approx(0, abs=0.01)
    assert report.tokens == report.asked == 1000
    assert report.l0 == pytest.approx(16, abs=1)
    shown = str(report)
    assert "kernel ridge" in shown
    assert "95 %" not in shown
    assert report.to_dict()["codes"]["codes, decoded"]["fvu"] > 0


def test_encoders_have_no_loss(minilm, stories):
    some = Corpus.from_texts([document.text for document, _ in zip(stories, range(12), strict=False)])
    train, _ = some.split(held_out=0.3)
    dictionary = itda.build(minilm, train, atoms=64, method="random", tokens=800, progress=False)
    there = compare.transplant(dictionary, minilm, train, progress=False)
    report = compare.measure_translation(there, minilm, minilm, some, tokens=200, progress=False)
    assert report.codes["codes, decoded"].delta_ce is None
    assert report.codes["codes, decoded"].fvu < 0.8 < report.baselines["mean"].fvu


def test_bad_input(model, other):
    dictionary = built(model)
    learned = built(model, method="learned")
    there = compare.transplant(dictionary, other, TEXTS, progress=False)
    rows = itda.capture(model, TEXTS, "resid_post.1", tokens=30, progress=False)
    codes = dictionary.encode(rows)
    with pytest.raises(OptionError, match="belong to no text"):
        compare.transplant(learned, other, TEXTS)
    with pytest.raises(OptionError, match="bare array"):
        compare.transplant(itda.build_from_activations(torch.randn(90, 16), atoms=20, progress=False), other, TEXTS)
    with pytest.raises(MismatchError, match=r"documents .* are not in .* Give the corpus"):
        compare.transplant(dictionary, other, Corpus.from_texts(["only this"]), progress=False)
    with pytest.raises(SiteError):
        compare.transplant(dictionary, other, TEXTS, site="resid_post.9")
    with pytest.raises(CorpusError, match="itda.Corpus"):
        compare.transplant(dictionary, other, ["text"])
    with pytest.raises(OptionError, match="tokens"):
        compare.transplant(dictionary, other, TEXTS, tokens=0)
    with pytest.raises(OptionError, match="Dictionary"):
        compare.transplant("runs/a", other, TEXTS)
    with pytest.raises(OptionError, match="what transplant returns"):
        compare.translate(codes, dictionary)
    with pytest.raises(OptionError, match="Codes"):
        compare.translate(rows.rows, there)
    with pytest.raises(ShapeError, match="30 codes"):
        compare.translate(codes, there, rows=rows.rows[:3])
    with pytest.raises(ShapeError, match="whole numbers"):
        compare.translate(codes, there, token_ids=rows.sources.token_id[:3])
    with pytest.raises(ShapeError, match="whole numbers"):
        compare.translate(codes, there, token_ids=torch.zeros(30))
    with pytest.raises(OptionError, match="ridge"):
        compare.translate(codes, there, ridge=0)
    with pytest.raises(MismatchError, match="Encode with that one"):
        compare.translate(replace(codes, atoms=codes.atoms + 100), there)
    with pytest.raises(CorpusError, match="built from all documents"):
        compare.measure_translation(there, model, other, TEXTS, progress=False)
    with pytest.raises(MismatchError):
        compare.measure_translation(there, model, model, TEXTS, progress=False)
    with pytest.raises(OptionError, match="no means of tokens"):
        compare.translate(codes, replace(there, token_means=None), token_ids=rows.sources.token_id)
