"""What a pursuit costs on a GPU: tokens a second against the plain method and against the product alone.

python benchmarks/bench_gpu.py

Needs CUDA and triton.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import plain
import torch
from common import report
from torch import Tensor

from itda.pursuit import Codes, Coding, default_coding, prepare, pursue

CASES = ((2304, 16384, 40, 16384), (4096, 65536, 64, 8192))  # D, A, K, rows at a time
PRODUCTS = ("float32", "tf32", "bfloat16", "float16")
RUNS = 5


def activations(width: int, atoms: int, rows: int) -> tuple[Tensor, Tensor]:
    """Rows and unit atoms with a common low-rank part, as those of a model have."""
    torch.manual_seed(0)
    rank = width // 8
    shared = torch.randn(rank, width, device="cuda")

    def draw(count: int) -> Tensor:
        inside = torch.randn(count, rank, device="cuda") @ shared
        return inside + 0.3 * rank**0.5 * torch.randn(count, width, device="cuda")

    return draw(rows), torch.nn.functional.normalize(draw(atoms), dim=1)


def seconds(work: Callable[[], Any]) -> float:
    work()
    times = []
    for _ in range(RUNS):
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def same_choice(codes: Codes, exact: Codes) -> dict[str, float]:
    """How far the choice is that of float32 products."""
    same = (codes.atoms == exact.atoms).double()
    return {
        "first atom the same": float(same[:, 0].mean()),
        "all atoms the same": float(same.mean()),
        "unexplained": float(codes.unexplained.mean()),
        "more than float32": float(codes.unexplained.mean() - exact.unexplained.mean()),
    }


def measured(width: int, count: int, steps: int, many: int) -> list[dict[str, Any]]:
    """Every route and precision at one size."""
    rows, atoms = activations(width, count, many)
    few = rows[:1024]
    floor = {
        "bfloat16": seconds(partial(torch.mm, rows.bfloat16(), atoms.bfloat16().T)),
        "float32": seconds(partial(torch.mm, rows, atoms.T)),
    }
    slow = seconds(partial(plain.pursuit, few, atoms, steps)) * many / len(few)
    codings = {"plain": Coding(steps=steps), "default": default_coding(steps)}
    of = {"plain": rows, "default": few}
    exact = {name: pursue(of[name], prepare(atoms), coding) for name, coding in codings.items()}

    def row(name: str, memory: str, products: str) -> dict[str, Any]:
        prepared = prepare(atoms, memory=memory, products=products)
        took = seconds(partial(pursue, of[name], prepared, codings[name])) * many / len(of[name])
        codes = pursue(of[name], prepared, codings[name])
        return {
            "D": width,
            "A": count,
            "K": steps,
            "coding": name,
            "route": codes.route,
            "tokens a second": many / took,
            "plain method / itda": slow / took if name == "plain" else "",
            "itda / bfloat16 product": took / floor["bfloat16"],
            "itda / float32 product": took / floor["float32"],
            **same_choice(codes, exact[name]),
        }

    memories = ("64GiB", f"{3 * count**2}")  # float32 Gram matrix, then 16 bits
    found = [row("plain", memory, products) for memory in memories for products in PRODUCTS]
    return [*found, row("default", memories[0], "float32")]


def main() -> None:
    found: list[dict[str, Any]] = []
    for case in CASES:
        found += measured(*case)
        report("gpu", found, device=torch.cuda.get_device_name(), runs=RUNS)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        raise SystemExit("bench_gpu.py needs a CUDA device.")
    main()
