"""A build that is stopped anywhere goes on to the same dictionary."""

import os
import signal

import pytest
import torch

import itda
from itda.data import checkpoints
from itda.data.build_records import library_versions
from itda.data.checkpoints import Checkpoint, Saved
from itda.errors import CorpusError, MismatchError, OptionError, OutputError
from support import tiny
from support.signals import coherent
from support.torture import contents

SITES = ["resid_post.0", "resid_post.1"]
OPTIONS = {"atoms": 60, "steps": 4, "window": 32, "progress": False}


class Stop(Exception):  # noqa: N818
    """Whatever may stop a process."""


@pytest.fixture(scope="module")
def corpus():
    return itda.Corpus.from_texts([text * 6 for text in tiny.KINGS])


def in_small_blocks(patch):
    """So that blocks are looked at before the end."""
    patch.setattr("itda.building.blocks._HELD_BACK", 100)
    patch.setattr("itda.building.blocks._AT_ONCE", 64)


@pytest.fixture(autouse=True)
def _in_small_blocks(monkeypatch):
    in_small_blocks(monkeypatch)


def stop_after(blocks, patch):
    from itda.building.builder import Builder

    real, left = Builder.update, [blocks]

    def update(self, rows, sources):
        left[0] -= 1
        if left[0] < 0:
            raise Stop
        real(self, rows, sources)

    patch.setattr(Builder, "update", update)


def saved(dictionary, folder):
    dictionary.save_pretrained(folder)
    return contents(folder)


WAYS = {
    "default": {},
    "paper": {"method": "paper", "max_cosine_gap": 0.05, "block": 64},
    "to a threshold": {"max_unexplained": 0.3, "atoms": None},
    "small pool": {"method": "budget", "pool": 100},
    "mixture": {"method": "mixture"},
}


@pytest.fixture(scope="module", params=WAYS)
def whole(request, model, corpus, tmp_path_factory):
    """Options, and what a build with them leaves when nothing stops it."""
    options = {**OPTIONS, **WAYS[request.param]}
    with pytest.MonkeyPatch.context() as patch:
        in_small_blocks(patch)
        built = itda.build_many(model, corpus, sites=SITES, **options)
    folder = tmp_path_factory.mktemp("whole")
    return options, {site: saved(built[site], folder / site) for site in SITES}


@pytest.mark.parametrize("blocks", [0, 1, 3, 6, 9])
def test_goes_on_to_the_same_bytes(model, corpus, tmp_path, blocks, whole):
    options, expected = whole
    with pytest.MonkeyPatch.context() as patch:
        stop_after(blocks, patch)
        with pytest.raises(Stop):
            itda.build_many(model, corpus, sites=SITES, checkpoint=tmp_path / "checkpoint", every=0, **options)
    resumed = itda.build_many(model, corpus, sites=SITES, checkpoint=tmp_path / "checkpoint", **options)
    assert {site: saved(resumed[site], tmp_path / site) for site in SITES} == expected


@pytest.mark.parametrize(
    ("blocks", "method"), [(1, "budget"), *((4, name) for name in ("budget", "learned", "kmeans", "random", "snmf"))]
)
def test_a_build_from_rows_goes_on_too(tmp_path, blocks, method, monkeypatch):
    monkeypatch.setattr("itda.building.running._ROWS_AT_ONCE", 300)
    rows, _ = coherent(2000, 24, 10)
    options = {"method": method, "atoms": 80, "steps": 4, "progress": False}
    whole = itda.build_from_activations(rows, **options)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(blocks, patch)
        with pytest.raises(Stop):
            itda.build_from_activations(rows, checkpoint=tmp_path / "checkpoint", every=0, **options)
    resumed = itda.build_from_activations(rows, checkpoint=tmp_path / "checkpoint", **options)
    assert saved(resumed, tmp_path / "resumed") == saved(whole, tmp_path / "whole")


def test_token_means_go_on_too(model, corpus, tmp_path):
    options = {**OPTIONS, "method": "token_means", "atoms": 20, "site": SITES[0]}
    with pytest.MonkeyPatch.context() as patch:
        stop_after(2, patch)
        with pytest.raises(Stop):
            itda.build(model, corpus, checkpoint=tmp_path / "checkpoint", every=0, **options)
    resumed = itda.build(model, corpus, checkpoint=tmp_path / "checkpoint", **options)
    assert resumed.fingerprint == itda.build(model, corpus, **options).fingerprint


@pytest.fixture
def files(tmp_path):
    """A folder of texts, each in a file of its own."""
    (tmp_path / "texts").mkdir()
    for number in range(200):  # documents are read several together
        (tmp_path / "texts" / f"{number:03}.txt").write_text(f"{number} " + tiny.KINGS[number % len(tiny.KINGS)])
    return tmp_path / "texts"


def watched(patch, where, name, then=lambda done: None):
    """Who counts the calls of a method, and does something once so many are done."""
    real, done = getattr(where, name), []

    def take(self, *given):
        real(self, *given)
        done.append(1)
        then(len(done))

    patch.setattr(where, name, take)
    return done


def ends_and_goes_on(run, where, name, files, at):
    """Run something whose texts vanish after four blocks, and again when they are back: what it gives, and blocks."""
    elsewhere = files.with_name("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        watched(patch, where, name, lambda done: files.rename(elsewhere) if done == 4 else None)
        with pytest.raises(CorpusError):
            run(at)
    elsewhere.rename(files)
    with pytest.MonkeyPatch.context() as patch:
        done = watched(patch, where, name)
        return run(at), len(done)


@pytest.mark.parametrize("way", ["default", "mixture"])
def test_what_was_built_of_texts_that_vanish_is_kept(model, files, tmp_path, way):
    from itda.building.builder import Builder

    options = {**OPTIONS, **WAYS[way], "site": SITES[0], "batch_size": 2, "canonical": False}

    def run(checkpoint):
        return itda.build(model, itda.Corpus.from_files(files), checkpoint=checkpoint, **options)

    with pytest.MonkeyPatch.context() as patch:
        blocks = watched(patch, Builder, "update")
        whole = run(None)
    resumed, more = ends_and_goes_on(run, Builder, "update", files, tmp_path / "checkpoint")
    assert resumed.fingerprint == whole.fingerprint
    assert 0 < more <= len(blocks) - 4


def test_what_fails_at_once_leaves_nothing_in_the_way(model, tmp_path):
    with pytest.raises(CorpusError, match="ask for fewer"):
        itda.build(
            model, itda.Corpus.from_texts(tiny.KINGS), checkpoint=tmp_path / "checkpoint", tokens=10**6, **OPTIONS
        )
    assert not (tmp_path / "checkpoint").exists()


def test_what_was_captured_of_texts_that_vanish_is_kept(model, files, tmp_path):
    from itda.data.entry_writing import EntryWriter

    options = {"window": 32, "batch_size": 2, "canonical": False, "progress": False}

    def run(store):
        return itda.capture(model, itda.Corpus.from_files(files), SITES[0], store=store, **options)

    with pytest.MonkeyPatch.context() as patch:
        blocks = watched(patch, EntryWriter, "append")
        whole = run(tmp_path / "whole")
    resumed, more = ends_and_goes_on(run, EntryWriter, "append", files, tmp_path / "store")
    assert torch.equal(resumed.rows, whole.rows)
    assert 0 < more <= len(blocks) - 4


def test_from_a_store_it_is_the_same_as_from_the_model(model, corpus, tmp_path):
    stored = itda.capture(model, corpus, SITES[0], store=tmp_path / "store", window=32, progress=False)
    own = {name: value for name, value in OPTIONS.items() if name != "window"}
    assert saved(itda.build_from_activations(stored, **own), tmp_path / "one") == saved(
        itda.build(model, corpus, site=SITES[0], **OPTIONS), tmp_path / "other"
    )


def test_ctrl_c_saves_and_then_stops(model, corpus, tmp_path, monkeypatch):
    from itda.building.builder import Builder

    real, seen = Builder.update, []

    def update(self, rows, sources):
        seen.append(len(rows))
        if len(seen) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        real(self, rows, sources)

    monkeypatch.setattr(Builder, "update", update)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        itda.build(model, corpus, site=SITES[0], checkpoint=tmp_path / "checkpoint", **OPTIONS)
    assert signal.getsignal(signal.SIGINT) is before
    stopped_after = len(seen)
    itda.build(model, corpus, site=SITES[0], checkpoint=tmp_path / "checkpoint", **OPTIONS)
    monkeypatch.undo()
    again = len(seen) - stopped_after
    seen.clear()
    monkeypatch.setattr(Builder, "update", update)
    assert stopped_after == 4
    assert again > 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"atoms": 50}, "atoms was 60, is 50"),
        ({"seed": 3, "tokens": 900}, "seed was 0, is 3"),
        ({}, "parameters was"),
    ],
)
def test_the_checkpoint_of_another_build_is_refused(model, corpus, tmp_path, change, says):
    with pytest.MonkeyPatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(Stop):
            itda.build(model, corpus, site=SITES[0], checkpoint=tmp_path / "checkpoint", every=0, **OPTIONS)
    other = model if change else itda.wrap(tiny.module("Llama", seed=1), tiny.tokenizer())
    with pytest.raises(MismatchError, match=says):
        itda.build(other, corpus, site=SITES[0], checkpoint=tmp_path / "checkpoint", **{**OPTIONS, **change})


def test_a_damaged_state_is_passed_over_for_the_one_before(tmp_path):
    run, made = {"one": 1}, torch.arange(3.0)
    with Checkpoint(tmp_path / "c", run) as checkpoint:
        assert checkpoint.load() is None
        checkpoint.save(Saved({"step": 1}, {"x": {"x": made}}))
    kept = {path.name: path.read_bytes() for path in (tmp_path / "c" / "1").iterdir()}
    with Checkpoint(tmp_path / "c", run) as checkpoint:
        checkpoint.load()
        checkpoint.save(Saved({"step": 2}, {"x": {"x": made}}))
    (tmp_path / "c" / "1").mkdir()
    for name, content in kept.items():
        (tmp_path / "c" / "1" / name).write_bytes(content)
    (tmp_path / "c" / "2" / "x.safetensors").write_bytes(b"damaged")
    with Checkpoint(tmp_path / "c", run) as checkpoint:
        assert checkpoint.load().facts == {"step": 1}


def test_only_one_process_works_on_a_checkpoint(tmp_path):
    with Checkpoint(tmp_path / "c", {}), pytest.raises(OutputError, match="Another process"):  # noqa: SIM117
        with Checkpoint(tmp_path / "c", {}):
            pass


def test_a_version_that_computes_other_numbers_is_another_run(model, corpus, tmp_path, monkeypatch):
    with pytest.MonkeyPatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(Stop):
            itda.build(model, corpus, site=SITES[0], checkpoint=tmp_path / "c", every=0, **OPTIONS)
    monkeypatch.setattr("itda.building.resuming.library_versions", lambda: {**library_versions(), "torch": "99"})
    with pytest.raises(MismatchError, match="torch was '2"):
        itda.build(model, corpus, site=SITES[0], checkpoint=tmp_path / "c", **OPTIONS)


@pytest.mark.parametrize("every", [-1, float("nan"), float("inf"), "60", True, None])
def test_seconds_between_checkpoints_are_seconds(every, tmp_path, model):
    corpus = itda.Corpus.from_texts(tiny.KINGS)
    with pytest.raises(OptionError, match="every must be a number of seconds"):
        itda.build(model, corpus, atoms=20, checkpoint=tmp_path / "checkpoint", every=every, progress=False)
    with pytest.raises(OptionError, match="every must be a number of seconds"):
        itda.capture(model, corpus, store=tmp_path / "store", every=every, progress=False)


def test_steps_of_somebodys_training_are_no_states(tmp_path):
    folder = tmp_path / "run.checkpoint"
    (folder / "1000").mkdir(parents=True)
    (folder / "1000" / "weights.bin").write_text("mine")
    assert not checkpoints.is_begun(folder)
    with checkpoints.Checkpoint(folder, {"a": 1}) as kept:
        assert kept.load() is None
        kept.save(checkpoints.Saved({"at": 1}, {"rows": {"rows": torch.ones(2)}}))
        kept.save(checkpoints.Saved({"at": 2}, {"rows": {"rows": torch.ones(2)}}))
        assert kept.load().facts == {"at": 2}
    assert checkpoints.is_begun(folder)
    checkpoints.remove(folder)
    assert [path.name for path in folder.iterdir()] == ["1000"]
    assert (folder / "1000" / "weights.bin").read_text() == "mine"
