"""What memory a build from a large store takes: five million rows of width 768 in bfloat16, in a process of its own.

python benchmarks/bench_store.py [ROWS]
"""

import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import report

import itda
from itda.capturing import Capture, CaptureOptions
from itda.data.activations import Block
from itda.data.sources import Sources, Window

ROWS, WIDTH, VOCABULARY, ATOMS = 5_000_000, 768, 50_257, 4096
WINDOW, BLOCK = 128, 64 * 128


def fill(folder: Path, rows: int) -> Path:
    """A store of rows as a model's are: mostly the token, and something of a few dozen directions besides."""
    store = itda.Store(folder, create=True)
    asked = Capture(itda.load_model(), itda.Corpus.embedded(), ["resid_post.2"], CaptureOptions()).asked("resid_post.2")
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(VOCABULARY, WIDTH, generator=generator)
    directions = torch.randn(96, WIDTH, generator=generator) / 8
    often = 1 / torch.arange(1, VOCABULARY + 1) ** 1.1  # as words of a language are
    documents = [f"{number:032x}" for number in range(-(-rows // (4 * WINDOW)))]
    with store.writer(asked, documents=documents, rows=rows, dtype="bfloat16") as writer:
        for first in range(0, rows, BLOCK):
            count = min(BLOCK, rows - first)
            ids = torch.multinomial(often, count, replacement=True, generator=generator)
            values = tokens[ids] + torch.randn(count, 96, generator=generator).exp() @ directions
            place = torch.arange(count)
            windows = tuple(
                Window(
                    documents[(first + start) // (4 * WINDOW)], 5 * ((first + start) % (4 * WINDOW)), "word " * WINDOW
                )
                for start in range(0, count, WINDOW)
            )
            start = 5 * ((first + place) % (4 * WINDOW))
            sources = Sources(
                first + place, place // WINDOW, start, start + 5, ids, (first + place) % (4 * WINDOW), windows, {}
            )
            writer.append(Block(values, sources), {"rows": first + count})
        counts = {"tokens": rows, "rows": rows, "special": 0, "sinks": 0}
        writer.finish(replace(asked, capture={**asked.capture, "counts": counts}))
    return folder


def watched(command: list[str]) -> tuple[float, float]:
    """Run a command; the most anonymous memory it had, in bytes, and its seconds."""
    started, most = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            most = max(most, 1024 * int(status.split("RssAnon:")[1].split()[0]))
        except (OSError, IndexError):  # it has just ended
            pass
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return most, time.perf_counter() - started


def main(rows: int) -> None:
    Path("build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir="build") as home:
        started = time.perf_counter()
        store = fill(Path(home) / "store", rows)
        filled = time.perf_counter() - started
        size = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
        print(f"{size / 1e9:.1f} GB written in {filled:.0f} s", flush=True)
        command = [
            sys.executable, "-m", "itda", "build", "--store", str(store), "--atoms", str(ATOMS), "--every", "30",
            "--out", str(Path(home) / "built"),
        ]  # fmt: skip
        most, seconds = watched(command)
        gram = ATOMS * ATOMS * 2  # in 16 bits
        found: dict[str, Any] = {
            "rows": rows, "width": WIDTH, "store GB": size / 1e9, "atoms": ATOMS, "seconds": seconds,
            "anonymous MB": most / 1e6, "Gram matrix MB": gram / 1e6, "beyond it MB": (most - gram) / 1e6,
        }  # fmt: skip
    if rows == ROWS:
        report("store_memory", [found], token_ids=VOCABULARY, seconds_between_checkpoints=30)
    else:
        print(found)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
