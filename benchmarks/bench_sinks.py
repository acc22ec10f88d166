"""What attention sinks do to a dictionary and to its scores, left out (the default) and kept.

python benchmarks/bench_sinks.py

The models at hand have none, so one is planted: at the first token of every window the middle layer's output points
far along one direction, 300 times as long as usual, as in large language models. What follows normalises it away.
"""

from typing import Any

import torch
from cases import HELD_OUT_TOKENS, Case
from common import report
from torch import Tensor

import itda

MODELS = ("seeds/gpt2-s21", "gpt2-wide")
SHARE, TOKENS, TIMES = 0.06, 60_000, 300


def main() -> None:
    rows = []
    for name in MODELS:
        case = Case(name, 0)
        usual = itda.capture(case.model, case.train, tokens=4_000, progress=False).rows
        plant(case, TIMES * torch.linalg.vector_norm(usual, dim=1).median())
        for sinks in ("drop", "keep"):
            dictionary = itda.build(
                case.model, case.train, atoms=case.atoms, steps=case.steps(SHARE), tokens=TOKENS, sinks=sinks,
                progress=False,
            )  # fmt: skip
            found = itda.evaluate(dictionary, case.model, case.held_out, tokens=HELD_OUT_TOKENS, progress=False)
            every = found.everything_replaced or found.scores
            rows.append({
                "model": name, "sinks": sinks, "found": found.not_decomposed.get("sink", 0),
                "longest atom": float(dictionary.norms.max() / dictionary.norms.median()),
                "FVU": found.fvu, "dCE": found.delta_ce, "L0": found.l0, "FVU, every token": every.fvu,
                "dCE, every token": every.delta_ce,
            })  # fmt: skip
            print(name, sinks, flush=True)
    report("sinks", rows, share=SHARE, tokens=TOKENS, times=TIMES)


def plant(case: Case, length: Tensor) -> None:
    """Let the middle layer give the first token of every window an output of this length, always the same."""
    direction = torch.nn.functional.normalize(
        torch.randn(case.width, generator=torch.Generator().manual_seed(0)), dim=0
    )

    def far(_: Any, __: Any, output: Tensor) -> Tensor:
        changed = output.clone()
        changed[:, 0] = length * direction
        return changed

    site = case.model.site(case.model.middle_site)
    case.model.module.get_submodule(site.module).register_forward_hook(far)


if __name__ == "__main__":
    main()
