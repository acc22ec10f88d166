"""What the benchmarks measure with is what `evaluate` measures, and what they make of it is right."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from itda import Coding, Corpus, build, evaluate
from itda.pursuit import prepare, pursue
from support import tiny

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """A module of the benchmarks, by its name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = set(sys.modules)
    yield __import__
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("options", [{}, {"special_tokens": "keep"}])
def test_a_reconstruction_is_scored_as_a_dictionary_is_evaluated(script, llama, stories, options):
    scoring = script("scoring")
    train, held_out = stories.split(held_out=0.1)
    dictionary = build(llama, train, atoms=64, steps=2, tokens=4000, method="random", progress=False, **options)
    capture, means = dictionary.provenance.capture, dictionary.token_means
    place = scoring.HeldOut(llama, held_out, dictionary.provenance.site, capture, means, 2000)
    scores = place.scores(scoring.of_dictionary(dictionary))
    report = evaluate(dictionary, llama, held_out, tokens=2000, baselines=False, progress=False)
    for name in ("fvu", "residual_fvu", "l0", "delta_ce"):
        assert scores[name] == pytest.approx(getattr(report, name), rel=1e-4), name


def cells(**changes: Any) -> list[dict[str, Any]]:
    """Measurements of one model, of two seeds that say the same but for a factor."""
    fvu = {
        ("paper, gap 0.1", "plain"): (0.4, 0.9), ("paper, gap 0.2", "plain"): (0.5, 0.8),
        ("budget", "default"): (0.3, 0.4), ("mixture", "default"): (0.25, 0.3), ("learned", "default"): (0.2, 0.2),
        ("budget", "equal"): (0.32, 0.4), ("topk", "own"): (0.31, 0.5),
    }  # fmt: skip
    same = {"model": "one", "steps": 4, "share": 0.06, "l0": 4.0, "seconds": 2.0, "seconds_a_million": 5.0}
    return [
        {**same, "seed": seed, "method": method, "coding": coding, "delta_ce": loss * (1 + seed),
         "fvu": own * (1 + seed), "residual_fvu": 2 * own * (1 + seed), **changes}
        for seed in (0, 1) for (method, coding), (own, loss) in fvu.items()
    ]  # fmt: skip


def test_paper_mode_has_its_best_threshold_for_each_score(script):
    bench = script("bench_fidelity")
    found = {(cell["seed"], cell["fvu"], cell["delta_ce"]) for cell in bench.paper_cells(cells())}
    assert found == {(0, 0.4, 0.8), (1, 0.8, 1.6)}
    own = cells()[2]
    assert (bench.best_paper(cells(), own, "fvu"), bench.best_paper(cells(), own, "delta_ce")) == (0.4, 0.8)


def test_rows_are_medians_over_seeds_and_shares_of_the_same_seed_s_paper_mode(script):
    bench = script("bench_fidelity")
    rows = {row["method"]: row for row in bench.summary(cells())}
    assert list(rows) == ["paper", "budget", "mixture", "learned", "budget, at an L0 of K", "topk"]
    assert rows["budget"]["FVU"] == pytest.approx(0.45)
    assert rows["budget"]["FVU/paper"] == pytest.approx(0.75)
    assert rows["budget"]["dCE/paper"] == pytest.approx(0.5)
    assert rows["mixture"]["closes"] == pytest.approx(0.5)
    assert rows["budget"]["seeds"] == 2


def test_only_what_was_measured_whole_is_shown(script):
    bench = script("bench_fidelity")
    assert bench.finished(cells()) == []
    wanted = [(method, coding) for method, _ in bench.dictionaries(1) for coding in bench.codings(method)]
    whole = [{"model": "one", "seed": 1, "steps": 4, "method": method, "coding": coding} for method, coding in wanted]
    assert bench.finished(whole) == whole
    assert bench.finished(whole[1:]) == []
    beside = bench.beside_autoencoders([*cells(), *cells(model="another", method="budget")])
    assert {cell["model"] for cell in beside} == {"one"}


@pytest.mark.parametrize(
    ("fvu", "found"),
    [
        (lambda passes: 1 / passes, (1e-2, 40)),  # as many as there may be
        (lambda passes: {10: 0.5, 20: 0.4, 40: 0.399}[passes], (1e-2, 40)),
        (lambda passes: {10: 0.5, 20: 0.6, 40: 0.1}[passes], (1e-2, 10)),  # not behind a doubling that lost
    ],
)
def test_passes_are_doubled_while_that_pays(script, monkeypatch, fvu, found):
    saes = script("fidelity_saes")
    slower = {1e-2: 1.0, 3e-3: 1.5}
    monkeypatch.setattr(saes, "fvu_of", lambda case, steps, rate, passes, training: fvu(passes) * slower[rate])
    assert saes.longest(None, 4, 1e-2, 10, 40, None) == found


def test_a_slower_rate_that_ends_better_is_taken(script, monkeypatch):
    saes = script("fidelity_saes")
    ends = {1e-2: {10: 0.5, 20: 0.48, 40: 0.47}, 3e-3: {10: 0.6, 20: 0.45, 40: 0.3}}
    monkeypatch.setattr(saes, "fvu_of", lambda case, steps, rate, passes, training: ends[rate][passes])
    assert saes.longest(None, 4, 1e-2, 10, 40, None) == (3e-3, 40)


def test_thresholds_give_as_many_atoms_in_the_mean(script):
    fidelity_saes = script("fidelity_saes")
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn((500, 16), generator=generator)
    prepared = prepare(torch.nn.functional.normalize(torch.randn((64, 16), generator=generator), dim=1))

    class Case:
        class place:  # noqa: N801
            compared = rows + 3.0

    coding = fidelity_saes.equal_coding(Case, 4, torch.full((16,), 3.0), prepared)
    assert float(pursue(rows, prepared, coding).l0.double().mean()) == pytest.approx(4, abs=0.02)
    assert isinstance(coding, Coding)


def test_near_duplicates_are_left_out(script):
    controls = script("bench_controls")
    texts = [text + f" number {place}" for place, text in enumerate(tiny.KINGS)]
    copies = [text.upper() + " and more words" for text in texts[:3]]
    kept, left_out = controls.without_near_duplicates(Corpus.from_texts([*texts, *copies]), [])
    distinct, _ = controls.without_near_duplicates(Corpus.from_texts(texts), [])
    assert left_out >= 3
    assert [document.text for document in kept] == [document.text for document in distinct]
    other = "a text of quite other words than any of these are"
    kept, left_out = controls.without_near_duplicates(Corpus.from_texts([*copies, other]), list(distinct))
    assert ([document.text for document in kept], left_out) == ([other], 3)


def test_bars_say_where_they_are_missed(script):
    bars = script("bench_bars")
    rows = [
        {"model": "gpt2-wide", "K": 8, "x": 0.7},
        {"model": "gpt2-wide", "K": 15, "x": 0.9},
        {"model": "b", "x": 2.0},
    ]
    found = bars.at_most("x", "gpt2-wide", rows, "x", 0.8)
    assert (found["worst"], found["best"], found["met"], found["missed"]) == (0.9, 0.7, "1 of 2", "gpt2-wide K=15")
    found = bars.at_least("x", "all", rows, "x", 0.8)
    assert (found["worst"], found["best"], found["met"], found["missed"]) == (0.7, 2.0, "2 of 3", "gpt2-wide K=8")


def test_two_files_of_results_are_compared(tmp_path):
    def compared(*changes: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        row = {"model": "one", "K": 4, "FVU": 0.5, "s": 3.0}
        for name, change in zip(("old", "new"), ({}, *changes), strict=False):
            content = {"machine": {"cores": 2}, "rows": [{**row, **change}]}
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        files = (tmp_path / "old.json", tmp_path / "new.json")
        asked = [sys.executable, BENCHMARKS / "compare_results.py", *files]
        return subprocess.run(asked, capture_output=True, text=True, check=False)

    assert compared({"FVU": 0.51, "s": 9.0}).returncode == 0
    worse = compared({"FVU": 0.55})
    assert worse.returncode == 1
    assert "0.5000" in worse.stdout
    assert "0.5500" in worse.stdout
    assert "missing" in compared({"K": 8}).stdout
