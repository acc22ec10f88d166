"""Held-out worth of every way to a dictionary, at equal atoms and equal steps, on real models.

python benchmarks/bench_fidelity.py [MODEL ...] [--seeds 3]

What is in benchmarks/results/cells/fidelity.json already is not measured again, so a run that was stopped goes on;
remove the file to measure anew. "Paper" is paper mode with plain pursuit at whichever threshold is best for each score.
"""

import argparse
import json
import statistics
import time
from typing import Any

from common import DATA, RESULTS, model_folder, report
from scoring import HeldOut

import itda

# model -> texts
CASES = {
    "stories260k": ("tinystories_1000.json",),
    "babyllama-char105": ("tinystories_1000.json",),
    "babyllama-char361": ("tinystories_1000.json",),
    "seeds/gpt2-s21": ("wikitext_1000.json",),
    "gpt2-wide": ("wikitext_1000.json",),
    "minilm": ("wikitext_1000.json", "wikitext2_valid.txt"),
}
TOKENS, HELD_OUT_TOKENS = 100_000, 10_000
ATOMS_A_DIMENSION = 8
SHARES = (0.015, 0.03, 0.06, 0.12)
"""Steps in a dimension."""
COSINE_GAPS = (0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02)
METHODS = ("greedy", "budget", "mixture", "learned", "random", "kmeans", "token_means")
SCORES = ("fvu", "residual_fvu", "delta_ce")
FILE = RESULTS / "cells" / "fidelity.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(CASES))
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    cells: list[dict[str, Any]] = json.loads(FILE.read_text())["cells"] if FILE.exists() else []
    for name in asked.models:
        for seed in range(asked.seeds):
            measure(name, seed, cells)
    table = summary(cells)
    report("fidelity", table, tokens=TOKENS, held_out_tokens=HELD_OUT_TOKENS)


def measure(name: str, seed: int, cells: list[dict[str, Any]]) -> None:
    """Add what is missing for one model and seed, and keep it after every number of steps."""
    model = itda.load_model(model_folder(name))
    width = model.site(model.middle_site).width
    assert width is not None
    known = {cell["steps"] for cell in cells if (cell["model"], cell["seed"]) == (name, seed)}
    missing = sorted({max(1, round(share * width)) for share in SHARES} - known)
    if not missing:
        return
    train, held_out = corpus(name).split(held_out=0.1, seed=seed)
    activations = itda.capture(model, train, tokens=TOKENS, seed=seed, progress=False)
    place = None
    for steps in missing:
        plain, full = itda.Coding(steps=steps), itda.Coding(steps=steps, method="omp")
        variants: list[tuple[str, dict[str, Any]]] = [(method, {"method": method, "seed": seed}) for method in METHODS]
        variants += [(f"paper, gap {gap}", {"method": "paper", "max_cosine_gap": gap}) for gap in COSINE_GAPS]
        for variant, options in variants:
            paper = options["method"] == "paper"
            begin = time.perf_counter()
            dictionary = itda.build_from_activations(
                activations, atoms=ATOMS_A_DIMENSION * width, coding=plain if paper else full, progress=False, **options
            )
            seconds = time.perf_counter() - begin
            if place is None:
                assert dictionary.provenance is not None
                assert dictionary.token_means is not None
                capture = dictionary.provenance.capture
                place = HeldOut(model, held_out, activations.site, capture, dictionary.token_means, HELD_OUT_TOKENS)
            for coding in (plain,) if paper else (plain, full):
                facts = {"model": name, "seed": seed, "steps": steps, "share": round(steps / width, 4)}
                made = {"method": variant, "coding": coding.method, "atoms": len(dictionary), "seconds": seconds}
                cells.append(facts | made | place.dictionary(dictionary, coding))
        FILE.parent.mkdir(parents=True, exist_ok=True)
        FILE.write_text(json.dumps({"cells": cells}, indent=1) + "\n")
        print(f"{name}, seed {seed}, {steps} steps", flush=True)


def corpus(name: str) -> itda.Corpus:
    """The texts of a model: the encoder's are more, since one file has too few of its tokens."""
    texts: list[str] = []
    for file in CASES[name]:
        split_on = "\n = " if file.endswith(".txt") else None
        texts += [document.text for document in itda.Corpus.from_files(DATA / "text" / file, split_on=split_on)]
    return itda.Corpus.from_texts(list(dict.fromkeys(texts)))


def summary(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each model, number of steps, method and coding: medians over seeds, and as shares of paper's best."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for cell in cells:
        groups.setdefault((cell["model"], cell["steps"], cell["method"], cell["coding"]), []).append(cell)
    rows = []
    for (model, steps, method, coding), group in groups.items():
        if method.startswith("paper"):
            continue
        row = {"model": model, "steps": steps, "K/D": group[0]["share"], "method": method, "coding": coding}
        for score in SCORES:
            values = [cell[score] for cell in group if score in cell]
            ratios = [cell[score] / paper(cells, cell, score) for cell in group if score in cell]
            row[score] = statistics.median(values) if values else ""
            row[f"{score} / paper"] = statistics.median(ratios) if ratios else ""
        row["seconds"] = round(statistics.median(cell["seconds"] for cell in group), 1)
        rows.append(row)
    return rows


def paper(cells: list[dict[str, Any]], like: dict[str, Any], score: str) -> float:
    """The best score of paper mode with the same model, seed and steps, at any threshold."""
    same = ("model", "seed", "steps")
    return min(
        cell[score]
        for cell in cells
        if cell["method"].startswith("paper") and all(cell[name] == like[name] for name in same)
    )


if __name__ == "__main__":
    main()
