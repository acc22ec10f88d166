"""What a pursuit costs: in units of the one matrix product X D^T that any exact method must do, and against peers.

python benchmarks/bench_pursuit.py [sizes] [peers] [curves] [memory]

Every ratio is the median over runs of the two things side by side. Compiling is not counted: each is
run once before. Peers (`pip install 'itda[peers]'`) run their own code; those that take seconds a row are
timed on fewer rows, and the table says on how many.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import plain
import torch
from common import RESULTS, report
from torch import Tensor

from itda.pursuit import Coding, prepare, pursue
from itda.pursuit.buffers import empty

ROWS, STEPS = 512, 40
BARS = {(384, 4096): 3.0, (768, 16384): 1.6, (2048, 16384): 1.3, (4096, 32768): 1.5}
PAIRS, PLAIN_PAIRS, SLOW_PAIRS = 15, 7, 3
DOCS = Path(__file__).parent.parent / "docs"


def activations(width: int, atoms: int, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    """Rows and unit atoms with a common low-rank part, as those of a model have."""
    generator = torch.Generator().manual_seed(0)
    rank = max(1, width // 8)
    shared = torch.randn(rank, width, generator=generator)

    def draw(count: int) -> Tensor:
        inside = torch.randn(count, rank, generator=generator) @ shared
        return inside.add_(torch.randn(count, width, generator=generator), alpha=0.3 * rank**0.5)

    return draw(rows), torch.nn.functional.normalize(draw(atoms), dim=1)


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def ratio(work: Callable[[], Any], unit: Callable[[], Any], pairs: int) -> tuple[float, float]:
    """Median of work / unit over runs side by side, and the median seconds of the unit."""
    work(), unit()
    times = [(seconds(unit), seconds(work)) for _ in range(pairs)]
    return statistics.median(second / first for first, second in times), statistics.median(t for t, _ in times)


def product(rows: Tensor, atoms: Tensor) -> Callable[[], Any]:
    """X D^T into a buffer that is there already: a fresh one would cost the floor twice the time."""
    out = empty(len(rows), len(atoms))
    return lambda: torch.mm(rows, atoms.T, out=out)


def sizes() -> None:
    found = []
    for (width, count), bar in BARS.items():
        found.append(size(width, count, bar))
        print(found[-1], flush=True)
    report("pursuit", found, rows_at_once=ROWS, steps=STEPS, pairs=PAIRS, plain_pairs=PLAIN_PAIRS)


def size(width: int, count: int, bar: float) -> dict[str, Any]:
    rows, atoms = activations(width, count)
    started = time.perf_counter()
    prepared = prepare(atoms, memory="8GiB")
    preparing = time.perf_counter() - started
    floor = product(rows, prepared.atoms)
    ours, one = ratio(lambda: pursue(rows, prepared, steps=STEPS), floor, PAIRS)
    slow, _ = ratio(
        lambda: plain.pursuit(rows, prepared.atoms, STEPS), lambda: pursue(rows, prepared, steps=STEPS), PLAIN_PAIRS
    )
    others = {}
    if width <= 768:
        for name, options in METHODS.items():
            method = Coding(steps=STEPS, **options)
            others[name] = ratio(partial(pursue, rows, prepared, method), floor, SLOW_PAIRS)[0]
    return {
        "D": width,
        "A": count,
        "one product, ms": 1e3 * one,
        "itda / product": ours,
        "bar": bar,
        "plain / itda": slow,
        **{name: others.get(name, "") for name in METHODS},
        "prepare, s": preparing,
        "route": pursue(rows[:1], prepared, steps=STEPS).route,
    }


METHODS: dict[str, dict[str, Any]] = {
    "mp refit": {"refit": True},
    "mp >= 0": {"nonnegative": True},
    "gp": {"method": "gp"},
    "omp": {"method": "omp"},
    "omp >= 0": {"method": "omp", "nonnegative": True},
}


def peers() -> None:
    found = []
    for width, count in BARS:
        for row in against_peers(width, count):
            found.append(row)
            print(row, flush=True)
    report("pursuit_peers", found, rows_at_once=ROWS, steps=STEPS, pairs=SLOW_PAIRS)


def against_peers(width: int, count: int) -> Iterator[dict[str, Any]]:
    rows, atoms = activations(width, count)
    prepared = prepare(atoms, memory="8GiB")
    for name, peer, options, few in (
        ("sae-lens MatchingPursuitSAE.encode", sae_lens, {"nonnegative": True}, ROWS if width < 4096 else 64),
        ("spams-bin omp", spams_omp, {"method": "omp"}, ROWS),
        ("scikit-learn orthogonal_mp_gram", scikit_learn, {"method": "omp"}, 2),
    ):
        if name.startswith("scikit") and count > 16384:
            continue  # it copies its Gram matrix for every row: 8 GB here
        method, theirs = peer(prepared.atoms), []
        same = partial(pursue, rows, prepared, Coding(steps=STEPS, **options))
        plainly = partial(pursue, rows, prepared, steps=STEPS)
        same(), plainly(), method(rows, min(few, 2))
        for _ in range(SLOW_PAIRS):
            own, ours = seconds(same), seconds(plainly)
            other = method(rows, few) / few * ROWS
            theirs.append((other / own, other / ours, other))
        middle = [statistics.median(column) for column in zip(*theirs, strict=True)]
        yield {
            "D": width,
            "A": count,
            "peer": name,
            "its rows": few,
            "its seconds for 512 rows": middle[2],
            "peer / itda, same method": middle[0],
            "peer / itda, matching pursuit": middle[1],
        }


def sae_lens(atoms: Tensor) -> Callable[[Tensor, int], float]:
    from sae_lens.saes.matching_pursuit_sae import MatchingPursuitSAE, MatchingPursuitSAEConfig

    config = MatchingPursuitSAEConfig(
        d_in=atoms.shape[1], d_sae=len(atoms), residual_threshold=0.0, max_iterations=STEPS,
        stop_on_duplicate_support=False, apply_b_dec_to_input=False,
    )  # fmt: skip
    sae = MatchingPursuitSAE(config)
    sae.W_dec.data = atoms.clone()

    def run(rows: Tensor, few: int) -> float:
        with torch.no_grad():
            return seconds(partial(sae.encode, rows[:few]))

    return run


def scikit_learn(atoms: Tensor) -> Callable[[Tensor, int], float]:
    """With its Gram matrix made beforehand, and in float32, which it takes."""
    from sklearn.linear_model import orthogonal_mp_gram

    gram: list[Any] = []

    def run(rows: Tensor, few: int) -> float:
        if not gram:
            gram.append((atoms @ atoms.T).numpy())
        return seconds(lambda: orthogonal_mp_gram(gram[0], (atoms @ rows[:few].T).numpy(), n_nonzero_coefs=STEPS))

    return run


def spams_omp(atoms: Tensor) -> Callable[[Tensor, int], float]:
    """It makes its Gram matrix at every call: what one row takes is taken off, which leaves the pursuit."""
    import numpy as np
    import spams

    columns = np.asfortranarray(atoms.numpy().T)

    def run(rows: Tensor, few: int) -> float:
        both = [np.asfortranarray(rows[:count].numpy().T) for count in (1, few)]
        one, all_rows = (seconds(lambda x=x: spams.omp(x, columns, L=STEPS, numThreads=-1)) for x in both)
        return max(all_rows - one, 1e-9)

    return run


def curves() -> None:
    base = {"N": ROWS, "D": 768, "A": 4096, "K": STEPS, "threads": torch.get_num_threads()}
    axes = {
        "N": [8, 32, 128, 512, 2048, 8192],
        "D": [128, 384, 768, 1536, 3072],
        "A": [512, 1024, 2048, 4096, 8192, 16384],
        "K": [4, 8, 16, 32, 64, 128],
        "threads": list(range(1, torch.get_num_threads() + 1)),
    }
    found = []
    for axis, values in axes.items():
        for value in values:
            point = {**base, axis: value}
            found.append({"varied": axis, **point, **cost(point)})
    report("pursuit_curves", found)
    plot(found)


def cost(point: dict[str, int]) -> dict[str, float]:
    rows, atoms = activations(point["D"], point["A"], point["N"])
    prepared = prepare(atoms)
    before = torch.get_num_threads()
    torch.set_num_threads(point["threads"])
    times, unit = ratio(lambda: pursue(rows, prepared, steps=point["K"]), product(rows, prepared.atoms), 7)
    torch.set_num_threads(before)
    return {"itda / product": times, "us a row": 1e6 * times * unit / point["N"]}


SHOWN = (
    ("itda / product", "times one product X Dᵀ", (0.5, 1, 2, 4, 8)),
    ("us a row", "microseconds a row", (10, 20, 50, 100, 200)),
)


def plot(found: list[dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "itda"
    from matplotlib import pyplot

    names = {"N": "rows N", "D": "width D", "A": "atoms A", "K": "steps K", "threads": "threads"}
    figure, axes = pyplot.subplots(2, len(names), figsize=(15, 5.2), sharey="row", layout="constrained")
    for column, (axis, name) in enumerate(names.items()):
        points = [row for row in found if row["varied"] == axis]
        for row, (what, label, ticks) in enumerate(SHOWN):
            panel = axes[row][column]
            panel.plot([point[axis] for point in points], [point[what] for point in points], "o-", color="#1f6f8b")
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            panel.grid(alpha=0.3)
            panel.set_xticks([point[axis] for point in points], [f"{point[axis]:,}" for point in points], fontsize=8)
            panel.minorticks_off()
            if row == 0:
                panel.axhline(1, color="#999", linewidth=1)
            else:
                panel.set_xlabel(name)
            if column == 0:
                panel.set_ylabel(label)
    base = "N = 512, D = 768, A = 4096, K = 40, two threads, where not varied"
    figure.suptitle(f"Cost of a matching pursuit ({base})", fontsize=11)
    figure.savefig(DOCS / "pursuit_cost.svg", metadata={"Date": None})


MEASURE_MEMORY = """
import json, sys, torch
sys.path.insert(0, "benchmarks")
from bench_pursuit import activations
from itda.pursuit import prepare, pursue
def kilobytes(name): return 1024 * int(open("/proc/self/status").read().split(name)[1].split()[0])
rows_in_all, width, count, steps = map(int, sys.argv[1:])
part, atoms = activations(width, count)
pursue(part[:600, :], prepare(atoms[:1100]), steps=steps)  # loads the kernel and the threads of the products
before = kilobytes("VmRSS:")
rows = torch.empty((rows_in_all, width))
for start in range(0, rows_in_all, len(part)):
    rows[start : start + len(part)] = part[: rows_in_all - start]
prepared = prepare(atoms)
codes = pursue(rows, prepared, steps=steps)
output = sum(t.numel() * t.element_size() for t in (codes.atoms, codes.coefficients, codes.unexplained, codes.cosine))
gram = prepared.gram.buffer.numel() * prepared.gram.buffer.element_size()
above = kilobytes("VmHWM:") - before - rows.numel() * 4 - gram - output
print(json.dumps({"input": rows.numel() * 4, "gram": gram, "output": output, "above": above}))
"""


def memory() -> None:
    found = []
    for width, count in ((384, 4096), (768, 16384)):
        rows = 1_000_000 if width == 384 else 250_000
        command = [sys.executable, "-c", MEASURE_MEMORY, *map(str, (rows, width, count, STEPS))]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        sizes_in_mb = {name: value / 1e6 for name, value in json.loads(done.stdout).items()}
        found.append(
            {
                "rows": rows, "D": width, "A": count,
                **{f"{name}, MB": sizes_in_mb[name] for name in ("input", "gram", "output")},
                "above input, matrix and output, MB": sizes_in_mb["above"], "bar, MB": 256,
            }
        )  # fmt: skip
    report("pursuit_memory", found, steps=STEPS)


def main() -> None:
    parts = {"sizes": sizes, "peers": peers, "curves": curves, "memory": memory}
    for name in sys.argv[1:] or parts:
        parts[name]()


if __name__ == "__main__":
    RESULTS.mkdir(exist_ok=True)
    main()
