"""A training run through its checkpoints: when are atoms born, and does the model need them only from then on?

python benchmarks/bench_microscope.py

All checkpoints of gpt2-s21. Births with 95 % from drawing documents; every watched atom is left out at some held-out
tokens, at every checkpoint. "cost" is the rise of the loss of the next token, in nats, beyond that of leaving out as
much along another atom, among all atoms, among those that are born already, and among those that are not.
"""

import argparse
import time
from typing import Any

import numpy as np
from common import DATA, model_folder, report
from scipy.stats import spearmanr

import itda
from itda import compare
from itda.view.figures import run_curves, save

CHECKPOINTS = ("step0", "step30", "step150", "step300", "step500")
TEXTS = ("wikitext_1000.json",)
HELD_OUT_TOKENS, ALL_ATOMS = 20_000, 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--figure", help="draw the curves of layers and atoms, as SVG")
    parser.add_argument("--save", help="keep all that was seen, as JSON")
    asked = parser.parse_args()
    models = {step: model_folder(f"seeds/gpt2-s21-{step}") for step in CHECKPOINTS}
    models["step700"] = model_folder("seeds/gpt2-s21")
    corpus = itda.Corpus.from_files(*(DATA / "text" / file for file in TEXTS))
    begin = time.perf_counter()
    run = compare.follow(models, corpus, held_out_tokens=HELD_OUT_TOKENS, ablated=ALL_ATOMS, progress=False)
    seconds = time.perf_counter() - begin
    if asked.figure:
        save(run_curves(run), asked.figure)
    if asked.save:
        run.save(asked.save)
    rows = [of_checkpoint(run, index) for index in range(len(models))]
    costs = run.cost_of_birth()
    assert costs is not None
    report(
        "microscope", rows, model="seeds/gpt2-s21", site=run.site, tokens=run.tokens, documents=run.documents,
        atoms=len(run.dictionary), watched=len(run.atoms), seconds=round(seconds, 1),
        certain=float(np.mean([low == high for low, high in (atom.interval for atom in run.atoms)])),
        needed=needed(run),
        settled={measure: run.settled(measure) for measure in ("overlap", "cka")},
        cost_of_birth={name: {"mean": mean, "interval": ends} for name, (mean, ends) in costs.items()},
    )  # fmt: skip
    for name, (mean, (low, high)) in costs.items():
        print(f"{name}: {mean:.4f} ({low:.4f} to {high:.4f})")


def needed(run: compare.TrainingRun) -> dict[str, Any]:
    """Whether atoms are needed when they are told apart: the rank correlation of the dates, where both are known."""
    both = [(atom.born, atom.needed) for atom in run.atoms if atom.needed is not None]
    found = spearmanr(*zip(*both, strict=True)).statistic if len(both) > 2 else None
    return {"atoms": len(both), "rank_correlation": None if found is None else round(float(found), 3)}


def of_checkpoint(run: compare.TrainingRun, index: int) -> dict[str, Any]:
    """What is known of one: births, and what leaving atoms out costs there."""
    here = run.checkpoints[index]
    born = [atom for atom in run.atoms if atom.born == index]
    row = {
        "checkpoint": here.name, "born": len(born),
        "interval of one checkpoint": sum(atom.interval[0] == atom.interval[1] for atom in born),
        "found": float(np.mean([atom.found[index] for atom in run.atoms])),
        "told": float(np.mean([atom.told[index] for atom in run.atoms])),
        "FVU": here.fvu, "own atoms shared": here.overlap,
    }  # fmt: skip
    groups = {"all": run.atoms, "born": [atom for atom in run.atoms if atom.born <= index]}
    groups["unborn"] = [atom for atom in run.atoms if atom.born > index]
    for name, atoms in groups.items():
        costs = [own - other for own, other in (atom.costs[index] for atom in atoms if atom.costs)]
        row[f"cost, {name}"] = float(np.nanmean(costs)) if len(costs) else None
    return row


if __name__ == "__main__":
    main()
