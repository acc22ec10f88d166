"""Capture, build, evaluate and encode in one process, again and again: memory and file handles must not grow.

python benchmarks/soak.py [MINUTES]
"""

import gc
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from common import report

import itda
from itda.models.loading import Model

MINUTES, TOKENS, ATOMS = 30.0, 12_000, 400


def turn(model: Model, corpus: itda.Corpus, home: Path, number: int) -> None:
    """One of everything, on text of its own."""
    train, held_out = corpus.split(held_out=0.1, seed=number)
    site = f"resid_post.{number % 4}"
    stored = itda.capture(
        model, train, site, store=home / "store", tokens=TOKENS, seed=number, every=0.5, progress=False
    )
    built = itda.build_from_activations(stored, atoms=ATOMS, checkpoint=home / "checkpoint", every=0.5, progress=False)
    saved = itda.Dictionary.from_pretrained(built.save_pretrained(home / "dictionary"))
    itda.evaluate(saved, model, held_out, tokens=2000, resamples=50, progress=False)
    itda.encode(saved, model, held_out, tokens=2000, progress=False).save(home / "codes")


def main(minutes: float) -> None:
    me, model = psutil.Process(), itda.load_model()
    texts = [document.text for document in itda.Corpus.embedded()][::4]
    corpus = itda.Corpus.from_texts(texts)
    seen: list[dict[str, Any]] = []
    started = time.monotonic()
    while time.monotonic() - started < 60 * minutes:
        with tempfile.TemporaryDirectory() as home:
            turn(model, corpus, Path(home), len(seen))
        gc.collect()
        anonymous = 1024 * int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0])
        seen.append({"minute": (time.monotonic() - started) / 60, "MB": anonymous / 1e6, "handles": me.num_fds()})
        if len(seen) % 10 == 0:
            print(len(seen), seen[-1], flush=True)
    fifth = len(seen) // 5
    early, late = seen[fifth : 2 * fifth], seen[-fifth:]
    rows = [
        {
            "turns": f"{first} to {last}",
            "anonymous MB, median": statistics.median(item["MB"] for item in part),
            "anonymous MB, most": max(item["MB"] for item in part),
            "handles": max(item["handles"] for item in part),
        }
        for part, first, last in ((early, fifth + 1, 2 * fifth), (late, len(seen) - fifth + 1, len(seen)))
    ]
    report("soak", rows, minutes=minutes, turns_in_all=len(seen), tokens=TOKENS, atoms=ATOMS)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else MINUTES)
