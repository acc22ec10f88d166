"""A capture that is stopped anywhere goes on to the same files."""

import signal

import pytest
import torch

import itda
from itda.errors import OutputError
from support import tiny
from support.torture import contents

SITES = ["resid_post.0", "mlp_neurons.1"]


class Stop(Exception):  # noqa: N818
    """Whatever may stop a process."""


@pytest.fixture(scope="module")
def corpus():
    return itda.Corpus.from_texts([text * 3 for text in tiny.KINGS])


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr("itda.data.entry_writing._SHARD_ROWS", 300)


def capture(model, corpus, folder, **options):
    return itda.capture(model, corpus, SITES, store=folder, window=32, progress=False, **options)


@pytest.fixture(scope="module")
def expected(model, corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("expected") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("itda.data.entry_writing._SHARD_ROWS", 300)
        capture(model, corpus, folder)
    return contents(folder)


def stop_after(passes, monkeypatch, error=Stop):
    """Stop in the middle of a forward pass."""
    from itda.models import loading

    real, left = loading.read, [passes]

    def read(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise error
        return real(*arguments)

    monkeypatch.setattr(loading, "read", read)


@pytest.mark.parametrize("passes", [0, 1, 4, 5, 6, 9, 12])
@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, MemoryError])
def test_goes_on_to_the_same_bytes(model, corpus, tmp_path, expected, passes, error):
    with pytest.MonkeyPatch.context() as patch:
        stop_after(passes, patch, error)
        with pytest.raises(error):
            capture(model, corpus, tmp_path / "store", every=0)
    capture(model, corpus, tmp_path / "store")
    assert contents(tmp_path / "store") == expected


def test_what_was_taken_is_not_taken_again(model, corpus, tmp_path, monkeypatch):
    from itda.models import loading

    passes = []
    real = loading.read
    monkeypatch.setattr(loading, "read", lambda *arguments: passes.append(1) or real(*arguments))
    capture(model, corpus, tmp_path / "whole")
    whole = len(passes)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(8, patch)
        with pytest.raises(Stop):
            capture(model, corpus, tmp_path / "store")
    passes.clear()
    capture(model, corpus, tmp_path / "store")
    assert len(passes) == whole - 8


def test_a_full_disk_loses_nothing_that_was_written(model, corpus, tmp_path, expected, monkeypatch):
    from itda.data import files

    real, left = files._write_bytes, [6]

    def write(path, content):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        real(path, content)

    monkeypatch.setattr(files, "_write_bytes", write)
    with pytest.raises(OutputError, match="No space is left"):
        capture(model, corpus, tmp_path / "store", every=0)
    left[0] = 10**6
    capture(model, corpus, tmp_path / "store")
    assert contents(tmp_path / "store") == expected


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_line_that_was_cut_off_is_written_again(model, corpus, tmp_path, expected, cut):
    with pytest.MonkeyPatch.context() as patch:
        stop_after(10, patch)
        with pytest.raises(Stop):
            capture(model, corpus, tmp_path / "store")
    index = next((tmp_path / "store").glob("resid_post*")) / "index.jsonl"
    index.write_bytes(index.read_bytes()[:-cut])
    capture(model, corpus, tmp_path / "store")
    assert contents(tmp_path / "store") == expected


def test_an_incomplete_capture_is_not_built_from(model, corpus, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        stop_after(10, patch)
        with pytest.raises(Stop):
            capture(model, corpus, tmp_path / "store")
    entry = itda.Store(tmp_path / "store").entries()[1]
    assert "not complete" in repr(entry)
    with pytest.raises(itda.ItdaError, match="Run it again, and it goes on"):
        itda.build_from_activations(entry, atoms=4, steps=2, progress=False)
    with pytest.raises(itda.ItdaError, match="Run it again, and it goes on"):
        itda.Store(tmp_path / "store").open("resid_post.0")


def test_a_dry_run_of_prune_says_what_the_run_removes(model, corpus, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        stop_after(10, patch)
        with pytest.raises(Stop):
            capture(model, corpus, tmp_path / "store")
    (tmp_path / "store" / ".hidden-abc").mkdir()
    store = itda.Store(tmp_path / "store")
    said = store.prune(incomplete=True, dry_run=True)
    assert said[-1][0].name == ".hidden-abc"
    assert store.prune(incomplete=True) == said
    assert store.listed() == []


def test_dropped_sinks_are_made_good_across_a_stop(corpus, tmp_path):
    """Rows that sinks have taken away are owed by later windows, also by those after the stop."""
    model = itda.wrap(tiny.module("Llama"), tiny.tokenizer())
    with torch.no_grad():  # every "k" is a sink
        model.module.get_input_embeddings().weight[model.tokenizer.encode("k", add_special_tokens=False)[0]] *= 1000
    options = {"tokens": 1800, "window": 32, "progress": False}
    plain = itda.capture(model, corpus, "resid_pre.0", **options)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(6, patch)
        with pytest.raises(Stop):
            itda.capture(model, corpus, "resid_pre.0", store=tmp_path / "store", every=0, **options)
    stored = itda.capture(model, corpus, "resid_pre.0", store=tmp_path / "store", **options)
    assert torch.equal(stored.rows, plain.rows)
    assert stored.provenance == plain.provenance
    assert plain.provenance.capture["counts"]["sinks"] > 20


def test_a_store_needs_no_signal_handler(model, corpus, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    capture(model, corpus, tmp_path / "store", tokens=40)
    assert signal.getsignal(signal.SIGINT) is before
