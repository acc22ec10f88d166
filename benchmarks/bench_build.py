"""What building costs against a plain transcription of the paper's rule, on 100,000 activations of a real encoder.

python benchmarks/bench_build.py
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import plain
import torch
from common import DATA, model_folder, report
from torch import Tensor

import itda
from itda.data.dictionary import Dictionary
from itda.pursuit import prepare, pursue, rebuild

ROWS, HELD_OUT, ATOMS, STEPS = 100_000, 10_000, 4096, 24
BLOCK = 8192  # 64 sequences of 128 tokens, as in the public code
GAPS = (0.3, 0.25, 0.2, 0.15, 0.1, 0.05)
RUNS = 3


def activations() -> tuple[Tensor, Tensor]:
    model = itda.load_model(model_folder("minilm"))
    train, held_out = itda.Corpus.from_files(DATA / "text" / "tinystories_1000.json").split(held_out=0.1, seed=0)
    return tuple(
        itda.capture(model, corpus, "resid_post.3", tokens=tokens).rows
        for corpus, tokens in ((train, ROWS), (held_out, HELD_OUT))
    )


def fvu(rows: Tensor, atoms: Tensor, mean: Tensor) -> float:
    centred = rows - mean
    rebuilt = rebuild(pursue(centred, prepare(atoms), steps=STEPS), atoms)
    spread = (rows - rows.mean(0)).double().square().sum()
    return float((centred - rebuilt).double().square().sum() / spread)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def main() -> None:
    rows, held_out = activations()
    none = torch.zeros(rows.shape[1])

    def paper(gap: float) -> Dictionary:
        return itda.build_from_activations(
            rows, method="paper", atoms=ATOMS, steps=STEPS, max_cosine_gap=gap, block=BLOCK
        )

    worth = {}
    for gap in GAPS:
        built = paper(gap)
        worth[gap] = fvu(held_out, built.atoms, built.mean)
        print(f"paper, gap {gap}: {len(built)} atoms, held-out FVU {worth[gap]:.4f}", flush=True)
        if len(built) < ATOMS:
            worth[gap] = float("inf")
    best = min(worth, key=lambda gap: worth[gap])
    plainly, atoms = timed(lambda: plain.paper_atoms(rows, ATOMS, STEPS, BLOCK, best))
    found = [
        {
            "build": f"plain transcription of the paper's rule, gap {best}",
            "atoms": len(atoms),
            "seconds": plainly,
            "share of plain": 1.0,
            "held-out FVU": fvu(held_out, atoms, none),
        }
    ]
    ways: dict[str, Callable[[], Dictionary]] = {
        "itda, greedy": lambda: itda.build_from_activations(rows, atoms=ATOMS, steps=STEPS),
        f"itda, paper's rule, gap {best}": lambda: paper(best),
    }
    for name, way in ways.items():
        runs = [timed(way) for _ in range(RUNS)]
        seconds = statistics.median(run[0] for run in runs)
        built = runs[0][1]
        found.append(
            {
                "build": name,
                "atoms": len(built),
                "seconds": seconds,
                "share of plain": seconds / plainly,
                "held-out FVU": fvu(held_out, built.atoms, built.mean),
            }
        )
    report("build", found, rows_read=len(rows), steps=STEPS, runs=RUNS)


if __name__ == "__main__":
    main()
