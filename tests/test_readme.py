"""Every command and snippet of the README runs as written; so do the examples, in order."""

import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

import itda
from itda.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language, page="README.md"):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def run_python(page, names=None):
    """Every block of Python on a page, one after the other; the names they leave."""
    names = {} if names is None else names
    for block in blocks("python", page):
        exec(compile(block, page, "exec"), names)
    return names


def run_commands(lines, monkeypatch, capsys):
    """Every one ends well and says something."""
    for line in lines:
        monkeypatch.setattr(sys, "argv", shlex.split(line.removeprefix("$ ")))
        with pytest.raises(SystemExit) as stopped:
            main()
        output = capsys.readouterr()
        assert stopped.value.code == 0, (line, output.err)
        assert output.out.strip(), line


@pytest.mark.documentation
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


@pytest.mark.documentation
def test_the_commands_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = [
        line.removeprefix("$ ") for block in blocks("console") for line in block.splitlines() if line.startswith("$")
    ]
    commands = [line for line in lines if line.startswith("itda ")]
    assert len(commands) == len(lines) - 1  # all but `pip install .`, which .ci/run does
    # test_real_models runs the demo in a process of its own
    run_commands([line for line in commands if line != "itda demo"], monkeypatch, capsys)


@pytest.mark.documentation
def test_the_guide_to_steering_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = run_python("docs/steering.md")
    printed = capsys.readouterr().out
    assert "1 is the median norm" in printed
    assert "of the vector is in none of these atoms" in printed
    assert "trouble" in printed
    names["dictionary"].save_pretrained("runs/l3")
    pairs = [{"positive": first, "negative": second} for first, second in names["pairs"]]
    contrasts = [dict(zip(("prompt", "target", "opposite"), one, strict=True)) for one in names["contrasts"]]
    for file, content in (("pairs", pairs), ("contrasts", contrasts)):
        Path(f"{file}.jsonl").write_text("\n".join(map(json.dumps, content)))
    run_commands(blocks("console", "docs/steering.md")[0].splitlines(), monkeypatch, capsys)


@pytest.mark.documentation
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_guide_to_other_tools_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_python("docs/ecosystem.md")
    printed = capsys.readouterr().out
    assert "blocks.3.hook_resid_post True" in printed
    assert "recording[" in printed
    assert list(Path("log").glob("events*"))


@pytest.mark.documentation
def test_the_guides_to_large_models_and_to_viewing_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_commands(blocks("console", "docs/scaling.md")[0].splitlines(), monkeypatch, capsys)
    Path("runs/in-parts").rename("runs/l3")
    commands = blocks("console", "docs/viewing.md")[0].splitlines()
    run_commands([f"{command} --tokens 3000" for command in commands], monkeypatch, capsys)  # 100,000 take minutes
    corpus = itda.Corpus.from_texts([document.text for document in itda.Corpus.embedded()][:40])
    names = {"dictionary": itda.Dictionary.from_pretrained("runs/l3"), "model": itda.load_model(), "corpus": corpus}
    run_python("docs/viewing.md", names)
    assert Path("density.svg").stat().st_size > 1000
    assert Path("map.png").stat().st_size > 1000


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


@pytest.mark.documentation
@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_examples_run(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples" / script), run_name="__main__")
    assert "unexplained" in capsys.readouterr().out
