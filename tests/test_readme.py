"""Every command and snippet of the README runs as written; so do the examples, in order."""

import re
import runpy

import pytest

from support.guides import ROOT, blocks, run_commands, run_python

README = (ROOT / "README.md").read_text()


@pytest.mark.long
def test_the_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = run_python("README.md")
    printed = capsys.readouterr().out
    assert "CE score" in printed
    assert "ValueError" in printed
    assert (tmp_path / "runs" / "first" / "itda.json").exists()
    assert names["codes"].atoms.shape == (2000, names["dictionary"].coding.places)
    assert names["rows"].shape == (2000, 128)
    assert len(blocks("python")[0].strip().splitlines()) <= 10


@pytest.mark.long
def test_the_commands_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = [
        line.removeprefix("$ ") for block in blocks("console") for line in block.splitlines() if line.startswith("$")
    ]
    commands = [line for line in lines if line.startswith("itda ")]
    assert len(commands) == len(lines) - 1  # all but `pip install .`, which .ci/run does
    # test_real_models runs the demo in a process of its own
    run_commands([line for line in commands if line != "itda demo"], monkeypatch, capsys)


def test_what_it_names_is_there():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make (\w+)`", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    assert "pip install" in (ROOT / ".ci" / "run").read_text().replace("pip install --quiet", "pip install")


def test_the_picture_was_made_by_the_code():
    picture = (ROOT / "docs" / "explained.svg").read_text()
    assert "resid_post.3" in picture.replace("&#160;", " ")
    assert "http" not in picture.replace("http://www.w3.org", "").replace("https://www.textualize.io", "")


@pytest.mark.long
@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_examples_run(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples" / script), run_name="__main__")
    assert "unexplained" in capsys.readouterr().out
