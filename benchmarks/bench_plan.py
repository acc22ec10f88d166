"""Are the costs that `itda plan` predicts those that are then measured? With `fit`: the constants it reckons with.

python benchmarks/bench_plan.py [fit]
"""

import os
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from common import DATA, model_folder, report
from scipy.optimize import nnls

import itda
from itda.capturing import Capture, CaptureOptions
from itda.planning import plan, this_machine
from itda.planning.costs import build_terms

GRID = tuple(product((128, 512), (512, 2048), (20_000, 60_000), (8, 32)))
TEXT = DATA / "text" / "tinystories_1000.json"
RUNS: tuple[dict[str, Any], ...] = (
    {"model": "seeds/gpt2-s21", "tokens": 50_000, "atoms": 512},
    {"model": "seeds/gpt2-s21", "tokens": 200_000, "atoms": 1024},
    {"model": "babyllama-char105", "tokens": 300_000, "atoms": 2048},
    {"model": "gpt2-wide", "tokens": 60_000, "atoms": 2048},
    {"model": "gpt2-wide", "tokens": 200_000, "atoms": 4096},
    {"model": "gpt2-wide", "tokens": 100_000, "atoms": 1024, "store": "bfloat16"},
    {"model": "gpt2-wide", "tokens": 30_000, "atoms": 1024, "from_disk": True},
    {"model": "babyllama-char105", "tokens": 150_000, "atoms": 700, "from_disk": True},
    {"model": "gpt2-wide", "tokens": 150_000, "atoms": 3000, "shards": 6, "workers": 2},
    {"model": "gpt2-wide", "tokens": 200_000, "atoms": 2048, "shards": 8, "workers": 1},
    {"model": "gpt2-wide", "tokens": 200_000, "atoms": 2048, "shards": 8, "workers": 2},
    {"model": "gpt2-wide", "tokens": 100_000, "atoms": 4096, "shards": 4, "workers": 2},
)


def fit() -> None:
    """Find the constants of a build, from rows of several widths, numbers of atoms and steps."""
    machine = this_machine()
    names = ("number", "call", "step", "change", "solve", "move", "product")
    rows_of, measured = [], []
    itda.build_from_activations(torch.randn(5000, 64), atoms=100, progress=False)  # what is compiled at first
    for width, atoms, rows, steps in GRID:
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(rows, 64, generator=generator).exp() @ torch.randn(64, width, generator=generator)
        values += torch.randn(rows, width, generator=generator)
        started = time.perf_counter()
        itda.build_from_activations(values, atoms=atoms, steps=steps, progress=False)
        measured.append(time.perf_counter() - started)
        terms = build_terms(rows, width, atoms, steps, machine)
        rows_of.append([terms[name] for name in names])
    matrix, seconds = np.array(rows_of), np.array(measured)
    constants, _ = nnls(matrix / seconds[:, None], np.ones(len(seconds)))
    for size, predicted, known in zip(GRID, matrix @ constants, seconds, strict=True):
        print(size, f"{predicted:.2f} / {known:.2f} = {predicted / known:.2f}")
    print({name: float(f"{value:.2e}") for name, value in zip(names, constants, strict=True)})


def commands(run: dict[str, Any], home: Path, site: str) -> list[list[str]]:
    """What a user would type."""
    text = [str(model_folder(run["model"])), "--corpus", str(TEXT), "--site", site, "--tokens", str(run["tokens"])]
    build = ["build", "--atoms", str(run["atoms"]), "--out", str(home / "built")]
    every = ["--held-out", "0"]
    if run.get("store"):
        store = str(home / "store")
        return [["capture", *text, *every, "--store-dtype", run["store"], "--out", store], [*build, "--store", store]]
    if run.get("from_disk"):
        every += ["--device", "disk"]
    if run.get("shards"):
        every += ["--shards", str(run["shards"]), "--workers", str(run["workers"])]
    return [[*build, *text, *every]]


def watch(command: list[str]) -> tuple[float, float]:
    """Run a command; its seconds, and the most anonymous memory of any of its processes that worked."""
    started, most = time.perf_counter(), 0.0
    process = subprocess.Popen([sys.executable, "-m", "itda", *command], stdout=subprocess.DEVNULL)
    me = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            family = [me, *(child for child in me.children(recursive=True) if "ray::_do" in child.cmdline()[:1])]
            for member in family:
                status = Path(f"/proc/{member.pid}/status").read_text()
                most = max(most, 1024 * int(status.split("RssAnon:")[1].split()[0]))
        except (psutil.Error, OSError, IndexError):  # one has just ended
            pass
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"itda {' '.join(command)} failed")
    return time.perf_counter() - started, most


def main() -> None:
    found: list[dict[str, Any]] = []
    os.environ["HF_HUB_OFFLINE"] = "1"
    for run in RUNS:
        asked = {name: value for name, value in run.items() if name != "model"}
        model = itda.load_model(model_folder(run["model"]))
        corpus = itda.Corpus.from_files(TEXT)
        text = Capture(model, corpus, [model.middle_site], CaptureOptions()).total
        asked |= {"document_tokens": text / len(corpus), "corpus_tokens": text}
        predicted = plan(model_folder(run["model"]), layer=int(model.middle_site[11:]), **asked)
        with tempfile.TemporaryDirectory() as home:
            results = [watch(command) for command in commands(run, Path(home), model.middle_site)]
            kept = sum(path.stat().st_size for path in Path(home).rglob("*") if path.is_file())
        seconds = sum(result[0] for result in results)
        memory = max(result[1] for result in results)
        disk = sum(value for name, value in predicted.disk.items() if "until" not in name)
        expected = max(predicted.worker_memory, predicted.merge_memory)
        found.append(
            {
                "run": " ".join(f"{name}={value}" for name, value in run.items()),
                "seconds": seconds, "predicted s": predicted.total_seconds, "ratio": predicted.total_seconds / seconds,
                "memory MB": memory / 1e6, "predicted MB": expected / 1e6, "ratio of memory": expected / memory,
                "disk MB": kept / 1e6, "predicted disk MB": disk / 1e6, "ratio of disk": disk / kept,
            }
        )  # fmt: skip
        print(
            {name: round(value, 2) if isinstance(value, float) else value for name, value in found[-1].items()},
            flush=True,
        )
        print("  ", {name: round(value, 1) for name, value in predicted.seconds.items()}, flush=True)
    report("plan", found)


if __name__ == "__main__":
    fit() if sys.argv[1:] == ["fit"] else main()
