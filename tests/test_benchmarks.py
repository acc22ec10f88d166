"""What the benchmarks measure with is what `evaluate` measures."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from itda import build, evaluate

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def scoring(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = set(sys.modules)
    import scoring

    yield scoring
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("options", [{}, {"special_tokens": "keep"}])
def test_a_reconstruction_is_scored_as_a_dictionary_is_evaluated(scoring, llama, stories, options):
    train, held_out = stories.split(held_out=0.1)
    dictionary = build(llama, train, atoms=64, steps=2, tokens=4000, method="random", progress=False, **options)
    capture, means = dictionary.provenance.capture, dictionary.token_means
    place = scoring.HeldOut(llama, held_out, dictionary.provenance.site, capture, means, 2000)
    scores = place.scores(scoring.of_dictionary(dictionary))
    report = evaluate(dictionary, llama, held_out, tokens=2000, baselines=False, progress=False)
    for name in ("fvu", "residual_fvu", "l0", "delta_ce"):
        assert scores[name] == pytest.approx(getattr(report, name), rel=1e-4), name
