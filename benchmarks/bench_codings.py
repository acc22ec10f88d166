"""What a way to make codes costs in fidelity and gives in readability: each with a dictionary built for it.

python benchmarks/bench_codings.py [MODEL ...] [--seeds 3]

Readability is the lift of `itda.read_atoms` over the token, stability the energy that stays with noise of a twentieth.
What was measured is kept in benchmarks/results/cells, so a run that was stopped goes on.
"""

import argparse
import statistics
from dataclasses import replace
from typing import Any

from bench_fidelity import COSINE_GAPS, best_paper
from cases import CASES, Case
from cells import Cell, Cells
from common import report
from scoring import of_dictionary

import itda
from itda.pursuit import default_coding

SHARE = 0.06
CODINGS: dict[str, dict[str, Any]] = {
    "plain": {"method": "mp"},
    "refit": {"method": "mp", "refit": True},
    "orthogonal": {"method": "omp"},
    "orthogonal, non-negative": {"method": "omp", "nonnegative": True},
    "plain, non-negative": {"method": "mp", "nonnegative": True},
}
VARYING = ("orthogonal", "orthogonal, non-negative")
"""Measured too with up to twice as many atoms where a row needs them, as many in the mean; so is the default."""
MEASURED = ("fvu", "residual_fvu", "delta_ce", "l0", "lift", "source", "negative_energy", "stable")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(CASES))
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    cells = Cells("codings")
    for name in asked.models:
        for seed in range(asked.seeds):
            measure(Case(name, seed), cells)
    report("codings", summary(cells.all), share=SHARE)


def measure(case: Case, cells: Cells) -> None:
    """Measure what is missing of one model and seed."""
    steps = case.steps(SHARE)
    facts = case.facts(steps)
    ways: list[tuple[str, str, itda.Coding, dict[str, Any]]] = [
        (f"paper, gap {gap}", "plain", itda.Coding(steps=steps), {"method": "paper", "max_cosine_gap": gap})
        for gap in COSINE_GAPS
    ]
    of_codings = {name: itda.Coding(steps=steps, **options) for name, options in CODINGS.items()}
    of_codings |= {f"{name}, varying": replace(of_codings[name], most=2 * steps) for name in VARYING}
    ways += [("budget", name, coding, {"method": "budget"}) for name, coding in of_codings.items()]
    ways.append(("mixture", "orthogonal, non-negative, varying", default_coding(steps), {"method": "mixture"}))
    missing = [way for way in ways if not cells.where(**facts, method=way[0], coding=way[1])]
    if not missing:
        return
    held_out = itda.capture(case.model, case.held_out, case.activations.site, progress=False)
    for method, name, coding, options in missing:
        dictionary = itda.build_from_activations(
            case.activations, atoms=case.atoms, coding=coding, seed=case.seed, progress=False, **options
        )
        scores = case.place.scores(of_dictionary(dictionary))
        read = itda.read_atoms(dictionary, held_out, seed=case.seed)
        stays = itda.compare_codes(dictionary, held_out, noise=(0.05,)).changes["noise of 0.05"]
        meaning = {"lift": read.lift, "source": read.means["source"], "negative_energy": read.negative_energy}
        cells.add(**facts, method=method, coding=name, **scores, **meaning, stable=stays.energy)
    print(f"{case.name}, seed {case.seed}: codings", flush=True)


def summary(cells: list[Cell]) -> list[Cell]:
    """Medians over seeds, and fidelity as shares of paper's best; paper mode itself at its best threshold for FVU."""
    best = [
        {**cell, "method": "paper"}
        for cell in cells
        if cell["method"].startswith("paper") and cell["fvu"] == best_paper(cells, cell, "fvu")
    ]
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in [*best, *(cell for cell in cells if not cell["method"].startswith("paper"))]:
        groups.setdefault((cell["model"], cell["method"], cell["coding"]), []).append(cell)
    rows = []
    for (model, method, coding), group in sorted(groups.items(), key=lambda item: list(CASES).index(item[0][0])):
        row: Cell = {"model": model, "steps": group[0]["steps"], "method": method, "coding": coding}
        for score in MEASURED:
            values = [cell[score] for cell in group if score in cell]
            row[score] = statistics.median(values) if values else ""
            if score in ("fvu", "delta_ce"):
                ratios = [cell[score] / best_paper(cells, cell, score) for cell in group if score in cell]
                row[f"{score} / paper"] = statistics.median(ratios) if ratios else ""
        rows.append({**row, "seeds": len(group)})
    return rows


if __name__ == "__main__":
    main()
