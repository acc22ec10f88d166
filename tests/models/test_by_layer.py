"""A model whose weights stay on disk gives the bits of one in memory, layer by layer."""

import subprocess
import sys

import pytest
import torch

import itda
from itda.data import files
from itda.errors import ModelError, OptionError, SiteError
from itda.models.by_layer import Layers
from support import tiny
from support.torture import contents

SITES = ["resid_pre.0", "resid_post.0", "mlp_out.1", "resid_post.2"]
OPTIONS = {"window": 24, "progress": False}


@pytest.fixture(scope="module")
def corpus():
    return itda.Corpus.from_texts([text * 4 for text in tiny.KINGS])


def saved(name, folder, dtype=torch.float32):
    tiny.module(name).to(dtype).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", sorted(tiny.ALL))
def test_every_architecture_gives_the_same_bits(name, corpus, tmp_path):
    folder = saved(name, tmp_path / "model")
    whole = itda.load_model(folder)
    sites = [site for site in SITES if any(site == known.name for known in whole.sites())]
    on_disk = itda.load_model(folder, device="disk")
    assert on_disk.on_disk
    assert not whole.on_disk
    assert on_disk.causal == whole.causal
    expected = itda.capture(whole, corpus, sites, **OPTIONS)
    for site, found in itda.capture(on_disk, corpus, sites, **OPTIONS).items():
        assert torch.equal(found.rows, expected[site].rows), site
        assert found.provenance.capture == expected[site].provenance.capture
        expected[site].provenance.model.check_same(found.provenance.model, "This capture")
    assert all(parameter.is_meta for parameter in on_disk.module.parameters())  # nothing is left in memory


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_weights_too(dtype, corpus, tmp_path):
    folder = saved("Llama", tmp_path / "model", getattr(torch, dtype))
    for wanted in (dtype, "float32"):
        whole, on_disk = (itda.load_model(folder, device=device, dtype=wanted) for device in ("cpu", "disk"))
        rows = [itda.capture(model, corpus, "resid_post.1", **OPTIONS).rows for model in (whole, on_disk)]
        assert torch.equal(*rows)


def stop_after(reads, patch):
    real, left = Layers.run, [reads]

    def run(self, *arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(self, *arguments)

    patch.setattr(Layers, "run", run)


@pytest.mark.parametrize("reads", [0, 3, 5, 9, 14, 20, 27])
def test_a_capture_that_is_stopped_in_any_layer_goes_on_to_the_same_bytes(reads, corpus, tmp_path):
    folder = saved("GPT-2", tmp_path / "model")
    itda.capture(itda.load_model(folder), corpus, SITES, store=tmp_path / "expected", **OPTIONS)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(reads, patch)
        with pytest.raises(KeyboardInterrupt):
            itda.capture(itda.load_model(folder, device="disk"), corpus, SITES, store=tmp_path / "store", **OPTIONS)
    itda.capture(itda.load_model(folder, device="disk"), corpus, SITES, store=tmp_path / "store", **OPTIONS)
    left, expected = contents(tmp_path / "store"), contents(tmp_path / "expected")
    manifests = {name for name in left if name.endswith("itda.json")}  # these name the device
    assert {name: left[name] for name in {*left} - manifests} == {n: expected[n] for n in {*expected} - manifests}
    assert not list((tmp_path / "store").glob(".hidden*"))


def test_layers_that_are_done_are_not_run_again(corpus, tmp_path, monkeypatch):
    model = itda.load_model(saved("Llama", tmp_path / "model"), device="disk")
    calls = []
    real = Layers.run
    monkeypatch.setattr(Layers, "run", lambda self, *a: calls.append(a[0]) or real(self, *a))
    itda.capture(model, corpus, SITES, store=tmp_path / "whole", **OPTIONS)
    passes = calls.count(1)
    assert calls == sorted(calls)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(calls.count(0) + 2, patch)
        with pytest.raises(KeyboardInterrupt):
            itda.capture(model, corpus, SITES, store=tmp_path / "store", **OPTIONS)
    calls.clear()
    itda.capture(model, corpus, SITES, store=tmp_path / "store", **OPTIONS)
    assert 0 not in calls
    assert calls.count(1) <= passes


def test_a_stop_at_the_very_end_costs_no_layer(corpus, tmp_path, monkeypatch):
    model = itda.load_model(saved("Llama", tmp_path / "model"), device="disk")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("itda.data.entry_writing.EntryWriter.finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            itda.capture(model, corpus, SITES, store=tmp_path / "store", **OPTIONS)
    monkeypatch.setattr(Layers, "run", None)  # nothing may run again
    stored = itda.capture(model, corpus, SITES, store=tmp_path / "store", **OPTIONS)
    assert all(entry.complete for entry in stored.values())
    assert not list((tmp_path / "store").glob(".hidden*"))


def test_a_lost_shard_is_made_anew_from_disk_too(corpus, tmp_path):
    model = itda.load_model(saved("Llama", tmp_path / "model"), device="disk")
    stored = itda.capture(model, corpus, SITES, store=tmp_path / "store", **OPTIONS)
    path = stored[SITES[-1]].folder / stored[SITES[-1]].shards[0].file
    whole = path.read_bytes()
    path.unlink()
    itda.capture(model, corpus, SITES, store=tmp_path / "store", **OPTIONS)
    assert path.read_bytes() == whole


def test_a_build_that_is_stopped_goes_on_to_the_same_bytes(corpus, tmp_path):
    folder = saved("Llama", tmp_path / "model")
    options = {"site": "resid_post.1", "atoms": 40, "steps": 4, **OPTIONS}
    model = itda.load_model(folder, device="disk")
    whole = itda.build(model, corpus, **options)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(9, patch)
        with pytest.raises(KeyboardInterrupt):
            itda.build(model, corpus, checkpoint=tmp_path / "checkpoint", every=0, **options)
    resumed = itda.build(model, corpus, checkpoint=tmp_path / "checkpoint", **options)
    one, other = resumed.save_pretrained(tmp_path / "one"), whole.save_pretrained(tmp_path / "other")
    assert files.read_manifest(one, "dictionary")["files"] == files.read_manifest(other, "dictionary")["files"]


def test_what_cannot_be_done_says_so(corpus, tmp_path):
    model = itda.load_model(saved("Llama", tmp_path / "model"), device="disk")
    with pytest.raises(SiteError, match="outside the layers"):
        itda.capture(model, corpus, "model.norm", **OPTIONS)
    with pytest.raises(OptionError, match="Leave canonical on"):
        itda.capture(model, corpus, "resid_post.0", canonical=False, **OPTIONS)


def test_layers_that_hand_on_more_than_hidden_states_are_refused(corpus, tmp_path, monkeypatch):
    model = itda.load_model(saved("Llama", tmp_path / "model"), device="disk")
    second = model.module.model.layers[1]
    real = second.forward
    # As if the second layer saw something of the first besides its output
    monkeypatch.setattr(second, "forward", lambda hidden, **k: real(hidden, **k) + float(model.module.seen))
    monkeypatch.setattr(type(model.module), "seen", property(lambda self: len(calls)), raising=False)
    calls = []
    model.module.model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(ModelError, match="hand on more than their hidden states"):
        itda.capture(model, corpus, "resid_post.1", **OPTIONS)


LIMITED = """
import os, sys, threading, time
import itda
folder, device, limit = sys.argv[1:]
corpus = itda.Corpus.from_texts(["the good king and the bad queen of number %d" % n for n in range(40)])
itda.capture(itda.load_model("embedded"), corpus, "resid_post.0", tokens=50, progress=False)

def anonymous():
    return 1024 * int(open("/proc/self/status").read().split("RssAnon:")[1].split()[0])

def watch(most):
    while True:
        if anonymous() > most:
            print("over the limit", flush=True)
            os._exit(3)
        time.sleep(0.002)

# From here on, beyond all that is loaded anyway. Mapped files are no memory: the system takes them back when it must
threading.Thread(target=watch, args=(anonymous() + int(limit),), daemon=True).start()
model = itda.load_model(folder, device=device)
print(len(itda.capture(model, corpus, "resid_post.7", window=16, progress=False)))
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_a_model_larger_than_the_memory_there_is(tmp_path):
    """Eight layers of 34 MB in float32, and 120 MB for all that is not there yet."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=512, num_hidden_layers=8, num_attention_heads=8, intermediate_size=4736,
        max_position_embeddings=64, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).bfloat16().save_pretrained(tmp_path / "model", max_shard_size="40MB")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    found = {
        device: subprocess.run(
            [sys.executable, "-c", LIMITED, str(tmp_path / "model"), device, str(120 * 2**20)],
            capture_output=True,
            text=True,
        )
        for device in ("cpu", "disk")
    }
    assert found["cpu"].stdout == "over the limit\n"
    assert found["disk"].returncode == 0, found["disk"].stderr
    assert int(found["disk"].stdout) > 1000
