"""The verbs that measure more than fidelity, in this process."""

import json

import pytest

from support import tiny
from support.judge import judge_service

TEXTS = [f"the {word} king and the old queen of number {number}" for number, word in enumerate(["good", "bad"] * 40)]
LABELLED = [{"text": text, "label": "good" if " good " in text else "bad"} for text in TEXTS]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measure")
    tiny.module("GPT-2").save_pretrained(folder / "model")
    tiny.tokenizer().save_pretrained(folder / "model")
    (folder / "texts.json").write_text(json.dumps(TEXTS[:40]))
    (folder / "held.json").write_text(json.dumps(TEXTS[20:]))
    (folder / "few.json").write_text(json.dumps(TEXTS[-1:]))
    (folder / "labelled.jsonl").write_text("\n".join(map(json.dumps, LABELLED)))
    return folder


@pytest.fixture
def built(run, place):
    for name, seed in (("d", 0), ("other", 1)):
        if not (place / name).exists():
            run("build", "model", "--corpus", "texts.json", "--site", "resid_post.1", "--atoms", 40, "--seed", seed,
                "--out", name)  # fmt: skip
    return "d"


def test_help_has_an_example(run):
    for verb in ("probe", "read", "judge", "ablate", "stability"):
        assert f"itda {verb} runs" in run(verb, "--help").replace("\n", " ")


def test_probe(run, built):
    document = json.loads(run("probe", built, "--labelled", "labelled.jsonl", "--other", "other", "--json"))
    assert set(document["classes"]) == {"good", "bad"}
    assert "other" in document["features"]
    assert "best 5" in run("probe", built, "--labelled", "labelled.jsonl")
    assert "'feeling'" in run("probe", built, "--labelled", "labelled.jsonl", "--label-field", "feeling", code=2)
    assert "given twice" in run(
        "probe", built, "--labelled", "labelled.jsonl", "--other", "other", "--other", "other", code=2
    )


def test_read(run, built):
    document = json.loads(run("read", built, "--corpus", "held.json", "--atoms", 5, "--json"))
    assert 1 <= len(document["atoms"]) <= 5
    assert "lift over the token" in run("read", built, "--corpus", "held.json", "--atoms", 5)
    assert "Give more text" in run("read", built, "--corpus", "few.json", code=2)


def test_judge(run, built, place):
    with judge_service(lambda question: '{"active": [1, 2, 3]}') as service:
        asked = ("judge", built, "--corpus", "held.json", "--url", service.url, "--judge-model", "m", "--atoms", 4)
        document = json.loads(run(*asked, "--json"))
        assert len(document["atoms"]) == len(service.asked) == 4
        assert len((place / "d.answers.jsonl").read_text().split()) > 4
        run(*asked)
        assert len(service.asked) == 4
    assert "did not answer" in run(
        "judge", built, "--corpus", "held.json", "--url", "http://127.0.0.1:9", "--judge-model", "m", "--retries", 0,
        "--answers", "elsewhere", code=2,
    )  # fmt: skip


def test_ablate(run, built):
    document = json.loads(run("ablate", built, "--corpus", "held.json", "--count", 3, "--json"))
    assert len(document["atoms"]) == 3
    assert "KL nats" in run("ablate", built, "--corpus", "held.json", "--atom", document["atoms"][0]["atom"])
    assert "from 0 to 39" in run("ablate", built, "--corpus", "held.json", "--atom", 99, code=2)


def test_stability(run, built):
    document = json.loads(run("stability", built, "--corpus", "held.json", "--other", "other", "--json"))
    assert set(document["changes"]) == {"noise of 0.01", "noise of 0.05", "noise of 0.1", "3 steps", "5 steps", "other"}
    assert "energy kept" in run("stability", built, "--corpus", "held.json")
