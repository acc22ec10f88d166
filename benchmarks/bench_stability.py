"""How much two builds have in common: other seeds, other orders of the documents, noise, a step more or less.

python benchmarks/bench_stability.py
"""

import torch
from cases import Case
from cells import Cell
from common import report

import itda
from itda.data.activations import Activations
from itda.evaluation.stability import counterparts

MODELS = ("stories260k", "babyllama-char105", "seeds/gpt2-s21", "gpt2-wide")
METHODS: dict[str, dict[str, float]] = {
    "budget": {},
    "mixture": {},
    "greedy": {},
    "paper": {"max_cosine_gap": 0.1},
    "random": {},
}
SHARE, TOKENS = 0.06, 60_000


def main() -> None:
    rows: list[Cell] = []
    for name in MODELS:
        case = Case(name, 0)
        activations = itda.capture(case.model, case.train, tokens=TOKENS, progress=False)
        held_out = itda.capture(case.model, case.held_out, activations.site, progress=False)
        for method in METHODS:
            first, again = build(case, activations, method, 0), build(case, activations, method, 0)
            others = {
                "another seed": build(case, activations, method, 1),
                "another order": build(case, shuffled(activations), method, 0),
            }
            found = itda.compare_codes(first, held_out, others=others).changes
            row: Cell = {
                "model": name,
                "method": method,
                "same seed, same bytes": first.fingerprint == again.fingerprint,
            }
            for what, other in others.items():
                if first.kind == "activations":
                    shared = set(first.sources.keys()) & set(other.sources.keys())
                    row[f"{what}: same sources"] = len(shared) / len(first)
                else:
                    row[f"{what}: same sources"] = ""
                row[f"{what}: same or alike"] = float(
                    (counterparts(first, other, signed=not first.coding.nonnegative) >= 0).double().mean()
                )
                row[f"{what}: energy kept"] = found[what].energy
            for what in ("noise of 0.05", f"{case.steps(SHARE) - 1} steps", f"{case.steps(SHARE) + 1} steps"):
                label = (
                    what if "noise" in what else ("one step less" if str(case.steps(SHARE) - 1) in what else "one more")
                )
                row[f"{label}: energy kept"] = found[what].energy
            rows.append({**row, "by chance": found["noise of 0.05"].chance})
        print(name, flush=True)
    report("stability", rows, share=SHARE, tokens=TOKENS)


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
