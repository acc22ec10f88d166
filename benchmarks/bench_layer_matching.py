"""Which measures find the same layer in a network trained from another seed? And how long do all measures take?

python benchmarks/bench_layer_matching.py [--only time] [--models FOLDER ...]

All ordered pairs of three seeds of one architecture, six layers: 36 decisions. "beyond" is how much more often overlap
is right than a measure, with 95 % by drawing models; three models say little, so other texts are beside. Untrained is
the mean overlap of layers of a trained and of the untrained model: what text alone gives.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import Cells
from common import DATA, model_folder, report

import itda
from itda import compare
from itda.models.loading import Model

SEEDS = ("gpt2-s21", "gpt2-s49", "gpt2-s81")
FIVE = (*(f"seeds/{name}" for name in (*SEEDS, "gpt2-s21-step500")), "gpt2-wide")
TEXTS = {
    "wiki": ("wikitext_1000.json", None),
    "wiki, other articles": ("wikitext2_valid.txt", "\n = "),
    "stories": ("tinystories_1000.json", None),
    "War and Peace": ("war_and_peace.txt", "\nCHAPTER "),
}
TOKENS = (1_000, 10_000, 20_000, 100_000)
OWN = 20_000
"""What our preset is pinned for; other texts are read at this size."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("accuracy", "time", "table"))
    parser.add_argument("--models", type=Path, nargs="*", help="other seeds, such as those of train_seeds.py")
    asked = parser.parse_args()
    folders = asked.models or [model_folder(f"seeds/{name}") for name in SEEDS]
    name = "layer_matching_more" if asked.models else "layer_matching"
    cells = Cells(name)
    if asked.only in (None, "accuracy"):
        models = {folder.name: itda.load_model(folder) for folder in folders}
        runs = [(text, OWN) for text in TEXTS] + [("wiki", tokens) for tokens in TOKENS if tokens != OWN]
        for text, tokens in runs:
            for whiten in (False, True):
                measure(cells, models, text, tokens, whiten)
        if not (asked.models or cells.where(text="wiki", measure="untrained")):
            models["gpt2-s21-step0"] = itda.load_model(model_folder("seeds/gpt2-s21-step0"))
            matrix = compare.layer_matrix(models, corpus("wiki"), measure="overlap", tokens=OWN, progress=False)
            between = matrix.between("gpt2-s21-step0", "gpt2-s49")
            cells.add(text="wiki", measure="untrained", tokens=OWN, overlap=float(between.mean()))
    if asked.only in (None, "time") and not asked.models:
        timed()
    rows = [cell for cell in cells.all if "accuracy" in cell]
    if rows:
        seeds = [folder.name for folder in folders]
        report(name, rows, seeds=seeds, untrained=[c for c in cells.all if c["measure"] == "untrained"])


def corpus(text: str) -> itda.Corpus:
    file, split_on = TEXTS[text]
    return itda.Corpus.from_files(DATA / "text" / file, split_on=split_on)


def measure(cells: Cells, models: dict[str, Model], text: str, tokens: int, whiten: bool) -> None:
    """Every measure on one text, unless it is known."""
    if cells.where(text=text, tokens=tokens, whitened=whiten):
        return
    begin = time.perf_counter()
    found = compare.layer_matrices(models, corpus(text), tokens=tokens, whiten=whiten, progress=False)
    matched = {name: compare.match_layers(matrix) for name, matrix in found.items()}
    for name, match in matched.items():
        difference, ends = compare.paired_difference(matched["overlap"], match)
        cells.add(
            text=text, tokens=tokens, whitened=whiten, measure=name, accuracy=match.accuracy,
            low=None if match.interval is None else match.interval[0],
            high=None if match.interval is None else match.interval[1],
            beyond=difference, beyond_low=None if ends is None else ends[0],
            beyond_high=None if ends is None else ends[1], mean_miss=match.mean_miss, ties=match.ties,
            missing=match.missing, chance=match.chance,
        )  # fmt: skip
    print(
        f"{text}, {tokens} tokens, {'whitened' if whiten else 'plain'}: {time.perf_counter() - begin:.0f} s", flush=True
    )


def timed() -> None:
    """All measures between all layers of five models, from captured activations."""
    from itda.compare import layers as places
    from itda.compare.similarities import named

    models = {name: itda.load_model(model_folder(name)) for name in FIVE}
    layers = places.layers_at_common_places(
        models, corpus("wiki"), sites="resid_post", tokens=OWN, seed=0, progress=False
    )
    wanted = [named(measure) for measure in compare.measures()]
    rows: list[dict[str, Any]] = []
    for whiten in (False, True):
        begin, own = time.perf_counter(), time.process_time()
        found = places.between_layers(layers, wanted, atoms=None, whiten=whiten, progress=False)
        values = np.concatenate([matrix.values.ravel() for matrix in found.values()])
        rows.append(
            {
                "layers": len(layers), "measures": len(found), "tokens": OWN, "whitened": whiten,
                "values": len(values), "unknown": int(np.isnan(values).sum()),
                "seconds": round(time.perf_counter() - begin, 1),
                "of the processor": round(time.process_time() - own, 1),
            }
        )  # fmt: skip
    report("layer_matching_time", rows, models=FIVE, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
