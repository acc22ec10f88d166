"""What a second worker is worth: capture plus build of 200,000 tokens, one thread a worker, start-up not counted.

python benchmarks/bench_scale.py
"""

import time
from typing import Any

import ray
import torch
from common import DATA, model_folder, report

import itda
from itda import scale

TOKENS, SHARDS, REPEATS = 200_000, 8, 2
MODELS = {"babyllama-char105": "resid_post.2", "gpt2-wide": "resid_post.4"}


def main() -> None:
    torch.set_num_threads(1)  # of the merge and of the build without workers, as of each worker
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    found: list[dict[str, Any]] = []
    for name, site in MODELS.items():
        model = itda.load_model(model_folder(name))
        train, held_out = itda.Corpus.from_files(DATA / "text" / "tinystories_1000.json").split(held_out=0.1, seed=0)
        asked: dict[str, Any] = {"site": site, "atoms": 8 * model.width, "progress": False}
        # Workers load the model, compile and are kept
        scale.build(model_folder(name), train, tokens=SHARDS * 1000, shards=SHARDS, workers=2, **asked)
        itda.build(model, train, tokens=8000, **asked)
        best: dict[str, float] = {}
        worth: dict[str, Any] = {}
        for _ in range(REPEATS):
            for how in ("no workers", "1 worker", "2 workers"):
                started = time.perf_counter()
                if how == "no workers":
                    built = itda.build(model, train, tokens=TOKENS, **asked)
                else:
                    built = scale.build(
                        model_folder(name), train, tokens=TOKENS, shards=SHARDS, workers=int(how[0]), **asked
                    )
                best[how] = min(best.get(how, float("inf")), time.perf_counter() - started)
                worth[how] = built
        assert worth["1 worker"].fingerprint == worth["2 workers"].fingerprint
        for how, seconds in best.items():
            scores = itda.evaluate(worth[how], model, held_out, tokens=10_000, baselines=False, progress=False)
            found.append(
                {
                    "model": name, "how": how, "seconds": seconds, "speed-up over 1 worker": best["1 worker"] / seconds,
                    "FVU": scores.fvu, "delta CE": scores.delta_ce,
                }
            )  # fmt: skip
            print(found[-1], flush=True)
    ray.shutdown()
    report("scale", found, tokens=TOKENS, shards=SHARDS, threads_a_worker=1)


if __name__ == "__main__":
    main()
