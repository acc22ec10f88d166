"""itda view and itda report: prepare, serve, write out, and say what is wrong."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

import itda
from support import tiny
from support.pages import bare_dictionary

pytest.importorskip("fastapi")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("view")
    for seed, name in enumerate(("model", "other")):
        tiny.module("GPT-2", seed=seed).save_pretrained(folder / name)
        tiny.tokenizer().save_pretrained(folder / name)
    texts = [f"{line} {number}" for number in range(3) for line in tiny.KINGS]
    (folder / "texts.json").write_text(json.dumps(texts))
    (folder / "some.json").write_text(json.dumps(texts[:60]))
    return folder


@pytest.fixture
def built(run, place):
    """A folder with two dictionaries."""
    for name in ("model", "other"):
        if not (place / "runs" / name).exists():
            options = ("--site", "resid_post.1", "--atoms", 40, "--steps", 3, "--out", f"runs/{name}")
            run("build", name, "--corpus", "some.json", *options)
    return place / "runs"


def test_prepare_then_export_and_report(run, built, place):
    run("view", "runs/model", "--prepare", "--corpus", "texts.json", "--tokens", 500, "--effects", 2)
    manifest = json.loads((place / "runs" / "model.view" / "itda.json").read_text())
    assert manifest["text"] == "texts.json"
    assert len(manifest["effects"]) == 2
    printed = run("view", "runs", "--export", "pages", "--atoms", 5, "--text", "the good king")
    assert "pages in pages" in printed
    assert manifest == json.loads((place / "runs" / "model.view" / "itda.json").read_text()), "not prepared again"
    assert (place / "runs" / "other.view").exists(), "the other one was prepared"
    index = (place / "pages" / "index.html").read_text()
    assert 'href="d/model/index.html"' in index
    explained = (place / "pages" / "d" / "model" / "explained.js").read_text()
    assert json.loads(explained.removeprefix("window.itdaExplained = ").rstrip(";\n"))[0]["text"] == "the good king"
    assert "exists" in run("view", "runs", "--export", "pages", code=2)
    run("view", "runs", "--export", "pages", "--overwrite", "--atoms", 3)
    assert run("report", "runs/model", "--out", "report.html", "--atoms", 3).strip() == "report.html"
    report = (place / "report.html").read_text()
    assert report.count("<h3") == 3
    assert not re.search(r'(?:src|href)="(?!#)', report), "one file, which asks for no other"


def test_what_is_asked_for_is_prepared_or_refused(run, built, place):
    run("view", "runs/model", "--prepare", "--corpus", "texts.json", "--tokens", 400)
    manifest = place / "runs" / "model.view" / "itda.json"

    def asked():
        return json.loads(manifest.read_text())["asked"]

    before = asked()
    assert (before["tokens"], before["effects"], before["seed"]) == (400, 0, 0)
    run("report", "runs/model", "--out", "r.html", "--atoms", 2, "--effects", 1)
    assert asked()["effects"] == 1
    assert asked()["corpus"] is None, "made of what the atoms come from, as nothing else was named"
    run("report", "runs/model", "--out", "r.html", "--atoms", 2, "--effects", 1, "--corpus", "texts.json")
    assert asked()["corpus"] == before["corpus"]
    kept = manifest.stat().st_mtime_ns
    run("report", "runs/model", "--out", "r.html", "--atoms", 2, "--effects", 1, "--corpus", "texts.json")
    assert manifest.stat().st_mtime_ns == kept, "the same is not made again"
    run("report", "runs/model", "--out", "r.html", "--atoms", 2, "--seed", 1)
    assert asked()["seed"] == 1
    assert "nowhere.json" in run("report", "runs/model", "--out", "r.html", "--corpus", "nowhere.json", code=2)
    assert "stops before" in run("view", "runs/model", "--prepare", "--export", "x", code=2)
    assert "--export" in run("view", "runs/model", "--text", "x", code=2)
    assert "holds 2" in run("report", "runs", "--out", "r.html", code=2)
    assert "atoms must be a whole number" in run("report", "runs/model", "--out", "r.html", "--atoms", 0, code=2)


def test_a_dictionary_that_was_replaced_is_not_mixed_up(run, built, place):
    from itda.cli.view import _Opener
    from itda.view.shelf import Shelf, StaleError

    run("build", "model", "--corpus", "some.json", "--site", "resid_post.1", "--atoms", 20, "--out", "runs2/one")
    run("view", "runs2/one", "--prepare", "--tokens", 200)
    shelf = Shelf.open([place / "runs2"])
    run("build", "model", "--corpus", "some.json", "--site", "resid_post.1", "--atoms", 30, "--out", "runs2/one",
        "--overwrite")  # fmt: skip
    opener = _Opener(itda.load_model, lambda name: None, {}, {"site": None, "check_model": True}, None, False)
    with pytest.raises(StaleError, match="now holds another dictionary"):
        opener.ask(shelf.book("one"))


def test_the_browser_is_opened_at_the_address_with_its_token(run, built, place, monkeypatch):
    import itda.view.serving as module

    run("view", "runs/model", "--prepare", "--tokens", 200)
    opened, said = [], []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)

    class Server(module.uvicorn.Server):
        def run(self, sockets):
            self.started = True
            for _ in range(200):
                if opened:
                    break
                time.sleep(0.02)

    monkeypatch.setattr(module.uvicorn, "Server", Server)
    from itda.view.shelf import Shelf

    for host, expected in (
        ("127.0.0.1", r"http://127\.0\.0\.1:\d+/$"),
        ("0.0.0.0", r"http://127.+/\?token=[\w-]{20,}$"),
    ):
        opened.clear()
        module.serve(Shelf.open([built / "model"]), lambda book: None, said.append, host=host, port=0)
        assert re.match(expected, opened[0]), opened
        assert opened[0] in said[-1]


def test_results_of_comparisons_are_shown(run, built, place):
    two = ("model", "other", "--corpus", "texts.json")
    run("compare", "layers", *two, "--tokens", 300, "--measure", "cka", "--out", "runs/layers.json")
    run("compare", "models", *two, "--tokens", 300, "--atoms", 60, "--out", "runs/models.json")
    run("compare", "dictionaries", "runs/model", "runs/other", "--out", "runs/overlap.json")
    run("compare", "checkpoints", *two, "--tokens", 600, "--atoms", 30, "--ablated", 2, "--out", "runs/run.json")
    run("compare", "diff", *two, "--tokens", 800, "--atoms", 30, "--site", "resid_post.1", "--out", "runs/diff.json")
    run(
        "compare",
        "translate",
        "runs/model",
        "other",
        "--corpus",
        "texts.json",
        "--tokens",
        200,
        "--report",
        "runs/t.json",
    )
    (place / "runs" / "broken.json").write_text('{"format": "itda.compare.diff", "models": 3}')
    (place / "runs" / "newer.json").write_text('{"format": "itda.compare.dreams"}')
    (place / "runs" / "foreign.json").write_text("[1, 2")
    run("view", "runs", "--export", "compared", "--atoms", 2)
    page = (place / "compared" / "compare.html").read_text()
    titles = set(re.findall(r"<h2[^>]*>([^<]*)</h2>", page))
    assert {"Layers", "Models", "Overlap of two dictionaries", "A training run", "What fine-tuning changed"} < titles
    assert "Translation" in titles
    assert page.count("is not what itda compare writes") == 1
    assert page.count("does not know such results") == 1
    matrix = json.loads((place / "runs" / "layers.json").read_text())["measures"]["cka"]["matrix"]["values"]
    assert f"model 0, other 1: {matrix[0][4]:.3f}" in page
    run("view", "runs/model", "runs/overlap.json", "--export", "named", "--atoms", 2)
    assert "Overlap of two dictionaries" in (place / "named" / "compare.html").read_text()
    assert "neither results of itda compare nor a steering vector" in run(
        "view", "runs/foreign.json", "--export", "x", code=2
    )
    distance = json.loads((place / "runs" / "diff.json").read_text())["joint"]["atoms"][0]["distance"]
    assert f"<bdi>{distance:.2f}</bdi>" in page


def test_it_answers_until_it_is_interrupted(built, place):
    process = subprocess.Popen(
        [sys.executable, "-m", "itda", "view", "runs/model", "--no-browser", "--port", "0"], cwd=place, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    address = re.search(r"http://127\.0\.0\.1:\d+/", line)
    assert address, line
    with urllib.request.urlopen(address[0]) as answer:
        assert "40 real activations" in answer.read().decode()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert "Traceback" not in said


def test_a_dictionary_of_a_bare_array_is_shown_without_a_model(run, place):
    bare_dictionary().save_pretrained(place / "bare", overwrite=True)
    run("view", "bare", "--export", "bare pages")
    page = (place / "bare pages" / "d" / "bare" / "atoms" / "0.html").read_text()
    assert "row " in page
    assert "made without a text" in page
    wrong = run("view", "bare", "--export", "more pages", "--text", "x", code=2)
    assert "--model and --site" in wrong


def test_a_port_in_use_is_said(run, built):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert "is in use" in run("view", "runs/model", "--no-browser", "--port", port, code=2)
    assert "Choose another --host" in run("view", "runs/model", "--no-browser", "--host", "203.0.113.9", code=2)
    assert "Choose another" in run("view", "runs/model", "--no-browser", "--port", 70_000, code=2)


def test_mistakes(run, built, place):
    (place / "empty").mkdir(exist_ok=True)
    assert "is no dictionary" in run("view", "empty", code=2)
    assert "no folder" in run("view", "nowhere", code=2)
    assert "written as .html" in run("report", "runs/model", "--out", "report.pdf", code=2)
    assert "was not written by itda" in run("view", "runs", "--export", "model", "--overwrite", code=2)
    assert "no folder" in run("report", "nowhere", "--out", "a.html", code=2)
    (place / "a file").write_text("")
    assert "cannot be written" in run("report", "runs/model", "--out", "a file/report.html", code=2)
    wrong = run("view", "runs/model", "--prepare", "--model", "other", code=2)
    assert "belongs to the model" in wrong
    refused = run("view", "runs", "--export", "p", "--port", 80, "--no-browser", code=2)
    assert "nothing is served. Leave out --port, --browser/--no-browser" in refused
    assert "Leave out --atoms" in run("view", "runs", "--no-browser", "--atoms", 3, code=2)
    assert "different models (model, other)" in run("view", "runs", "--no-browser", "--model", "other", code=2)


def test_without_the_extra_it_says_what_to_install(run, built, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "fastapi" else found(name))
    assert "pip install 'itda[view]'" in run("view", "runs/model", code=2)
