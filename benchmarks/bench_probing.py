"""What a few atoms say about a text, beside paper mode and an autoencoder: probes on labelled texts, and readability.

python benchmarks/bench_probing.py [MODEL ...] [--texts 2000]

Needs what bench_fidelity.py has measured of these models: paper mode's best threshold, and trained autoencoders.
"""

import argparse
from typing import Any

from bench_fidelity import best_paper
from cases import Case
from cells import Cells
from common import DATA, report
from fidelity_saes import SWEPT_AT, converged, train

import itda

SETS = {"sst2": "stsa.binary.train", "trec": "TREC.train.all"}
SIZES = ("1", "2", "5", "all")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["minilm"])
    parser.add_argument("--texts", type=int, default=2000)
    asked = parser.parse_args()
    found: list[dict[str, Any]] = []
    for name in asked.models:
        case = Case(name, seed=0)
        steps = case.steps(SWEPT_AT)
        own, others = made(case, steps)
        for labelled in SETS:
            texts, labels = read(labelled, asked.texts)
            result = itda.probe(own, case.model, texts, labels, others=others, progress=False)
            print(f"{name}, {labelled}\n{result}", flush=True)
            for features, probed in result.features.items():
                accuracy = {f"best {size}": round(probed.accuracy[size], 4) for size in SIZES}
                ahead = {f"ahead {size}": interval(probed.advantage.get(size)) for size in SIZES}
                found.append({"model": name, "set": labelled, "features": features, **accuracy, **ahead})
    report("probing", found, steps_in_a_dimension=SWEPT_AT, texts=asked.texts)


def made(case: Case, steps: int) -> tuple[itda.Dictionary, dict[str, Any]]:
    """The default dictionary, and all that it is measured beside."""

    def build(**options: Any) -> itda.Dictionary:
        how = options if "coding" in options else {"steps": steps, **options}
        return itda.build_from_activations(case.activations, atoms=case.atoms, progress=False, **how)

    cells = Cells("fidelity").where(**case.facts(steps))
    best = best_paper(cells, cells[0], "fvu")
    gap = next(float(cell["method"].split()[-1]) for cell in cells if cell["fvu"] == best and "gap" in cell["method"])
    rate, passes = converged(case, steps, Cells("autoencoder_training"))
    trained = train(case, "topk", steps, rate, passes)

    others = {
        "mixture": build(method="mixture"),
        "signed": build(coding=itda.Coding(steps=steps, method="omp")),
        f"paper mode, gap {gap}": build(method="paper", max_cosine_gap=gap),
        f"TopK SAE, {passes} passes": trained.features,
    }
    return build(), others


def read(name: str, count: int) -> tuple[list[str], list[str]]:
    """Some of the labelled texts, evenly; every line is a label and a text."""
    lines = (DATA / "labelled" / name / SETS[name]).read_text(encoding="utf-8", errors="replace").splitlines()
    lines = [line for line in lines if len(line.split()) > 1]
    some = lines[:: max(1, len(lines) // count)][:count]
    return [line.split(maxsplit=1)[1] for line in some], [line.split(maxsplit=1)[0] for line in some]


def interval(ahead: tuple[float, float] | None) -> str:
    """As a table has it."""
    return f"{ahead[0]:+.3f} to {ahead[1]:+.3f}" if ahead else ""


if __name__ == "__main__":
    main()
