"""What an atom does to the predictions, for every way to one: left out wherever a code has it.

python benchmarks/bench_effects.py

Atoms are drawn as often as codes use them. `random` takes a random direction off instead, as far: an atom that does no
more than that is no more than a direction of that length.
What was measured is kept in benchmarks/results/cells, so a run that was stopped goes on.
"""

import statistics
from typing import Any

from bench_controls import METHODS as OPTIONS
from bench_controls import PLAIN
from cases import CASES, Case
from cells import Cells
from common import report

import itda

METHODS = ("budget", "mixture", "learned", "paper", "random")
SHARE, TOKENS, ATOMS = 0.06, 60_000, 32


def main() -> None:
    cells = Cells("effects")
    models = [name for name in CASES if name != "minilm"]  # it predicts no token
    for name in models:
        missing = [method for method in METHODS if not cells.where(model=name, method=method)]
        if not missing:
            continue
        case = Case(name, 0)
        rows = itda.capture(case.model, case.train, tokens=TOKENS, progress=False)
        for method in missing:
            cells.add(model=name, method=method, **measured(case, rows, method))
        print(name, flush=True)
    found = [cell for name in models for method in METHODS for cell in cells.where(model=name, method=method)]
    for cell in found:
        del cell["commit"]
    report("effects", found, share=SHARE, tokens=TOKENS, atoms=ATOMS)


def measured(case: Case, rows: itda.Activations, method: str) -> dict[str, Any]:
    """The effects of some atoms of a dictionary, as means and medians over atoms."""
    steps = case.steps(SHARE)
    coding = {"coding": itda.Coding(steps=steps)} if method in PLAIN else {"steps": steps}
    options = {"method": method, **OPTIONS[method], **coding}
    dictionary = itda.build_from_activations(rows, atoms=case.atoms, progress=False, **options)
    effects = itda.ablate(dictionary, case.model, case.held_out, count=ATOMS, progress=False).atoms
    return {
        "atoms": len(effects),
        "KL": statistics.fmean(effect.kl for effect in effects),
        "random": statistics.fmean(effect.kl_random for effect in effects),
        "times random": statistics.median(effect.lift for effect in effects),
        "more than random": statistics.fmean(effect.kl > effect.kl_random for effect in effects),
        "KL later": statistics.fmean(effect.kl_later for effect in effects),
        "dCE": statistics.fmean(effect.delta_ce for effect in effects),
    }


if __name__ == "__main__":
    main()
