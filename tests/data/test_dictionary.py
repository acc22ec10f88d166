import json
import shutil

import numpy as np
import pytest
import torch

from itda import Coding, Corpus, Dictionary, build, build_from_activations, capture, wrap
from itda.errors import FormatError, MismatchError, OptionError, OutputError, ShapeError
from support import tiny
from support.signals import coherent

TEXTS = tiny.KINGS


@pytest.fixture(scope="module")
def dictionary(model):
    return build(model, Corpus.from_texts(TEXTS), site="resid_post.1", atoms=48, progress=False)


@pytest.fixture
def saved(dictionary, tmp_path):
    return dictionary.save_pretrained(tmp_path / "d")


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_saved_loaded_and_saved_again_is_the_same_to_the_byte(saved, tmp_path):
    again = Dictionary.from_pretrained(saved).save_pretrained(tmp_path / "again")
    assert contents(saved) == contents(again)


def test_nothing_is_lost_on_disk(dictionary, saved):
    again = Dictionary.from_pretrained(str(saved))
    for name in ("atoms", "mean", "usage_counts", "usage_energy"):
        assert torch.equal(getattr(again, name), getattr(dictionary, name)), name
    assert list(again.sources) == list(dictionary.sources)
    assert again.facts() == json.loads(json.dumps(dictionary.facts()))
    assert (again.documents, again.coding, again.fingerprint) == (
        dictionary.documents,
        dictionary.coding,
        dictionary.fingerprint,
    )
    assert torch.equal(again.token_means.offsets, dictionary.token_means.offsets)
    assert {"itda", "torch", "transformers"} <= set(again.build.versions)
    assert again.provenance.model.is_same_model(dictionary.provenance.model)


def test_a_bare_array_makes_a_whole_dictionary_too(tmp_path):
    rows, _ = coherent(400, 16, 1)
    dictionary = build_from_activations(rows.numpy(), atoms=40, steps=4, progress=False)
    folder = dictionary.save_pretrained(tmp_path / "d")
    again = Dictionary.from_pretrained(folder)
    assert contents(folder) == contents(again.save_pretrained(tmp_path / "again"))
    assert again.provenance is again.token_means is None
    assert again.sources[3].row == dictionary.sources[3].row
    assert "bare array" in repr(again)
    with pytest.raises(OptionError, match="belongs to no model"):
        _ = again.site


@pytest.mark.parametrize(
    "name", ["itda.json", "dictionary.safetensors", "sources.safetensors", "token_means.safetensors"]
)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_folders_are_named(saved, name, damage):
    content = (saved / name).read_bytes()
    if damage == "remove":
        (saved / name).unlink()
    else:
        half = len(content) // 2
        (saved / name).write_bytes(
            content[:half] if damage == "cut" else content[:half] + b"\x00\xff" + content[half + 2 :]
        )
    with pytest.raises(FormatError, match=name):
        Dictionary.from_pretrained(saved)


def test_arrays_that_do_not_fit_together_are_refused(saved, dictionary, tmp_path):
    from itda.data import files

    facts, tensors = files.read_folder(saved, "dictionary")
    facts.pop("files")
    files.write_folder(tmp_path / "a", "dictionary", {**facts, "atoms": 47}, tensors)
    with pytest.raises(FormatError, match="not 47 atoms of width 16"):
        Dictionary.from_pretrained(tmp_path / "a")
    short = {**tensors["dictionary"], "usage_counts": torch.zeros(3, dtype=torch.int64)}
    files.write_folder(tmp_path / "b", "dictionary", facts, {**tensors, "dictionary": short})
    with pytest.raises(FormatError, match="same number of atoms"):
        Dictionary.from_pretrained(tmp_path / "b")
    files.write_folder(tmp_path / "c", "dictionary", facts, {"dictionary": {}})
    with pytest.raises(FormatError, match="not what itda writes: KeyError: 'atoms'"):
        Dictionary.from_pretrained(tmp_path / "c")


def test_folders_that_hold_none(tmp_path, saved):
    with pytest.raises(FormatError, match="There is no folder"):
        Dictionary.from_pretrained(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match=r"has no itda\.json"):
        Dictionary.from_pretrained(tmp_path / "empty")
    with pytest.raises(FormatError, match="the hub does not give a dictionary of that name"):
        Dictionary.from_pretrained("nobody/nothing-of-this-name")


def test_an_existing_folder_is_refused_unless_told(dictionary, saved):
    before = contents(saved)
    with pytest.raises(OutputError, match="overwrite"):
        dictionary.save_pretrained(saved)
    assert contents(saved) == before
    dictionary.save_pretrained(saved, overwrite=True)
    assert contents(saved) == before


def test_encode_and_decode(model, dictionary):
    found = capture(model, Corpus.from_texts(TEXTS), "resid_post.1", progress=False)
    codes = dictionary.encode(found.rows)
    rebuilt = dictionary.decode(codes)
    missed = (found.rows - rebuilt).square().sum(1) / (found.rows - dictionary.mean).square().sum(1)
    assert torch.allclose(missed, codes.unexplained, atol=1e-5)
    assert codes.unexplained.mean() < 0.5
    assert torch.equal(dictionary.encode(found).atoms, codes.atoms)
    assert torch.equal(dictionary.encode(found.rows.numpy()).atoms, codes.atoms)
    more = dictionary.encode(found.rows, steps=12)
    assert more.atoms.shape[1] == 12
    assert more.unexplained.mean() < codes.unexplained.mean()
    plain, fitted = (dictionary.encode(found.rows, coding=Coding(steps=4, refit=refit)) for refit in (False, True))
    assert fitted.unexplained.mean() < plain.unexplained.mean()


def test_an_atom_is_its_own_code(dictionary):
    row = 3 * dictionary.atoms[7] + dictionary.mean
    codes = dictionary.encode(row[None])
    assert (codes.atoms[0, 0], codes.l0[0]) == (7, 1)
    assert float(codes.coefficients[0, 0]) == pytest.approx(3, abs=1e-4)


def test_what_does_not_fit_is_refused(model, dictionary):
    with pytest.raises(
        ShapeError, match="width 16. Got 5 instead. Capture them at 'resid_post.1' of 'LlamaForCausalLM'"
    ):
        dictionary.encode(torch.ones(2, 5))
    with pytest.raises(OptionError, match="steps=99 is more than the 48 atoms"):
        dictionary.encode(torch.ones(2, 16), steps=99)
    elsewhere = capture(model, Corpus.from_texts(TEXTS), "resid_post.0", progress=False)
    with pytest.raises(MismatchError, match="built at 'resid_post.1'. Got activations of 'resid_post.0'"):
        dictionary.encode(elsewhere)
    other = wrap(tiny.module("Llama", seed=1), tiny.tokenizer(), id="another")
    foreign = capture(other, Corpus.from_texts(TEXTS), "resid_post.1", progress=False)
    with pytest.raises(MismatchError, match="'another'"):
        dictionary.encode(foreign)
    small = build_from_activations(np.eye(16)[:6] + 0.1, atoms=4, steps=2, progress=False)
    with pytest.raises(ShapeError, match="there are only 4 atoms"):
        small.decode(dictionary.encode(torch.randn(20, 16)))


def test_atoms_are_found_by_token_text_and_use(model, dictionary):
    by_token = dictionary.find(token="k")
    assert by_token
    assert all(found.source.token == "k" for found in by_token)
    by_text = dictionary.find("KING")
    assert by_text
    assert all("king" in found.source.text.replace("[", "").replace("]", "") for found in by_text)
    assert dictionary.find("no such text") == []
    assert len(dictionary.find("e", limit=2)) == 2
    found = capture(model, Corpus.from_texts(TEXTS), "resid_post.1", progress=False)
    firing = dictionary.find(firing_on=found.rows[:5], limit=3)
    used = dictionary.encode(found.rows[:5]).to_dense(48).square().sum(0)
    assert [answer.atom for answer in firing] == used.argsort(descending=True)[:3].tolist()
    assert firing[0].score == pytest.approx(float(used.max()), rel=1e-4)
    assert str(firing[0].atom) in str(firing[0])
    for question in ({}, {"text": "a", "token": "b"}):
        with pytest.raises(OptionError, match="one question"):
            dictionary.find(**question)


def test_loading_reads_no_other_file(saved):
    (saved / "extra.safetensors").write_bytes(b"nonsense")
    (saved / "README.md").write_text("card")
    assert len(Dictionary.from_pretrained(saved)) == 48
    moved = saved.with_name("elsewhere")
    shutil.move(saved, moved)
    assert len(Dictionary.from_pretrained(moved)) == 48
