"""A store: what is written is what is read, and whatever is damaged is named and nothing else lost."""

import json
import subprocess
import sys

import pytest
import torch

import itda
from itda.data import locks, shards
from itda.data.activations import Block
from itda.data.joined import JoinedActivations
from itda.data.lots import evenly
from itda.errors import ActivationError, FormatError, MismatchError, OptionError, OutputError
from support import hostile, tiny

SITES = ["resid_post.0", "resid_post.1"]


@pytest.fixture(scope="module")
def corpus():
    return itda.Corpus.from_texts([text * 4 for text in tiny.KINGS])


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr("itda.data.entry_writing._SHARD_ROWS", 200)


@pytest.fixture
def stored(model, corpus, small_shards, tmp_path):
    return itda.capture(model, corpus, SITES, store=tmp_path / "store", progress=False)


def first(stored):
    return stored[SITES[0]]


def test_what_is_read_is_what_was_captured(model, corpus, stored):
    for site, plain in itda.capture(model, corpus, SITES, progress=False).items():
        entry = stored[site]
        assert torch.equal(entry.rows, plain.rows)
        assert list(entry.sources) == list(plain.sources)
        assert entry.provenance == plain.provenance
        assert entry.documents == plain.documents
        assert len(entry) == len(plain) == entry.wanted
        assert len(entry.shards) > 3


def test_a_sample_meets_no_rhythm_of_the_windows(stored):
    entry = first(stored)
    sample = entry.sample(len(entry) // 8)
    assert len(sample) == len(entry) // 8
    places = evenly(len(entry), len(sample))
    assert torch.equal(sample, entry.rows[places])
    assert len(places.diff().unique()) > 3
    assert torch.equal(entry.sample(10 * len(entry)), entry.rows)


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
@pytest.mark.parametrize("begin", [0, 3, 500])
def test_rows_come_in_any_pieces_from_anywhere(stored, size, begin):
    entry = first(stored)
    blocks = list(entry.blocks(size, first=begin))
    assert torch.equal(torch.cat([block.rows for block in blocks]), entry.rows[begin:])
    assert [source.char_end for block in blocks for source in block.sources] == [
        source.char_end for source in list(entry.sources)[begin:]
    ]
    assert max(len(block.rows) for block in blocks) <= size


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_rows_are_kept_in_the_type_that_was_asked_for(model, corpus, tmp_path, dtype):
    entry = itda.capture(model, corpus, SITES[0], store=tmp_path / "store", dtype=dtype, progress=False)
    plain = itda.capture(model, corpus, SITES[0], progress=False)
    assert torch.equal(entry.rows, plain.rows.to(getattr(torch, dtype)).float())
    assert entry.dtype == dtype


def test_a_value_that_does_not_fit_the_type_is_an_error(model, corpus, tmp_path):
    block = next(iter(itda.capture(model, corpus, SITES[0], progress=False).blocks(10)))
    with pytest.raises(ActivationError, match="bfloat16 or float32"):
        shards.to_bytes([block._replace(rows=block.rows * 1e9)], torch.float16)


def test_the_same_capture_is_never_paid_twice(model, corpus, stored, tmp_path, monkeypatch):
    monkeypatch.setattr("itda.capturing.running.Capture._forward", None)  # nothing may run
    again = itda.capture(model, corpus, SITES, store=tmp_path / "store", progress=False)
    assert again[SITES[0]].fingerprint == first(stored).fingerprint


def test_what_is_there_is_read_though_another_process_writes(model, corpus, stored, tmp_path, monkeypatch):
    monkeypatch.setattr(itda.capturing.running.tokenizing, "windows", None)
    with locks.held(first(stored).folder):
        again = itda.capture(model, corpus, SITES, store=tmp_path / "store", progress=False)
    assert torch.equal(again[SITES[1]].rows, stored[SITES[1]].rows)


def test_a_stop_behind_a_shard_keeps_none_of_its_rows_twice(model, corpus, small_shards, tmp_path, monkeypatch):
    real = itda.data.entry_writing.shards.append

    def stopped(*arguments):
        found = real(*arguments)
        if arguments[1] == 1:
            monkeypatch.undo()
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(itda.data.entry_writing, "_SHARD_ROWS", 200)
    monkeypatch.setattr(itda.data.entry_writing.shards, "append", stopped)
    with pytest.raises(KeyboardInterrupt):
        itda.capture(model, corpus, SITES[0], store=tmp_path / "store", progress=False)
    monkeypatch.setattr(itda.data.entry_writing, "_SHARD_ROWS", 200)
    entry = itda.capture(model, corpus, SITES[0], store=tmp_path / "store", progress=False)
    assert torch.equal(entry.rows, itda.capture(model, corpus, SITES[0], progress=False).rows)


def test_another_site_is_an_entry_beside_it(model, corpus, stored, tmp_path):
    itda.capture(model, corpus, ["resid_post.2", SITES[0]], store=tmp_path / "store", progress=False)
    assert len(itda.Store(tmp_path / "store").entries()) == 3


@pytest.mark.parametrize("change", [{"tokens": 50}, {"seed": 1, "tokens": 60}, {"window": 8}, {"dtype": "float16"}])
def test_another_capture_is_another_entry(model, corpus, stored, tmp_path, change):
    other = itda.capture(model, corpus, SITES[0], store=tmp_path / "store", progress=False, **change)
    assert other.folder != first(stored).folder


def test_the_entry_that_is_meant_must_be_clear(stored, tmp_path):
    store = itda.Store(tmp_path / "store")
    assert store.open(SITES[1]).name == stored[SITES[1]].name
    assert store.open(entry=first(stored).name[:16]).site == SITES[0]
    with pytest.raises(OptionError, match="has 2 captures. Name one by its site"):
        store.open()
    with pytest.raises(OptionError, match="has 0 captures with site 'resid_post.9'"):
        store.open("resid_post.9")


def test_a_model_that_has_changed_is_refused(corpus, tmp_path):
    """Its path is the same, its weights are others."""
    entries = []
    for seed in (0, 1):
        folder = tmp_path / "model"
        tiny.module("Llama", seed).save_pretrained(folder)
        tiny.tokenizer().save_pretrained(folder)
        model = itda.load_model(folder)
        if not seed:
            entries.append(itda.capture(model, corpus, SITES[0], store=tmp_path / "store", progress=False))
    with pytest.raises(MismatchError, match="when it had other weights"):
        itda.capture(model, corpus, SITES[0], store=tmp_path / "store", progress=False)
    itda.capture(model, corpus, SITES[0], store=tmp_path / "other", progress=False)


def test_every_damage_is_found_and_named(stored):
    entry = first(stored)
    path = entry.folder / entry.shards[1].file
    whole = path.read_bytes()
    for damaged, says in (
        (whole[:500] + bytes([whole[500] ^ 1]) + whole[501:], "checksum"),
        (whole[:-1], "bytes, not the"),
        (b"", "bytes, not the"),
    ):
        path.write_bytes(damaged)
        fresh = type(entry)(entry.folder)
        assert len(fresh.problems()) == 1
        assert path.name in fresh.problems()[0]
        with pytest.raises(FormatError, match=rf"{path.name} is damaged.*{says}"):
            list(fresh.blocks(100))
        assert len(next(iter(fresh.blocks(100))).rows) == 100  # the shard before it is as good as ever
    path.unlink()
    with pytest.raises(FormatError, match=f"{path.name} is missing"):
        list(type(entry)(entry.folder).blocks(100))
    assert stored[SITES[1]].problems() == []


def test_a_damaged_index_or_manifest_is_named(stored, tmp_path):
    entry = first(stored)
    for name in ("index.jsonl", "itda.json"):
        path = entry.folder / name
        whole = path.read_bytes()
        path.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
        with pytest.raises(FormatError, match=f"{name} is damaged"):
            type(entry)(entry.folder)
        listed = itda.Store(tmp_path / "store").listed()
        assert [item.facts()["problem"] is None for item in listed] == [False, True]
        assert itda.Store(tmp_path / "store").open(SITES[1]).site == SITES[1]  # the other one is as good as ever
        path.write_bytes(whole)


@pytest.mark.parametrize("place", [0, 2, -1])
@pytest.mark.parametrize("how", ["gone", "flipped", "cut"])
def test_the_same_capture_makes_anew_what_is_lost(model, corpus, stored, tmp_path, place, how):
    entry = first(stored)
    shard = entry.shards[place]
    path = entry.folder / shard.file
    whole = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(whole[:-1] if how == "cut" else whole[:-1] + bytes([whole[-1] ^ 1]))
        assert [lost for lost, _ in itda.Store(tmp_path / "store").prune(damaged=True)] == [path]
    itda.capture(model, corpus, SITES, store=tmp_path / "store", progress=False)
    assert path.read_bytes() == whole


def test_prune_takes_what_it_is_told_and_nothing_else(model, corpus, stored, tmp_path):
    store = itda.Store(tmp_path / "store")
    assert store.prune() == []
    (first(stored).folder / "000099.safetensors").write_bytes(b"left over")
    (first(stored).folder / ".000099.safetensors.draft").write_bytes(b"half")
    assert [size for _, size in store.prune(dry_run=True)] == [9, 4]
    assert [path.name for path, _ in store.prune()] == ["000099.safetensors", ".000099.safetensors.draft"]
    assert store.prune(incomplete=True) == []
    assert [path for path, _ in store.prune([stored[SITES[1]].name])] == [stored[SITES[1]].folder]
    assert store.names() == [first(stored).name]
    with pytest.raises(OptionError, match="has no entry 'x'"):
        store.prune(["x"])


def test_a_second_process_is_refused_and_a_dead_one_is_not_in_the_way(stored):
    entry = first(stored)
    code = f"""
import time
from pathlib import Path
from itda.data.locks import held
with held(Path({str(entry.folder)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    store = itda.Store(entry.folder.parent)
    with pytest.raises(OutputError, match="Another process is writing"):
        store.prune([entry.name])
    other.kill()
    other.wait()
    assert store.prune([entry.name])


def test_no_store_is_made_where_something_else_is(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FormatError, match=r"has no itda\.json"):
        itda.Store(tmp_path, create=True)
    with pytest.raises(FormatError, match="There is no folder"):
        itda.Store(tmp_path / "nowhere")
    with pytest.raises(OptionError, match="dtype must be one of"):
        itda.Store(tmp_path / "new", create=True).writer(None, documents=(), rows=1, dtype="int8")


def test_the_index_is_not_believed_about_itself(stored):
    """A line with another number of rows passes its own check; `problems` compares it with the file."""
    entry = first(stored)
    lines = (entry.folder / "index.jsonl").read_bytes().splitlines(keepends=True)
    facts = json.loads(lines[0].split(b"\t")[0])
    forged = shards.Shard(**{**facts, "rows": facts["rows"] + 1}).line()
    (entry.folder / "index.jsonl").write_bytes(b"".join([forged, *lines[1:]]))
    with pytest.raises(FormatError, match="checksum is not the one in itda.json"):
        type(entry)(entry.folder)


def test_hidden_states_that_no_capture_will_use_are_left_over(stored, tmp_path):
    store = itda.Store(tmp_path / "store")
    (store.folder / ".hidden-0123").mkdir()
    (store.folder / ".hidden-0123" / "after-layer-0000").write_bytes(b"states")
    assert store.prune([first(stored).name], dry_run=True)[0][0] == first(stored).folder
    assert store.prune() == [(store.folder / ".hidden-0123", 6)]
    assert store.prune() == []


def test_shards_of_unequal_width_are_named(model, corpus, stored):
    entry = first(stored)
    block = next(entry.blocks(10))
    narrow = shards.to_bytes([Block(block.rows[:, :8], block.sources)], torch.float32)
    (entry.folder / entry.shards[1].file).write_bytes(narrow)
    hostile.sign(entry.folder)
    again = itda.Store(entry.folder.parent).open(SITES[0])
    assert any("rows of width 8, the capture 16" in problem for problem in again.problems())
    with pytest.raises(FormatError, match=f"{again.shards[1].file} has rows of width 8, the capture 16"):
        itda.build_from_activations(again, atoms=20, steps=3, progress=False)


def test_parts_that_do_not_belong_together_are_refused(model, corpus, tmp_path):
    store = tmp_path / "store"
    parts = [
        itda.capture(model, part, site, store=store, dtype=dtype, progress=False)
        for part, site, dtype in zip(
            corpus.parts(3), ("resid_post.0", "mlp_neurons.0", "resid_post.0"), ("float32", "float32", "bfloat16"),
            strict=True,
        )
    ]  # fmt: skip
    for other, says in ((parts[1], "made at 'mlp_neurons.0'"), (parts[2], "as bfloat16")):
        with pytest.raises(MismatchError, match=says):
            JoinedActivations([parts[0], other])


def test_prune_leaves_what_is_none_of_its_own(stored, tmp_path):
    store = itda.Store(tmp_path / "store")
    (store.folder / "notes").mkdir()
    (store.folder / "notes" / "mine.txt").write_text("mine")
    first(stored)
    broken = stored[SITES[1]].folder / "itda.json"
    broken.write_bytes(broken.read_bytes()[:-9])  # a capture that was complete
    assert store.prune(incomplete=True) == []
    assert [path for path, _ in store.prune(damaged=True)] == [broken.parent]
    assert (store.folder / "notes" / "mine.txt").exists()
    assert "notes" not in store.names()


def test_a_store_that_was_stopped_as_it_began_begins_anew(tmp_path):
    (tmp_path / ".itda.json.0-0-draft").write_text("{")
    assert itda.Store(tmp_path, create=True).names() == []
