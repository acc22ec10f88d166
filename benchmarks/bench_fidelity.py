"""Held-out worth of every way to a dictionary, and of sparse autoencoders, at equal atoms and steps, on real models.

python benchmarks/bench_fidelity.py [MODEL ...] [--seeds 3] [--only builders|autoencoders|table]

"Paper" is paper mode with plain pursuit at whichever threshold is best for each score. Autoencoders are trained to
convergence: the rate is the best of a sweep or the next slower one, the passes over the rows are doubled until that
gains less than 2 %, or there are as many as `fidelity_saes.PASSES` allows.
Times are those of one thread, as the processor counts them, so that other work on the machine is not in them; with
a GPU, of the clock.
What was measured is kept in benchmarks/results/cells, so a run that was stopped goes on.
"""

import argparse
import statistics
from collections.abc import Iterator
from typing import Any

import torch
from cases import CASES, HELD_OUT_TOKENS, SHARES, TOKENS, Case
from cells import Cell, Cells
from common import report
from fidelity_saes import AUTOENCODERS, BY_WORTH, LARGE, SWEPT_AT, autoencoders
from fronts import draw
from scoring import of_dictionary

COSINE_GAPS = (0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02)
JUDGED = ("budget", "mixture", "learned")
"""With paper mode, what every seed is for; the others are measured with the first."""
METHODS = ("greedy", *JUDGED, "random", "kmeans", "token_means")
CALLED = {"exact": "{}, exactly K", "equal": "{}, at an L0 of K"}
"""What a method is called where every code has K atoms, not as many as the row needs and K in the mean; and where the
mean is K on the held-out text, not on rows to build from: beside autoencoders, which have K there too."""
EXACT, EQUAL = (tuple(map(name.format, JUDGED)) for name in CALLED.values())
ON_TOPK = tuple(name.format("pursuit on topk") for name in CALLED.values())
BESIDE = ("budget", "mixture", *EXACT, *EQUAL, *AUTOENCODERS, *ON_TOPK)
ORDER = ("paper", *METHODS, *EXACT, *EQUAL, *AUTOENCODERS, *ON_TOPK)
SCORES = ("fvu", "residual_fvu", "delta_ce")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(CASES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=("builders", "autoencoders", "table"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cells, training = Cells("fidelity"), Cells("autoencoder_training")
    if asked.only not in ("autoencoders", "table"):
        for seed in range(asked.seeds):  # all models once, before any is measured again
            for name in asked.models:
                builders(Case(name, seed), cells)
    if asked.only not in ("builders", "table"):
        wanted = [(name, seed) for seed in range(asked.seeds) for name in asked.models]
        cases = [Case(name, seed) for name, seed in wanted if not (seed and name in LARGE)]
        for kinds in (AUTOENCODERS[:1], AUTOENCODERS):
            for share in BY_WORTH:
                for case in cases:
                    autoencoders(case, share, kinds, cells, training)
    known = finished(cells.all)
    draw(sorted(known, key=lambda cell: list(CASES).index(cell["model"])))
    facts = {"tokens": TOKENS, "held_out_tokens": HELD_OUT_TOKENS, "threads": 1}
    report("fidelity", summary(known), **facts)
    report("autoencoders", [row for row in summary(beside_autoencoders(known)) if row["method"] in BESIDE], **facts)
    if training.all:
        report("autoencoder_training", training.all, swept_at=SWEPT_AT)


def builders(case: Case, cells: Cells, shares: tuple[float, ...] = SHARES) -> None:
    """Measure what is missing of the dictionaries of one model and seed."""
    for share in shares[bool(case.seed) :]:  # no bar is for the smallest
        facts = case.facts(case.steps(share))
        for method, options in dictionaries(case.seed):
            missing = [one for one in codings(method) if not cells.where(**facts, method=method, coding=one)]
            if not missing:
                continue
            dictionary, made = case.build(facts["steps"], **options)
            for coding in missing:
                exact = dictionary.coding.with_options(steps=facts["steps"]) if coding == "exact" else None
                scores = case.place.scores(of_dictionary(dictionary, exact))
                cells.add(**facts, method=method, coding=coding, **made, **scores)
        print(f"{case.name}, seed {case.seed}, {facts['steps']} steps: dictionaries", flush=True)


def dictionaries(seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every way to one that is measured with a seed, and the options it takes."""
    yield from ((method, {"method": method}) for method in (JUDGED if seed else METHODS))
    yield from ((f"paper, gap {gap}", {"method": "paper", "max_cosine_gap": gap}) for gap in COSINE_GAPS)


def codings(method: str) -> tuple[str, ...]:
    """The ways in which codes of a dictionary are made."""
    if method.startswith("paper"):
        return ("plain",)
    return ("default", "exact") if method in JUDGED else ("default",)


def finished(cells: list[Cell]) -> list[Cell]:
    """Those of a model, seed and number of steps of which all dictionaries were measured."""
    there: dict[tuple[Any, ...], set[tuple[str, str]]] = {}
    for cell in cells:
        there.setdefault((cell["model"], cell["seed"], cell["steps"]), set()).add((cell["method"], cell["coding"]))

    def is_there(cell: Cell) -> bool:
        wanted = {(method, coding) for method, _ in dictionaries(cell["seed"]) for coding in codings(method)}
        return wanted <= there[cell["model"], cell["seed"], cell["steps"]]

    return [cell for cell in cells if is_there(cell)]


def beside_autoencoders(cells: list[Cell]) -> list[Cell]:
    """Those of the models, seeds and numbers of steps with which a TopK autoencoder was trained too."""
    same = ("model", "seed", "steps")
    trained = {tuple(cell[name] for name in same) for cell in cells if cell["method"] == "topk"}
    return [cell for cell in cells if tuple(cell[name] for name in same) in trained]


def summary(cells: list[Cell]) -> list[Cell]:
    """A row for each model, number of steps and method: medians over seeds, and as shares of paper's best.

    The residual FVU has the FVU's ratios: both are the same error, as shares of two fixed sums.
    """
    groups: dict[tuple[str, int, str], list[Cell]] = {}
    for cell in [*paper_cells(cells), *cells]:
        name = CALLED.get(cell["coding"], "{}").format(cell["method"])
        if name in ORDER:
            groups.setdefault((cell["model"], cell["steps"], name), []).append(cell)
    rows = []
    models = list(dict.fromkeys([*CASES, *(cell["model"] for cell in cells)]))
    for (model, steps, method), group in sorted(
        groups.items(), key=lambda item: (models.index(item[0][0]), item[0][1], ORDER.index(item[0][2]))
    ):
        row: Cell = {"model": model, "K": steps, "K/D": group[0]["share"], "method": method}
        for name, score in {"FVU": "fvu", "res. FVU": "residual_fvu", "dCE": "delta_ce"}.items():
            own = [cell for cell in group if score in cell]
            row[name] = statistics.median(cell[score] for cell in own) if own else ""
            if score != "residual_fvu":
                ratios = [cell[score] / best_paper(cells, cell, score) for cell in own]
                row[f"{name}/paper"] = statistics.median(ratios) if own else ""
        row["closes"] = ""
        if method in ("mixture", EXACT[JUDGED.index("mixture")]):
            row["closes"] = statistics.median(closes(cells, cell) for cell in group)
        row["L0"] = round(statistics.median(cell["l0"] for cell in group), 2)
        row["s"] = round(statistics.median(cell["seconds"] for cell in group), 1)
        row["s/M"] = round(statistics.median(cell["seconds_a_million"] for cell in group), 1)
        row |= {name: group[0].get(name, "") for name in ("passes", "rate", "device")}
        row["seeds"] = len(group)
        rows.append(row)
    return rows


def paper_cells(cells: list[Cell]) -> list[Cell]:
    """Paper mode as one method: at the threshold that is best for each score."""
    groups: dict[tuple[str, int, int], list[Cell]] = {}
    for cell in cells:
        if cell["method"].startswith("paper"):
            groups.setdefault((cell["model"], cell["seed"], cell["steps"]), []).append(cell)
    found = []
    for group in groups.values():
        best = min(group, key=lambda cell: cell["fvu"])
        scores = {score: min(cell[score] for cell in group) for score in SCORES if score in best}
        found.append({**best, "method": "paper", **scores})
    return found


def best_paper(cells: list[Cell], like: Cell, score: str) -> float:
    """The best score of paper mode with the same model, seed and steps, at any threshold."""
    same = ("model", "seed", "steps")
    rivals = (cell for cell in cells if all(cell[name] == like[name] for name in same))
    return float(min(cell[score] for cell in rivals if cell["method"].startswith("paper")))


def closes(cells: list[Cell], like: Cell) -> float:
    """How much of the way from real activations (`budget`) to `learned` directions a dictionary goes, in FVU."""
    same = ("model", "seed", "steps", "coding")
    fvu = {cell["method"]: cell["fvu"] for cell in cells if all(cell[name] == like[name] for name in same)}
    return float((fvu["budget"] - like["fvu"]) / (fvu["budget"] - fvu["learned"]))


if __name__ == "__main__":
    main()
