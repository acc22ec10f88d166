"""itda steer on the command line, in this process."""

import json

import pytest

import itda
from itda import steer
from support import tiny

KINGS = [{"positive": f"the good king {n}", "negative": f"the bad queen {n}"} for n in range(6)]
CONTRASTS = [{"prompt": "the old ", "target": letter, "opposite": "q"} for letter in "kab"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steer")
    tiny.module("GPT-2").save_pretrained(folder / "model")
    tiny.tokenizer().save_pretrained(folder / "model")
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, KINGS)))
    (folder / "good.json").write_text(json.dumps([one["positive"] for one in KINGS]))
    (folder / "bad.txt").write_text("\n".join(one["negative"] for one in KINGS[:4]))
    (folder / "contrasts.jsonl").write_text("\n".join(map(json.dumps, CONTRASTS)))
    (folder / "texts.json").write_text(json.dumps(tiny.KINGS))
    return folder


@pytest.fixture
def vector(run, place):
    if not (place / "v.safetensors").exists():
        run("steer", "fit", "model", "--pairs", "pairs.jsonl", "--site", "resid_post.1", "--site", "resid_post.2",
            "--out", "v.safetensors")  # fmt: skip
    return "v.safetensors"


@pytest.fixture
def dictionary(run, place):
    if not (place / "d").exists():
        run("build", "model", "--corpus", "texts.json", "--site", "resid_post.1", "--atoms", 24, "--out", "d")
    return "d"


def test_help_has_an_example(run):
    for verb in ("fit", "apply", "sweep", "explain", "export"):
        assert f"itda steer {verb} " in run("steer", verb, "--help").replace("\n", " ")


def test_a_vector_is_that_of_the_library(run, place, vector):
    model = itda.load_model("model")
    pairs = [(one["positive"], one["negative"]) for one in KINGS]
    expected = steer.SteeringVector.fit(model, pairs, ["resid_post.1", "resid_post.2"], progress=False)
    found = steer.SteeringVector.load(place / vector)
    assert all((found.directions[name] == expected.directions[name]).all() for name in expected.sites)
    facts = json.loads(
        run("steer", "fit", "model", "--positive", "good.json", "--negative", "bad.txt", "--read", "tokens", "--out",
            "unpaired.safetensors", "--json")
    )  # fmt: skip
    assert facts["facts"]["negative"] == 4
    assert facts["sites"] == ["resid_post.1"]
    run("steer", "fit", "model", "--method", "attribution", "--contrasts", "contrasts.jsonl", "--out", "a.safetensors")
    assert steer.SteeringVector.load(place / "a.safetensors").facts["method"] == "attribution"


def test_atoms_are_a_vector(run, place, dictionary):
    run("steer", "fit", "--dictionary", dictionary, "--atom", 3, "--atom", "5:-0.5", "--out", "atoms.safetensors")
    found = steer.SteeringVector.load(place / "atoms.safetensors").directions["resid_post.1"]
    atoms = itda.Dictionary.from_pretrained(place / dictionary).atoms
    assert (found - atoms[3] + 0.5 * atoms[5]).abs().max() < 1e-6
    shown = run("steer", "explain", "atoms.safetensors", dictionary)
    assert "of the vector is in none of these atoms" in shown
    document = json.loads(run("steer", "explain", "atoms.safetensors", dictionary, "--count", 2, "--json"))
    assert {one["atom"] for one in document["atoms"]} == {3, 5}


def test_prompts_are_gone_on_with_as_they_are_and_steered(run, place, vector):
    arguments = ("steer", "apply", vector, "--prompt", "the old", "--prompt", "a", "--max-new-tokens", 6)
    document = json.loads(run(*arguments, "--strength", 3, "--tokens", "generation", "--json"))
    model = itda.load_model("model")
    own = steer.SteeringVector.load(place / vector)
    expected = steer.generate(
        model, ["the old", "a"], own, strength=3.0, tokens="generation", max_new_tokens=6
    )  # fmt: skip
    assert [one["steered"] for one in document["answers"]] == [one.text for one in expected]
    assert [one["plain"] for one in document["answers"]] == [
        one.text for one in steer.generate(model, ["the old", "a"], max_new_tokens=6)
    ]
    assert "strength 3 (1 is the median norm" in document["steered_by"]
    calibrated = run(*arguments, "--kl", 0.002, "--neutral", "texts.json")
    assert "asked for 0.002" in calibrated
    assert "steered  " in calibrated


@pytest.mark.parametrize(
    ("given", "expected"), [("0,2", (0, 2)), ("-1", -1), ("5:", slice(5, None)), ("2:9", slice(2, 9)), ("last", "last")]
)
def test_tokens_are_named_or_numbered(run, vector, given, expected):
    document = json.loads(run("steer", "apply", vector, "--prompt", "a", f"--tokens={given}", "--json"))
    assert f"tokens {expected!r}" in document["steered_by"]


def test_a_sweep_recommends(run, place, vector):
    arguments = ("steer", "sweep", vector, "--contrasts", "contrasts.jsonl", "--neutral", "texts.json")
    document = json.loads(
        run(*arguments, "--strength", 0.2, "--strength", 0.8, "--plot", "sweep.svg", "--json")
    )  # fmt: skip
    assert {(one["site"], one["strength"]) for one in document["points"]} == {
        (f"resid_post.{layer}", strength) for layer in (1, 2) for strength in (0.2, 0.8)
    }
    assert "resid_post.2" in (place / "sweep.svg").read_text()
    assert document["reason"] in " ".join(run(*arguments, "--strength", 0.2, "--strength", 0.8).split())


def test_a_vector_is_exported(run, place, vector):
    run("steer", "export", vector, "--out", "v.gguf", "--strength", 0.5)
    model = itda.load_model("model")
    again = steer.SteeringVector.from_gguf(place / "v.gguf", model)
    own = steer.SteeringVector.load(place / vector)
    for name in own.sites:
        assert (again.directions[name] - 0.5 * own.norms[name] * own.directions[name]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", "--pairs", "pairs.jsonl"), "Which model?"),
        (("fit", "model"), "Fitted to what?"),
        (("fit", "model", "--pairs", "contrasts.jsonl"), "no 'positive' or no 'negative'"),
        (("fit", "model", "--method", "attribution"), "--contrasts"),
        (("fit", "--dictionary", "d"), "Which atom?"),
        (("fit", "--dictionary", "d", "--atom", "x"), "17:-0.5"),
        (("fit", "--dictionary", "d", "--atom", "3", "--pairs", "pairs.jsonl"), "no model, texts or places"),
        (("fit", "model", "--pairs", "pairs.jsonl", "--out", "v.gguf"), ".safetensors"),
        (("apply", "pairs.jsonl", "--prompt", "a"), "no safetensors file"),
        (("apply", "v.safetensors", "--prompt", "a", "--tokens", "some"), "tokens must be one of"),
        (("apply", "v.safetensors", "--prompt", "a", "--tokens", "1,x"), "--tokens is a name"),
        (("apply", "v.safetensors", "--prompt", "a", "--op", "multiply"), "op must be one of"),
        (("export", "v.safetensors", "--out", "v.txt"), "written as .gguf"),
        (("sweep", "v.safetensors", "--contrasts", "pairs.jsonl"), "no 'prompt'"),
    ],
)
def test_mistakes_are_said(run, vector, dictionary, arguments, message):
    assert message in run("steer", *arguments, code=2)
