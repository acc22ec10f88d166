"""How much two builds have in common: other seeds, other orders of the documents, noise, a step more or less.

python benchmarks/bench_stability.py

"Another seed" builds from the same rows, as who has captured once does; "other rows" draws these anew from the text
too, as `itda.build(seed=...)` does.
What was measured is kept in benchmarks/results/cells, so a run that was stopped goes on.
"""

import torch
from cases import CASES, Case
from cells import Cell, Cells
from common import report

import itda
from itda.data.activations import Activations
from itda.evaluation.stability import counterparts

METHODS: dict[str, dict[str, float]] = {
    "budget": {},
    "mixture": {},
    "greedy": {},
    "paper": {"max_cosine_gap": 0.1},
    "random": {},
}
SHARE, TOKENS = 0.06, 60_000


def main() -> None:
    cells = Cells("stability")
    for name in CASES:
        missing = [method for method in METHODS if not cells.where(model=name, method=method)]
        if not missing:
            continue
        case = Case(name, 0)
        activations = itda.capture(case.model, case.train, tokens=TOKENS, progress=False)
        again = itda.capture(case.model, case.train, tokens=TOKENS, seed=1, progress=False)
        held_out = itda.capture(case.model, case.held_out, activations.site, progress=False)
        for method in missing:
            cells.add(**measured(case, method, activations, again, held_out))
        print(name, flush=True)
    rows = [cell for name in CASES for method in METHODS for cell in cells.where(model=name, method=method)]
    for row in rows:
        del row["commit"]
    report("stability", rows, share=SHARE, tokens=TOKENS)


def measured(case: Case, method: str, rows: Activations, others_rows: Activations, held_out: Activations) -> Cell:
    """What one way to a dictionary keeps."""
    first = build(case, rows, method, 0)
    others = {
        "another seed": build(case, rows, method, 1),
        "other rows": build(case, others_rows, method, 1),
        "another order": build(case, shuffled(rows), method, 0),
    }
    found = itda.compare_codes(first, held_out, others=others).changes
    row: Cell = {
        "model": case.name,
        "method": method,
        "same seed, same bytes": first.fingerprint == build(case, rows, method, 0).fingerprint,
    }
    for what, other in others.items():
        shared = set(first.sources.keys()) & set(other.sources.keys())
        row[f"{what}: same sources"] = len(shared) / len(first) if first.kind == "activations" else ""
        alike = counterparts(first, other, signed=not first.coding.nonnegative) >= 0
        row[f"{what}: same or alike"] = float(alike.double().mean())
        row[f"{what}: energy kept"] = found[what].energy
    steps = case.steps(SHARE)
    shown = {"noise of 0.05": "noise of 0.05", f"{steps - 1} steps": "one step less", f"{steps + 1} steps": "one more"}
    for what, called in shown.items():
        row[f"{called}: energy kept"] = found[what].energy
    return {**row, "by chance": found["noise of 0.05"].chance}


def build(case: Case, activations: Activations, method: str, seed: int) -> itda.Dictionary:
    """A dictionary with the default coding, or the paper's own."""
    return itda.build_from_activations(
        activations, atoms=case.atoms, steps=case.steps(SHARE), method=method, seed=seed, progress=False,
        **METHODS[method],
    )  # fmt: skip


def shuffled(activations: Activations) -> Activations:
    """The same rows with the documents in another order."""
    documents = [window.document for window in activations.sources.windows]
    place = {document: number for number, document in enumerate(dict.fromkeys(documents))}
    order = torch.randperm(len(place), generator=torch.Generator().manual_seed(1))
    rank = torch.tensor([int(order[place[document]]) for document in documents])[activations.sources.window]
    rows = torch.argsort(rank, stable=True)
    return Activations(
        activations.rows[rows], activations.sources.select(rows), activations.provenance, activations.documents
    )


if __name__ == "__main__":
    main()
