"""Dictionaries beyond the residual stream: attention, heads, MLP outputs and neurons, in the middle layer.

python benchmarks/bench_sites.py
"""

import time

import torch
from cases import Case
from cells import Cell
from common import report
from scoring import HeldOut, of_dictionary

import itda

MODELS = ("stories260k", "gpt2-wide")
SITES = ("resid_post", "attn_out", "attn_heads", "mlp_out", "mlp_neurons")
SHARE, TOKENS, HELD_OUT_TOKENS = 0.06, 60_000, 10_000
PAPER_GAPS = (0.4, 0.2, 0.1, 0.05)


def main() -> None:
    rows: list[Cell] = []
    for name in MODELS:
        case = Case(name, 0)
        layer = case.model.middle_site.rpartition(".")[2]
        captured = itda.capture(
            case.model, case.train, [f"{kind}.{layer}" for kind in SITES], tokens=TOKENS, progress=False
        )
        read = itda.capture(case.model, case.held_out, [f"{kind}.{layer}" for kind in SITES], progress=False)
        for site, activations in captured.items():
            steps = max(1, round(SHARE * case.width))
            ways = {
                "paper, best threshold": [{"method": "paper", "max_cosine_gap": gap} for gap in PAPER_GAPS],
                **{method: [{"method": method}] for method in ("random", "budget", "mixture", "learned")},
                **({"snmf": [{"method": "snmf"}]} if site.startswith("mlp_neurons") else {}),
            }
            place = None
            for method, choices in ways.items():
                cells = []
                for options in choices:
                    begin = time.perf_counter()
                    # As many atoms as in the stream, so that only the place differs
                    dictionary = itda.build_from_activations(
                        activations, atoms=case.atoms, steps=steps, progress=False, **options
                    )
                    seconds = time.perf_counter() - begin
                    if place is None:
                        assert dictionary.provenance is not None
                        assert dictionary.token_means is not None
                        capture = dictionary.provenance.capture
                        means = dictionary.token_means
                        place = HeldOut(case.model, case.held_out, site, capture, means, HELD_OUT_TOKENS)
                    scores = place.scores(of_dictionary(dictionary))
                    named = dictionary.kind != "learned"
                    lift = itda.read_atoms(dictionary, read[site]).lift if named else ""
                    concentrated = float(dictionary.head_shares.amax(1).mean()) if site.startswith("attn_heads") else ""
                    kept = {key: scores[key] for key in ("fvu", "residual_fvu", "delta_ce", "l0")}
                    cells.append({**kept, "lift": lift, "largest head": concentrated, "seconds": round(seconds, 1)})
                best = min(cells, key=lambda cell: cell["fvu"])
                rows.append({"model": name, "site": site, "width": activations.width, "method": method, **best})
            print(name, site, flush=True)
        del captured
    report("sites", rows, share=SHARE, tokens=TOKENS, held_out_tokens=HELD_OUT_TOKENS, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
