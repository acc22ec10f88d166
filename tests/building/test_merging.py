"""Dictionaries of parts of a corpus become one."""

import dataclasses

import pytest
import torch

import itda
from itda.errors import ActivationError, MismatchError, OptionError
from support import tiny
from support.signals import coherent

TEXTS = [text * 2 for text in tiny.KINGS]
OPTIONS = {"site": "resid_post.1", "steps": 4, "progress": False}


@pytest.fixture(scope="module")
def parts(model):
    return [itda.build(model, itda.Corpus.from_texts(TEXTS[part::3]), atoms=40, **OPTIONS) for part in range(3)]


def test_atoms_are_those_of_the_parts_and_keep_their_names(model, parts):
    merged = itda.merge(parts, atoms=60)
    assert len(merged) == 60
    named = {key: part.activations[place] for part in parts for place, key in enumerate(part.sources.keys())}
    for place, key in enumerate(merged.sources.keys()):
        assert torch.allclose(merged.activations[place], named[key], atol=1e-5)
    assert torch.allclose(merged.atoms.norm(dim=1), torch.ones(60), atol=1e-5)
    assert merged.documents == tuple(document for part in parts for document in part.documents)
    assert merged.build.rows == sum(part.build.rows for part in parts)
    assert merged.build.method == "merge"
    assert merged.provenance.capture["counts"]["rows"] == merged.build.rows


def test_it_explains_what_no_part_does_alone(model, parts):
    rows = itda.capture(model, itda.Corpus.from_texts(TEXTS), "resid_post.1", progress=False).rows
    merged = itda.merge(parts)
    assert merged.encode(rows).unexplained.mean() < min(part.encode(rows).unexplained.mean() for part in parts)


def test_it_is_a_pure_function(parts, tmp_path):
    one, other = itda.merge(parts, atoms=50), itda.merge(parts, atoms=50)
    one.save_pretrained(tmp_path / "one")
    other.save_pretrained(tmp_path / "other")
    assert (tmp_path / "one" / "itda.json").read_bytes() == (tmp_path / "other" / "itda.json").read_bytes()
    loaded = itda.Dictionary.from_pretrained(tmp_path / "one")
    assert torch.equal(loaded.norms, one.norms)


def test_what_was_measured_on_no_row_is_not_said(parts, tmp_path):
    merged = itda.merge(parts[:2])
    assert merged.build.unexplained is None
    merged.save_pretrained(tmp_path / "merged")
    assert itda.Dictionary.from_pretrained(tmp_path / "merged").build.unexplained is None


def test_means_are_those_of_all_rows(model, parts):
    whole = itda.build(model, itda.Corpus.from_texts(TEXTS), atoms=40, **OPTIONS)
    merged = itda.merge(parts)
    assert torch.allclose(merged.mean, whole.mean, atol=1e-5)
    assert torch.equal(merged.token_means.token_ids, whole.token_means.token_ids)
    assert torch.equal(merged.token_means.counts, whole.token_means.counts)
    assert torch.allclose(merged.token_means.overall, whole.token_means.overall, atol=1e-4)
    assert torch.allclose(merged.token_means.offsets.float(), whole.token_means.offsets.float(), atol=2e-2)


def test_repeats_are_kept_once():
    rows, _ = coherent(300, 16, 10)
    one = itda.build_from_activations(rows, atoms=50, steps=4, progress=False)
    for sample in (None, rows):
        assert len(itda.merge([one, one], rows=sample)) <= 52


def test_a_sample_of_rows_chooses_better_atoms():
    rows, _ = coherent(4000, 32, 10)
    parts = [itda.build_from_activations(part, atoms=128, steps=4, progress=False) for part in rows[:3000].split(1000)]
    found = [
        itda.merge(parts, atoms=128, rows=sample).encode(rows[3000:]).unexplained.mean()
        for sample in (None, rows[:3000])
    ]
    assert found[1] < found[0]


def test_bare_arrays_too():
    rows, _ = coherent(600, 16, 10)
    parts = [itda.build_from_activations(part, atoms=40, steps=4, progress=False) for part in rows.split(300)]
    merged = itda.merge(parts, atoms=60, rows=rows)
    assert merged.provenance is None
    assert merged.usage_counts.sum() == merged.encode(rows).l0.sum()
    assert merged.encode(rows).unexplained.mean() < parts[0].encode(rows).unexplained.mean()


def test_what_does_not_belong_together_is_refused(model, parts):
    corpus = itda.Corpus.from_texts(["another text about a queen and her many kings"] * 2 + TEXTS[:1])
    other_site = itda.build(model, corpus, atoms=20, **{**OPTIONS, "site": "resid_post.0"})
    other_coding = itda.build(model, corpus, atoms=20, **{**OPTIONS, "steps": 3})
    other_window = itda.build(model, corpus, atoms=20, window=16, **OPTIONS)
    other_model = itda.build(itda.wrap(tiny.module("Llama", seed=1), tiny.tokenizer()), corpus, atoms=20, **OPTIONS)
    bare = itda.build_from_activations(torch.randn(100, 16), atoms=20, steps=4, progress=False)
    narrow = dataclasses.replace(bare, atoms=bare.atoms[:, :8])
    for other, says in (
        (other_site, "made at 'resid_post.0'"),
        (other_coding, "has the coding"),
        (other_window, "captured in other ways"),
        (other_model, "belongs to the model"),
        (bare, "not of one kind"),
        (narrow, "width 8, the first 16"),
        (parts[0], "share documents"),
    ):
        with pytest.raises(MismatchError, match=says):
            itda.merge([parts[0], other])
    with pytest.raises(OptionError, match="have 80 atoms together"):
        itda.merge(parts[:2], atoms=100)
    for nothing in ([], [1], [None]):
        with pytest.raises(OptionError, match="list of dictionaries"):
            itda.merge(nothing)


def test_mixtures_stay_mixtures_and_learned_atoms_are_refused():
    rows, _ = coherent(900, 16, 10)
    halves = torch.split(rows, 450)
    options = {"atoms": 40, "steps": 3, "progress": False}
    parts = [itda.build_from_activations(half, method="mixture", **options) for half in halves]
    merged = itda.merge(parts, atoms=50, rows=rows)
    assert (merged.kind, len(merged), len(merged.mixtures)) == ("mixtures", 50, 50)
    known = {
        tuple((part.weight, part.source.row + before) for part in one.mixtures[atom])
        for one, before in zip(parts, (0, 450), strict=True)
        for atom in range(40)
    }
    assert {tuple((part.weight, part.source.row) for part in merged.mixtures[atom]) for atom in range(50)} <= known
    learned = [itda.build_from_activations(half, method="learned", **options) for half in halves]
    with pytest.raises(OptionError, match="A merge takes atoms that are activations"):
        itda.merge(learned)
    real = itda.build_from_activations(halves[1], method="budget", **options)
    with pytest.raises(MismatchError, match="other activations than the first, mixtures"):
        itda.merge([parts[0], real])
    pairs = itda.build_from_activations(halves[1], method="mixture", parts=2, **options)
    with pytest.raises(MismatchError, match="Build both alike"):
        itda.merge([parts[0], pairs])


def test_what_is_left_of_repeats_is_said(model):
    flat = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) @ torch.randn(3, 12)
    halves = torch.split(flat, 100)
    options = {"atoms": 24, "steps": 16, "progress": False}
    parts = [itda.build_from_activations(half, method="random", **options) for half in halves]
    with pytest.raises(ActivationError, match="fewer than the 16 steps"):
        itda.merge(parts)
    rows, _ = coherent(600, 16, 10)
    alike = [itda.build_from_activations(half, atoms=30, steps=3, progress=False) for half in torch.split(rows, 300)]
    merged = itda.merge(alike, atoms=60, rows=rows[:4])
    assert len(merged) < 60
    assert merged.build.notes == (f"Only {len(merged)} of 60 atoms could be taken: the rows use no others.",)


def test_bare_rows_are_numbered_through():
    rows, _ = coherent(600, 16, 10)
    for method in ("budget", "mixture"):
        parts = [
            itda.build_from_activations(half, atoms=30, steps=3, method=method, progress=False)
            for half in torch.split(rows, 300)
        ]
        merged = itda.merge(parts, rows=rows)
        sources = merged.sources if merged.mixtures is None else merged.mixtures.sources
        assert int(sources.row.max()) >= 300
        if method == "budget":
            assert torch.allclose(merged.activations, rows[sources.row], atol=1e-4)


def test_a_sample_may_be_activations(model, parts):
    rows = itda.capture(model, itda.Corpus.from_texts(tiny.KINGS), parts[0].site, progress=False)
    assert torch.equal(itda.merge(parts, atoms=30, rows=rows).atoms, itda.merge(parts, atoms=30, rows=rows.rows).atoms)
    elsewhere = itda.capture(model, itda.Corpus.from_texts(tiny.KINGS), "resid_post.0", progress=False)
    with pytest.raises(MismatchError):
        itda.merge(parts, atoms=30, rows=elsewhere)
