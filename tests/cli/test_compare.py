"""itda compare, in this process."""

import json
from pathlib import Path

import pytest
import transformers

from support import tiny


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    for seed, name in enumerate(("model", "other")):
        tiny.module("GPT-2", seed=seed).save_pretrained(folder / name)
        tiny.tokenizer().save_pretrained(folder / name)
    (folder / "texts.json").write_text(json.dumps(tiny.KINGS))
    (folder / "more.json").write_text(json.dumps([*tiny.KINGS, "and one more"]))
    return folder


def test_layers(run):
    text = ("--corpus", "texts.json", "--tokens", 300)
    printed = run("compare", "layers", "model", "other", *text, "--measure", "cka", "--measure", "median_norm")
    assert "layers found" in printed
    assert "median_norm" in printed
    assert "model (down)" in run("compare", "layers", "model", "other", *text, "--measure", "cka", "--matrix")
    document = json.loads(run("compare", "layers", "model", "other", *text, "--measure", "cka", "--json"))
    assert document["cka"]["matching"]["decisions"] == 6
    assert document["cka"]["matrix"]["values"][0][0] == pytest.approx(1)
    assert {"cka", "median_norm"} < document.keys()  # what any measure should beat is always there
    assert "matching" in document["median_norm"]
    few = ("--corpus", "texts.json", "--tokens", 20, "--measure", "cca", "--json")
    assert json.loads(run("compare", "layers", "model", "other", *few))["cca"]["matching"]["accuracy"] is None
    assert ".svg, .png or .pdf" in run("compare", "layers", "model", "other", *text, "--plot", "a.gif", code=2)


@pytest.mark.parametrize("verb", ["checkpoints", "diff"])
def test_a_file_that_cannot_be_written_is_refused_before_any_work(run, place, verb):
    """Not even the corpus is looked for."""
    (place / "a file").write_text("")
    (place / "notes.json").write_text('{"mine": "not to be lost"}')
    for out in (".", "a file/out.json", "notes.json"):
        printed = run("compare", verb, "model", "other", "--corpus", "nowhere.json", "--out", out, code=2)
        assert "nowhere" not in printed
    assert "not to be lost" in (place / "notes.json").read_text()


def test_a_measure_that_cannot_be_computed_says_why(run):
    printed = run("compare", "layers", "model", "other", "--corpus", "texts.json", "--tokens", 20, "--measure", "cca")
    assert "need more than" in " ".join(printed.split())


def test_every_measure_by_default(run):
    document = json.loads(run("compare", "layers", "model", "--corpus", "texts.json", "--tokens", 200, "--json"))
    assert {"cka", "rsa", "codes", "components_99"} <= document.keys()
    assert "matching" not in document["cka"]  # there is nothing to match with
    alone = run("compare", "layers", "model", "--corpus", "texts.json", "--tokens", 200, "--measure", "cka")
    assert "model (down), model (across)" in " ".join(alone.split())


def test_models_of_different_depth_say_why_nothing_is_counted(run, place):
    if not (place / "deep").exists():
        config = tiny.DECODERS["GPT-2"]()
        config.n_layer = 4
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(place / "deep")
        tiny.tokenizer().save_pretrained(place / "deep")
    text = ("--corpus", "texts.json", "--tokens", 200, "--measure", "cka")
    printed = " ".join(run("compare", "layers", "model", "deep", *text).split())
    assert "model has 3, deep has 4" in printed
    assert "model (down), deep (across)" in printed
    ahead = json.loads(run("compare", "layers", "model", "other", *text, "--json"))["median_norm"]["ahead"]
    assert ahead["measure"] == "cka"


def test_a_checkpoint_that_is_given_twice_is_refused(run):
    assert "given twice" in run("compare", "checkpoints", "model", "model", "--corpus", "texts.json", code=2)


def test_dictionaries(run):
    for name, model, corpus in (("a", "model", "texts"), ("b", "other", "texts"), ("c", "model", "more")):
        run(
            "build",
            model,
            "--corpus",
            f"{corpus}.json",
            "--site",
            "resid_post.1",
            "--atoms",
            30,
            "--steps",
            2,
            "--out",
            name,
        )
    assert "Jaccard" in run("compare", "dictionaries", "a", "b", "--untrained", "b")
    assert json.loads(run("compare", "dictionaries", "a", "a", "--json"))["adjusted"] == 1
    assert "the corpus is" in run("compare", "dictionaries", "a", "c", code=2)
    assert "differs: the corpus" in run("compare", "dictionaries", "a", "c", "--anyway")
    assert "itda compare dictionaries" in run("compare", "dictionaries", "--help")
    for model in ("model", "other"):
        capture = ("--corpus", "texts.json", "--site", "resid_post.1", "--out", f"{model} store")
        run("capture", model, *capture)
        run("build", "--store", f"{model} store", "--atoms", 30, "--steps", 2, "--out", f"{model} built")
    stores = ("--store", "model store", "--store", "other store")
    found = json.loads(run("compare", "dictionaries", "model built", "other built", *stores, "--json"))
    assert found["strata"] == "token and position"


def test_translate(run):
    texts = [f"{line} {number}" for number in range(3) for line in tiny.KINGS]
    Path("many.json").write_text(json.dumps(texts))
    Path("some.json").write_text(json.dumps(texts[:60]))
    run("build", "model", "--corpus", "some.json", "--site", "resid_post.1", "--atoms", 40, "--steps", 3, "--out", "d")
    asked = ("compare", "translate", "d", "other", "--corpus", "many.json", "--tokens", 200)
    printed = run(*asked, "--out", "there")
    assert "resid_post.1 of model, as resid_post.1 of other" in printed
    assert "beyond the token" in printed
    assert "other" in run("info", "there")
    document = json.loads(run(*asked, "--site", "resid_post.0", "--json"))
    assert document["sites"] == ["resid_post.1", "resid_post.0"]
    assert document["dropped"] == 0
    assert "no place" not in printed
    assert "exists" in run(*asked[:-4], "--corpus", "nowhere.json", "--out", "there", code=2)
    run("build", "model", "--corpus", "some.json", "--atoms", 40, "--steps", 3, "--held-out", 0, "--out", "all")
    assert "Give other text" in run("compare", "translate", "all", "other", "--corpus", "some.json", code=2)


def test_mistakes(run):
    assert "no measure" in run(
        "compare", "layers", "model", "other", "--corpus", "texts.json", "--measure", "ckaa", code=2
    )
    assert "Which text" in run("compare", "layers", "model", "other", code=2)
    assert "one name" in run("compare", "layers", "model", "model", "--corpus", "texts.json", code=2)


def test_models(run):
    text = ("--corpus", "texts.json", "--tokens", 300, "--atoms", 60)
    assert "within architectures" in run("compare", "models", "model", "other", *text)
    document = json.loads(run("compare", "models", "model", "other", *text, "--untrained", "other", "--json"))
    assert document["untrained"] == "other"
    assert document["values"][0][0] == pytest.approx(1)


def test_diff(run, place):
    options = ("--corpus", "texts.json", "--atoms", 20, "--steps", 2)
    assert "atoms changed" in run("compare", "diff", "model", "other", *options, "--out", "diff.json")
    assert json.loads((place / "diff.json").read_text())["joint"]["size"] == 20
    assert json.loads(run("compare", "diff", "model", "other", *options, "--json"))["rate"] == 0.05


def test_options_of_a_dictionary_that_is_not_built_are_refused(run):
    options = ("--corpus", "texts.json", "--dictionary", "d", "--steps", 3)
    assert "Leave out --steps" in run("compare", "checkpoints", "other", "model", *options, code=2)


def test_checkpoints(run, place):
    (place / "many.json").write_text(json.dumps([f"{line} {number}" for number in range(20) for line in tiny.KINGS]))
    options = ("--corpus", "many.json", "--atoms", 20, "--steps", 2, "--tokens", 2_000)
    assert "through 2 checkpoints" in run("compare", "checkpoints", "other", "model", *options, "--out", "run.json")
    assert json.loads((place / "run.json").read_text())["names"] == ["other", "model"]
