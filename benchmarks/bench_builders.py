"""Held-out worth of `greedy`, `paper` at several thresholds, and random atoms, on real models.

python benchmarks/bench_builders.py [MODEL ...]
"""

import sys
from typing import Any

from common import DATA, model_folder, report

import itda

# model, text, site, width; atoms are 8 times the width, steps a sixteenth of it
CASES = {
    "stories260k": ("tinystories_1000.json", "resid_post.2", 64),
    "babyllama-char105": ("tinystories_1000.json", "resid_post.2", 128),
    "seeds/gpt2-s21": ("wikitext_1000.json", "resid_post.3", 128),
    "gpt2-wide": ("wikitext_1000.json", "resid_post.4", 256),
    "minilm": ("wikitext_1000.json", "resid_post.3", 384),
}
TOKENS, HELD_OUT_TOKENS = 90_000, 10_000
COSINE_GAPS = (0.3, 0.2, 0.1, 0.05, 0.02)
BLOCKS = (8, 1, 64, 4096)


def main() -> None:
    rows: list[dict[str, Any]] = []
    for name in sys.argv[1:] or CASES:
        text, site, width = CASES[name]
        model = itda.load_model(model_folder(name))
        train, held_out = itda.Corpus.from_files(DATA / "text" / text).split(held_out=0.1, seed=0)
        activations = itda.capture(model, train, site, tokens=TOKENS)
        shared = {"atoms": 8 * width, "steps": max(4, width // 16)}
        variants: dict[str, dict[str, Any]] = {f"greedy, block {block}": {"block": block} for block in BLOCKS}
        for gap in COSINE_GAPS:
            variants[f"paper, gap {gap}"] = {"method": "paper", "max_cosine_gap": gap}
        for variant, options in variants.items():
            dictionary = itda.build_from_activations(activations, **shared, **options)
            first = variant == next(iter(variants))
            found = itda.evaluate(dictionary, model, held_out, tokens=HELD_OUT_TOKENS, baselines=first)
            rows.append(row(name, variant, len(dictionary), found.scores))
            if first:
                rows += [row(name, other, 0, scores) for other, scores in found.baselines.items() if other != "mean"]
    suffix = "" if len(sys.argv) == 1 else "_part"
    report(f"builders{suffix}", rows, tokens=TOKENS, held_out_tokens=HELD_OUT_TOKENS)


def row(model: str, variant: str, atoms: int, scores: Any) -> dict[str, Any]:
    return {
        "model": model,
        "dictionary": variant,
        "atoms": atoms,
        "fvu": scores.fvu,
        "residual_fvu": scores.residual_fvu,
        "delta_ce": scores.delta_ce,
        "ce_score": scores.ce_score,
    }


if __name__ == "__main__":
    main()
