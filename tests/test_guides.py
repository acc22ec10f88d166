"""What the guides show runs as written; those of the site with cells are run as it is built."""

import json
from pathlib import Path

import pytest

import itda
from support.guides import blocks, run_commands, run_python


@pytest.mark.long
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


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_guide_to_other_tools_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_python("docs/ecosystem.md")
    printed = capsys.readouterr().out
    assert "blocks.3.hook_resid_post True" in printed
    assert "recording[" in printed
    assert list(Path("log").glob("events*"))


@pytest.mark.long
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
