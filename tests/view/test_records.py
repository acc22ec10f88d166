"""What pages are made of is what the dictionary says of the text, and is read back whole or refused."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import itda
from itda.errors import CorpusError, FormatError, MismatchError, OptionError
from itda.view import figures, pages
from itda.view.atom_map import METHOD, PLAIN, atom_map
from itda.view.preparing import prepare
from itda.view.records import Records, Texts, folder_of
from itda.view.shelf import Shelf, StaleError
from support import tiny
from support.pages import PREPARED, bare_dictionary


def test_uses_are_those_of_the_codes_the_largest_first(prepared):
    records = prepared.records
    flat = records.atoms.ravel()
    for atom in (0, 17, len(records) - 1):
        uses, values = records.uses_of(atom), records.coefficients_of(atom)
        assert sorted(uses.tolist()) == np.flatnonzero(flat == atom).tolist()
        assert np.all(np.diff(np.abs(values)) <= 0)
    assert records.counts.sum() == (flat >= 0).sum()
    assert records.energies.sum() == pytest.approx(1)


def test_codes_are_those_of_the_dictionary(prepared, embedded):
    """Of a window, read by itself, the same atoms and coefficients."""
    records = prepared.records
    window = int(records.tokens[0, 0])
    rows = np.flatnonzero(records.tokens[:, 0] == window)
    text = records.windows[window]
    explained = [token for token in itda.explain(prepared.dictionary, embedded, text).tokens if token.left_out is None]
    assert [text[start:end] for start, end in records.tokens[rows, 1:]] == [token.token for token in explained]
    for row, token in zip(rows, explained, strict=True):
        ours = dict(zip(records.atoms[row].tolist(), records.coefficients[row].tolist(), strict=True))
        ours.pop(-1, None)
        theirs = {piece.atom: piece.coefficient for piece in token.pieces}
        assert ours.keys() == theirs.keys()
        assert all(ours[atom] == pytest.approx(theirs[atom], rel=1e-3, abs=1e-3) for atom in ours)


def test_nearest_atoms_lens_and_map(prepared):
    records, atoms = prepared.records, prepared.dictionary.atoms
    alike = (atoms @ atoms.T).fill_diagonal_(0).abs()
    assert torch.equal(torch.from_numpy(records.nearest[:, 0]).long(), alike.argmax(1))
    assert records.places.min() >= -1
    assert records.places.max() <= 1
    facts = pages.atom(records, 5)
    assert len(facts["raises"]) == 10
    assert all(value > 0 for _, value in facts["raises"])
    assert all(value < 0 for _, value in facts["lowers"])


def test_contexts_are_marked_where_the_atom_is(prepared):
    facts = max((pages.atom(prepared.records, atom) for atom in range(20)), key=lambda facts: facts["uses"])
    assert facts["negative"], "signed codes take this one away somewhere"
    for side, sign in (("positive", 1), ("negative", -1)):
        values = [context.coefficient for context in facts[side]]
        assert values == sorted(values, key=lambda value: -abs(value))
        for context in facts[side]:
            marked = [piece for piece in context.pieces if piece.marked]
            assert len(marked) == 1
            assert np.sign(marked[0].shade) == np.sign(context.coefficient) == sign
            assert all(abs(piece.shade) <= 9 for piece in context.pieces)


def test_a_page_of_an_atom_quotes_its_source(prepared):
    for atom in (0, 50, 127):
        source, part = prepared.dictionary.sources[atom], pages.atom(prepared.records, atom)["parts"][0]
        assert part["document"] == source.document[:8]
        assert part["token"] == itda.shown.printable(source.token)
        assert itda.shown.printable(source.before).endswith(part["before"].lstrip("…")[-100:])


def test_atoms_that_occur_together(prepared):
    records = prepared.records
    facts = pages.atom(records, 3)
    uses = {row for row in range(len(records.atoms)) if 3 in records.atoms[row]}
    for other in facts["together"]:
        both = sum(other["atom"] in records.atoms[row] for row in uses)
        either = len(uses) + records.counts[other["atom"]] - both
        assert other["share"] == pytest.approx(both / either, abs=1e-4)


def test_fidelity_is_measured_on_what_was_held_out(prepared):
    report = prepared.records.facts["report"]
    assert report["tokens"] >= 900
    shown = {name: value for name, value, _ in pages.fidelity(prepared.records)}
    assert shown["FVU"] == f"{report['scores']['fvu']:.4f}"
    assert len(prepared.records.effects) == 3


def test_records_come_back_from_disk_without_torch(prepared):
    back = Records.load(folder_of(prepared.folder / "l3"))
    for name in ("atoms", "coefficients", "uses", "places", "lens", "nearest"):
        assert np.array_equal(getattr(back, name), getattr(prepared.records, name))
    assert pages.atom(back, 7) == pages.atom(prepared.records, 7)
    code = (
        "import sys; from itda.view.shelf import Shelf; from itda.view.site import Site;"
        f"shelf = Shelf.open([{str(prepared.folder)!r}]); site = Site(shelf, live=True);"
        "site.dictionary('l3'); site.atom('l3', 3); site.table_script('l3'); site.explain('l3'); site.index();"
        "print(*sorted(set(sys.modules) & {'torch', 'transformers', 'scipy', 'sklearn', 'numba', 'matplotlib'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


def test_the_same_text_gives_the_same_records(prepared, embedded, tmp_path):
    again = prepare(prepared.dictionary, embedded, itda.Corpus.embedded(), name="l3", **PREPARED)
    prepared.dictionary.save_pretrained(tmp_path / "l3")
    first, second = folder_of(prepared.folder / "l3"), again.save(tmp_path / "l3")
    for file in ("itda.json", "view.safetensors", "texts.safetensors"):
        assert (first / file).read_bytes() == (second / file).read_bytes()


def test_without_a_corpus_the_texts_of_the_atoms_are_read(embedded, prepared):
    records = prepare(prepared.dictionary, embedded, name="own", tokens=1_000, progress=False)
    assert records.facts["report"] is None
    assert len(records.tokens) >= 900
    assert "come from" in dict(pages.summary(records))["pages made from"]


def test_texts_that_were_left_out_are_none_to_look_at(embedded, prepared):
    shared = prepared.dictionary.without_texts()
    records = prepare(shared, embedded, tokens=300, progress=False)
    assert len(records.nearest) == len(shared)
    assert not len(records.tokens)


def test_a_bare_array_and_a_missing_model_still_have_pages():
    dictionary = bare_dictionary()
    records = prepare(dictionary, progress=False)
    facts = pages.atom(records, 4)
    assert facts["parts"][0]["token"] == f"row {dictionary.sources[4].row}"
    assert facts["uses"] == 0
    assert facts["positive"] == []
    assert pages.dictionary_charts(records) == []
    assert records.facts["map"] == METHOD


def test_mixtures_and_learned_atoms_say_what_they_are(model):
    corpus = itda.Corpus.from_texts(tiny.KINGS)
    for method, expected in (("mixture", "mixtures"), ("learned", "learned")):
        dictionary = itda.build(model, corpus, atoms=12, steps=2, method=method, progress=False)
        records = prepare(dictionary, model, progress=False)
        facts = pages.atom(records, 0)
        assert facts["kind"] == expected
        if method == "mixture":
            assert 1 <= len(facts["parts"]) <= 5
            assert sum(part["weight"] for part in facts["parts"]) == pytest.approx(1, abs=1e-3)
        else:
            assert records.describe(0).startswith("e.g. ")


def test_attention_heads_have_their_shares(embedded):
    dictionary = itda.build(embedded, itda.Corpus.embedded(), site="attn_heads.3", atoms=32, tokens=600, progress=False)
    records = prepare(dictionary, embedded, tokens=500, progress=False)
    facts = pages.atom(records, 0)
    assert sum(facts["heads"]) == pytest.approx(1, abs=1e-3)
    bars = figures.heads(records, 0).axes[0].patches
    assert [round(float(bar.get_height()), 4) for bar in bars] == facts["heads"]
    assert facts["raises"], "heads write to the stream through the output projection"


def test_an_encoder_has_no_lens_and_no_effects(minilm):
    corpus = itda.Corpus.from_texts(
        [f"the {word} king sat on his chair" for word in ("old", "young", "mad", "sad")] * 5
    )
    dictionary = itda.build(minilm, corpus, atoms=16, steps=4, progress=False)
    records = prepare(dictionary, minilm, corpus, effects=2, progress=False)
    assert pages.atom(records, 0)["raises"] == []
    assert records.effects == {}
    assert not records.facts["predicts"]


def test_maps_of_few_atoms_are_flat():
    for count in (1, 2, 4):
        places, how = atom_map(torch.eye(8)[:count])
        assert places.shape == (count, 2)
        assert how == PLAIN
        assert bool(places.isfinite().all())


def test_texts_are_packed_and_unpacked():
    texts = ["", "a", "é👩‍👧", ""]
    packed = Texts.of(texts)
    back = Texts.from_arrays(packed.arrays("x"), "x")
    assert [back[place] for place in range(len(back))] == texts


def test_bad_input_is_refused(prepared, embedded, model):
    with pytest.raises(MismatchError):
        prepare(prepared.dictionary, model, progress=False)
    with pytest.raises(OptionError, match="Give the model"):
        prepare(prepared.dictionary, None, itda.Corpus.embedded())
    with pytest.raises(OptionError, match="effects"):
        prepare(prepared.dictionary, embedded, effects=-1)
    with pytest.raises(OptionError, match="tokens"):
        prepare(prepared.dictionary, embedded, tokens=0)
    with pytest.raises(CorpusError):
        prepare(prepared.dictionary, embedded, "a text")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="atoms 0 to 127"):
        pages.atom(prepared.records, 128)


def test_stale_damaged_and_missing_pages_are_said(prepared, tmp_path):
    folder = tmp_path / "l3"
    shutil.copytree(prepared.folder / "l3", folder)
    with pytest.raises(StaleError, match="--prepare"):
        Shelf.open([folder])
    shutil.copytree(folder_of(prepared.folder / "l3"), folder_of(folder))
    assert list(Shelf.open([folder]).books) == ["l3"]
    bare_dictionary().save_pretrained(folder, overwrite=True)
    with pytest.raises(StaleError, match="another dictionary"):
        Shelf.open([folder])
    shutil.rmtree(folder)
    shutil.copytree(prepared.folder / "l3", folder)
    path = folder_of(folder) / "view.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(FormatError, match="damaged"):
        Shelf.open([folder])


def test_folders_that_hold_nothing_are_refused(tmp_path):
    with pytest.raises(FormatError, match="is no dictionary"):
        Shelf.open([tmp_path])
    with pytest.raises(FormatError, match="no folder"):
        Shelf.open([tmp_path / "nowhere"])
    (tmp_path / "itda.json").write_text(json.dumps({"format": "itda.store", "version": 1}))
    with pytest.raises(FormatError):
        Shelf.open([tmp_path])


def test_a_tiny_model_with_odd_sizes():
    model = itda.wrap(tiny.module("GPT-2"), tiny.tokenizer())
    corpus = itda.Corpus.from_texts(tiny.KINGS)
    dictionary = itda.build(model, corpus, atoms=3, steps=1, progress=False)
    records = prepare(dictionary, model, corpus, progress=False)
    assert len(records) == 3
    assert records.nearest.shape == (3, 2)
    assert pages.dictionary_charts(records)
