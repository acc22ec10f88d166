"""A package of someone else's adds a build method, a measure, an operator and a page; broken ones do no harm."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from itda.errors import OptionError
from itda.plugins import PluginWarning, Registry

EXAMPLE = Path(__file__).parent.parent / "examples" / "plugin"
USE = """
import json, sys
import itda
from itda import compare, steer

model = itda.load_model()
corpus = itda.Corpus.embedded()
found = itda.capture(model, corpus, "resid_post.2", tokens=2000, progress=False)
dictionary = itda.build_from_activations(found, atoms=16, steps=2, method="longest", extra={"skip": 3}, progress=False)
norms = (found.rows - dictionary.mean).norm(dim=1).sort(descending=True).values
dictionary.save_pretrained(sys.argv[1])
pairs = [("good day", "bad day"), ("nice", "awful")]
vector = steer.SteeringVector.fit(model, pairs, sites=["resid_post.2"], progress=False)
ids = {"input_ids": model.tokenizer("x = 1", return_tensors="pt")["input_ids"]}
before = model.module(**ids).logits
with vector.apply(model, strength=-1.0, op="limit"):
    changed = float((model.module(**ids).logits - before).abs().max())
try:
    itda.build_from_activations(found, atoms=16, method="longest", extra={"skips": 3}, progress=False)
except itda.ItdaError as error:
    refused = str(error)
print(json.dumps({
    "first": dictionary.norms.max().item(), "norms": norms[:4].tolist(), "method": dictionary.build.method,
    "options": dict(dictionary.build.options), "measures": compare.measures(), "changed": changed, "refused": refused,
    "same": compare.similarity(found.rows, found.rows, measure="mean_cosine"),
    "described": compare.describe("mean_cosine"),
}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The environment of a process in which the example package is installed."""
    target = tmp_path_factory.mktemp("plugin")
    how = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(target)]
    command = [sys.executable, "-m", "pip", "install", *how, str(EXAMPLE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {**os.environ, "PYTHONPATH": str(target)}


@pytest.mark.long
def test_an_example_package_adds_one_of_everything(installed, tmp_path):
    command = [sys.executable, "-c", USE, str(tmp_path / "d")]
    done = subprocess.run(command, env=installed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["method"] == "longest"
    assert found["options"]["skip"] == 3
    assert found["first"] == pytest.approx(found["norms"][3], rel=1e-5)
    assert "mean_cosine" in found["measures"]
    assert found["same"] == pytest.approx(1)
    assert "Unchanged by rotations" in found["described"]
    assert found["changed"] > 0
    assert "'longest' has no option 'skips'" in found["refused"]

    def run(*arguments):
        command = [sys.executable, "-m", "itda", *map(str, arguments)]
        return subprocess.run(command, env=installed, capture_output=True, text=True, check=False)

    pages = run("view", tmp_path / "d", "--export", tmp_path / "pages", "--tokens", "500", "--atoms", "4")
    assert pages.returncode == 0, pages.stderr
    page = (tmp_path / "pages" / "d" / "d" / "views" / "tokens.html").read_text()
    assert "<h1>Atoms by token</h1>" in page
    assert "<td>" in page
    assert 'href="views/tokens.html"' in (tmp_path / "pages" / "d" / "d" / "index.html").read_text()
    built = run("build", "--atoms", "16", "--tokens", "500", "--method", "longest", "--out", tmp_path / "e")
    assert built.returncode == 0, built.stderr


def entry(folder, group, lines):
    """A package in a folder that adds something, as an installer leaves it."""
    info = folder / "other-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{lines}\n")


def test_broken_packages_do_no_harm(tmp_path, monkeypatch):
    entry(tmp_path, "itda.things", "one = other_thing:ONE\nbad = other_thing:BAD\ngone = no_such_module:X\nours = x:y")
    (tmp_path / "other_thing.py").write_text("ONE = 1\nBAD = 'text'\n")
    monkeypatch.syspath_prepend(tmp_path)

    def accept(name, added):
        if not isinstance(added, int):
            raise TypeError("it must be a number")
        return added

    things = Registry("itda.things", {"ours": 0}, accept)
    with pytest.warns(PluginWarning, match="other adds 'ours' to itda.things, a name that is taken"):
        assert list(things) == ["ours", "one", "bad", "gone"]
    assert (things["ours"], things["one"], len(things)) == (0, 1, 4)
    with pytest.raises(OptionError, match="'bad' is added by the package other and cannot be used: .*must be a number"):
        things["bad"]
    with pytest.raises(OptionError, match="'gone'.*ModuleNotFoundError"):
        things["gone"]
    with pytest.raises(KeyError):
        things["none"]
    assert "none" not in things
