"""The verbs, in this process; the whole of it in fresh processes is in test_real_models."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import ray

from itda import Dictionary, Encoding
from support import tiny

TEXTS = [f"the {word} king and the old queen of number {number}" for number, word in enumerate(["good", "bad"] * 30)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    tiny.module("GPT-2").save_pretrained(folder / "model")
    tiny.tokenizer().save_pretrained(folder / "model")
    tiny.module("GPT-2", seed=1).save_pretrained(folder / "other")
    tiny.tokenizer().save_pretrained(folder / "other")
    (folder / "texts.json").write_text(json.dumps(TEXTS))
    (folder / "texts.txt").write_text("\n\n".join([*TEXTS, " ", TEXTS[0]]))
    return folder


@pytest.fixture
def built(run, place):
    if not (place / "d").exists():
        run("build", "model", "--corpus", "texts.json", "--site", "resid_post.1", "--atoms", 40, "--out", "d")
    return "d"


def test_help_teaches_with_an_example(run):
    assert "itda demo" in run("--help")
    for verb in ("demo", "sites", "capture", "build", "merge", "info", "evaluate", "explain", "encode"):
        assert f"itda {verb}" in run(verb, "--help").replace("\n", " ")
    assert run("--version").strip() == "0.1.0"


def test_sites(run):
    printed = run("sites", "model")
    assert "attn_heads.2" in printed
    document = json.loads(run("sites", "model", "--json"))
    assert {
        "name": "resid_post.0",
        "module": "transformer.h.0",
        "side": "output",
        "width": 16,
        "heads": None,
        "transformer_lens": "blocks.0.hook_resid_post",
    } in document["sites"]


def test_how_codes_are_made_can_be_asked_for(run):
    signed = ("--pursuit", "mp", "--signed", "--refit", "--stop-at", 0.05)
    text = ("model", "--corpus", "texts.json", "--atoms", 30)
    built = json.loads(run("build", *text, "--steps", 3, *signed, "--out", "signed", "--json"))
    assert built["coding"] == {
        "steps": 3,
        "method": "mp",
        "refit": True,
        "nonnegative": False,
        "stop_at": 0.05,
        "most": None,
        "stop_below": None,
    }
    assert "3 steps of matching pursuit, refit, until 0.05 is unexplained" in run("info", "signed")
    exact = json.loads(run("build", *text, "--steps", 3, "--exact", "--out", "exact", "--json"))["coding"]
    assert exact == {
        "steps": 3,
        "method": "omp",
        "refit": False,
        "nonnegative": True,
        "stop_at": None,
        "most": None,
        "stop_below": None,
    }
    rule = ("--method", "paper", "--max-cosine-gap", 0.1, "--steps", 3)
    for flags in ((), ("--exact",), ("--signed", "--exact")):
        replicated = json.loads(run("build", *text[:3], *rule, *flags, "--out", "rule", "--json", "--overwrite"))
        assert (replicated["coding"]["method"], replicated["coding"]["nonnegative"]) == ("mp", False)
        assert replicated["coding"]["most"] is None
    assert "--refit is for" in run("build", *text, "--steps", 3, "--refit", "--out", "no", code=2)
    run("build", *text, "--steps", 3, "--out", "varying")
    assert "3 steps in the mean, at most 6, of orthogonal matching pursuit" in " ".join(run("info", "varying").split())
    assert "Give one." in run("build", *text, "--steps", 3, "--exact", "--stop-at", 0.3, "--out", "no", code=2)
    assert "Give --steps too" in run("build", *text, *signed, "--out", "unsteady", code=2)


def test_build_info_evaluate_explain_encode(run, built, place):
    facts = json.loads(run("info", built, "--json"))
    assert (facts["atoms"], facts["width"], facts["documents"]) == (40, 16, 54)
    printed = run("info", built)
    assert "40 atoms of width 16 from resid_post.1 of model" in printed
    assert facts["most_used"][0]["token"] in printed

    report = json.loads(run("evaluate", built, "--corpus", "texts.json", "--json"))
    assert (report["documents"], report["excluded_documents"]) == (6, 54)
    assert f"{report['scores']['fvu']:.4f}" in run("evaluate", built, "--corpus", "texts.json")

    explanation = json.loads(run("explain", built, "old queen", "--json"))
    assert "".join(token["token"] for token in explanation["tokens"][1:]) == "old queen"
    assert "resid_post.1 of model" in run("explain", built, "old queen", "--svg", "picture.svg")
    assert (place / "picture.svg").read_text().startswith("<svg")

    small = run("encode", built, "--corpus", "texts.json", "--out", "small", "--memory", "0", "--json")
    assert json.loads(small)["route"] == "torch, no Gram matrix"
    assert report["route"] == "numba, int16 Gram matrix"
    assert json.loads(run("evaluate", built, "--corpus", "texts.json", "--memory", "1kB", "--json"))[
        "route"
    ].startswith("torch")
    assert "100 codes, " in run("encode", built, "--corpus", "texts.json", "--tokens", 100, "--out", "codes")
    assert len(Encoding.load(place / "codes")) == 100
    again = json.loads(run("encode", built, "--corpus", "texts.json", "--out", "codes", "--overwrite", "--json"))
    assert again["rows"] == sum(map(len, TEXTS))


@pytest.fixture
def workers():
    """Workers that several commands share: to start them takes as long as the work."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def test_many_workers(run, built, place, workers):
    text = ["--corpus", "texts.json"]
    spread = ["--shards", 2, "--workers", 2]
    asked = ["model", *text, "--site", "resid_post.1"]
    said = run("build", *asked, "--atoms", 40, *spread, "--out", "many")
    assert "40 atoms of width 16 from resid_post.1 of model" in said
    assert "6 documents held out" in said
    facts = json.loads(run("info", "many", "--json"))
    assert facts["build"]["method"] == "merge"
    assert facts["provenance"]["corpus_name"] == "texts.json less 0.1 held out"

    report = json.loads(run("evaluate", "many", *text, *spread, "--json"))
    alone = json.loads(run("evaluate", "many", *text, "--json"))
    assert report["scores"]["fvu"] == pytest.approx(alone["scores"]["fvu"], rel=1e-5)
    assert "100 codes, " in run("encode", "many", *text, "--tokens", 100, *spread, "--out", "many-codes")

    said = run("capture", *asked, "--shards", 2, "--out", "many-store")
    assert said.count("StoredActivations(") == 2
    assert "was there already" not in said
    assert json.loads(run("capture", *asked, "--shards", 2, "--out", "many-store", "--json"))[1]["was_there"]
    assert run("capture", *asked, "--shards", 2, "--out", "many-store").count("was there already") == 2
    for more in ([], ["--workers", 2]):
        run("build", "--store", "many-store", "--atoms", 40, *more, "--out", "of-store", "--overwrite")
    assert len(run("store", "ls", "many-store").splitlines()) >= 2
    assert not list(place.glob("many*.checkpoint")) + list(place.glob("*.parts")) + list(place.glob("*.evaluation"))
    assert "Leave out --shards" in run("build", "--store", "many-store", *spread, "--out", "no", code=2)
    ray.shutdown()
    assert "does not answer" in run("build", *asked, "--address", "127.0.0.1:1", "--out", "no", code=2)


def test_merge(run, place):
    for part in (0, 1):
        (place / "half.json").write_text(json.dumps(TEXTS[part::2]))
        run("build", "model", "--corpus", "half.json", "--site", "resid_post.1", "--atoms", 30, "--out", f"half-{part}")
    run("capture", "model", "--corpus", "texts.json", "--site", "resid_post.1", "--out", "merge-store")
    halves = ["half-0", "half-1", "--atoms", 40]
    printed = run("merge", *halves, "--out", "merged")
    assert "the best of 60 atoms of 2 dictionaries" in printed
    assert "not measured on any rows" in printed
    assert "unexplained not measured: it was merged without rows" in " ".join(run("info", "merged").split())
    facts = json.loads(run("merge", *halves, "--store", "merge-store", "--out", "merged", "--overwrite", "--json"))
    assert (facts["atoms"], facts["build"]["method"]) == (40, "merge")
    assert facts["build"]["options"]["rows"] > 1000
    assert "merged exists" in run("merge", *halves, "--out", "merged", code=2)
    assert "share documents" in run("merge", "half-0", "half-0", "--out", "twice", code=2)
    assert "is for atoms, not for a sample" in run(
        "merge", *halves, "--store", "merge-store", "--max-unexplained", 0.1, "--out", "no", code=2
    )


def test_build_says_what_it_did(run, place):
    printed = run("build", "model", "--corpus", "texts.txt", "--split-on", r"\n\n", "--atoms", 30, "--out", "e")
    assert "30 atoms of width 16 from resid_post.1 of model" in printed
    assert "60 documents, 2,600 characters (1 repeated and 1 empty left out); 6 documents held out" in printed
    assert "Next: itda evaluate e --corpus texts.txt --split-on '\\n\\n'" in printed
    hook = run(
        "build", "model", "--corpus", "texts.json", "--site", "blocks.1.hook_resid_post", "--atoms", 20, "--out", "tl"
    )
    assert "tl: Dictionary(20 atoms of width 16 from resid_post.1" in hook
    assert "--pursuit must be" in run(
        "build", "model", "--corpus", "texts.json", "--pursuit", "ompp", "--out", "no", code=2
    )
    options = ["--method", "paper", "--max-cosine-gap", 0.05, "--steps", 2, "--held-out", 0, "--json"]
    facts = json.loads(run("build", "model", "--corpus", "texts.json", "--out", "p", *options))
    assert (facts["build"]["method"], facts["coding"]["steps"]) == ("paper", 2)
    several = ["--site", "resid_post.0", "--site", "mlp_out.1", "--atoms", 20]
    assert len(json.loads(run("build", "model", "--corpus", "texts.json", "--out", "m", "--json", *several))) == 2
    assert Dictionary.from_pretrained(place / "m" / "mlp_out.1").site == "mlp_out.1"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["build", "nowhere/at/all", "--corpus", "texts.json", "--out", "x"], "There is no folder nowhere/at/all"),
        (["build", "model", "--corpus", "nothing.json", "--out", "x"], "no file or folder nothing.json"),
        (["build", "model", "--out", "x"], "Give --corpus PATH"),
        (["build", "model", "--corpus", "texts.json", "--site", "resid_post.9", "--out", "x"], "layers 0 to 2"),
        (
            ["build", "model", "--corpus", "texts.json", "--atoms", "3", "--out", "x"],
            "steps=4 is more than the 3 atoms",
        ),
        (["build", "model", "--corpus", "texts.json", "--tokens", "99999", "--out", "x"], "ask for fewer"),
        (["build", "model", "--corpus", "texts.txt", "--out", "x"], "split_on"),
        (["build", "model", "--corpus", "texts.json", "--out", "d"], "d exists. Choose another folder"),
        (["build", "model", "--corpus", "texts.json", "--out", "model", "--overwrite"], "not written by itda"),
        (["build", "model", "--corpus", "texts.json", "--method", "x", "--out", "x"], "budget, greedy, mixture, paper"),
        (["build", "model", "--corpus", "texts.json", "--atoms", "many", "--out", "x"], "unable to parse"),
        (["evaluate", "nothing", "--corpus", "texts.json"], "There is no folder nothing"),
        (["evaluate", "model", "--corpus", "texts.json"], "has no itda.json"),
        (["evaluate", "d", "--corpus", "texts.json", "--model", "other"], "Got 'other'"),
        (["evaluate", "d"], "Give --corpus PATH"),
        (["evaluate", "d", "--corpus", "texts.json", "--entry", "x"], "Leave out --entry"),
        (["evaluate", "d", "--store", "x", "--tokens", "9", "--no-baselines"], "--tokens, --baselines/--no-baselines"),
        (["explain", "d", ""], "not empty"),
        (["encode", "d", "--corpus", "texts.json", "--out", "d"], "d exists"),
        (["info", "texts.json"], "There is no folder"),
        (["info", "."], "It holds others: name one, as"),
        (["sites", "texts.json"], "cannot be loaded"),
        (["explain", "d", "queen", "--svg", "texts.txt"], "texts.txt exists"),
        (["demo", "--out", "model", "--overwrite"], "not written by itda demo"),
        (["frobnicate"], "No such command"),
    ],
)
def test_mistakes_say_what_to_do_and_exit_with_2(run, built, place, arguments, says):
    before = sorted(str(path) for path in place.rglob("*"))
    error = " ".join(run(*arguments, code=2).replace("│", " ").split())
    assert says in error
    assert "Traceback" not in error
    assert sorted(str(path) for path in place.rglob("*")) == before


def test_a_bare_array_says_where_it_belongs(run, place):
    import torch

    from itda import build_from_activations

    if not (place / "bare").exists():
        build_from_activations(torch.randn(200, 16), atoms=30, progress=False).save_pretrained(place / "bare")
    options = ["--model", "model", "--site", "resid_post.1"]
    assert json.loads(run("evaluate", "bare", "--corpus", "texts.json", *options, "--json"))["site"] == "resid_post.1"
    assert "resid_post.1 of model" in run("explain", "bare", "queen", *options)
    assert "site=" in run("explain", "bare", "queen", "--model", "model", code=2)


def test_another_model_on_purpose(run, built):
    report = json.loads(run("evaluate", built, "--corpus", "texts.json", "--model", "other", "--any-model", "--json"))
    assert report["model"] == "other"


def test_an_interrupt_exits_with_130_and_leaves_what_the_next_run_goes_on_from(place, data):
    """A real Ctrl-C in a real process, while it builds."""
    out = place / "interrupted"
    command = [sys.executable, "-m", "itda", "build", data / "models" / "gpt2-wide", "--out", out]
    corpus = ["--corpus", data / "text" / "war_and_peace.txt", "--split-on", r"\n\n"]
    for wait in (12, 30, 60):  # a slow machine is still loading the model after the first
        process = subprocess.Popen(
            [*map(str, command + corpus)],
            stderr=subprocess.PIPE,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            # A shell starts background jobs with the signal ignored, and children inherit that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            time.sleep(wait)  # at work on two million tokens
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 130
        assert b"Interrupted" in error
        if list(place.glob("*interrupted*")):
            break
    assert [path.name for path in place.glob("*interrupted*")] == ["interrupted.checkpoint"]
    assert list((place / "interrupted.checkpoint").glob("*/builder-0.safetensors"))


def test_a_full_disk_is_said_and_leaves_nothing(run, place, built, monkeypatch):
    import errno

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    error = run("build", "model", "--corpus", "texts.json", "--atoms", 20, "--out", "full", code=2)
    assert "No space is left on the disk of" in error
    assert "What was written before is whole; free some space and run again" in error
    assert not list(place.glob("*full*"))


def test_names_that_no_path_can_have(run, place):
    long = "once upon a time " * 30
    for verb in (["info", long], ["explain", long, "d"], ["sites", long], ["evaluate", long], ["store", "ls", long]):
        error = run(*verb, code=2)
        assert "Traceback" not in error
        assert error.startswith("itda: ")
    for out in (".", ""):
        assert "Traceback" not in run("build", "model", "--corpus", "texts.json", "--out", out, code=2)
    assert "names a folder" in run("build", "model", "--corpus", "texts.json", "--out", "/", code=2)
