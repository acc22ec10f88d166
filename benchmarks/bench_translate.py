"""What codes of one model say of another: from seed to seed, size to size, layer to layer, tokenizer to tokenizer.

python benchmarks/bench_translate.py

4096 named atoms, at most 32 in the code of a token, held-out documents; beside plain ways from the same places.
"""

import argparse

import torch
from common import DATA, model_folder, report

import itda
from itda import compare

ATOMS, STEPS, TOKENS, HELD_OUT_TOKENS = 4096, 16, 100_000, 5_000
WIKI, STORIES = "wikitext_1000.json", "tinystories_1000.json"
# from: model, place; to: model, place; what differs
PAIRS = {
    "wiki": [
        ("seeds/gpt2-s21", "resid_post.3", "seeds/gpt2-s49", "resid_post.3", "seed"),
        ("seeds/gpt2-s21", "resid_post.3", "seeds/gpt2-s81", "resid_post.3", "seed"),
        ("seeds/gpt2-s49", "resid_post.1", "seeds/gpt2-s81", "resid_post.1", "seed"),
        ("seeds/gpt2-s49", "resid_post.5", "seeds/gpt2-s81", "resid_post.5", "seed"),
        ("seeds/gpt2-s21", "resid_post.1", "seeds/gpt2-s49", "resid_post.4", "seed, layer"),
        ("seeds/gpt2-s21", "resid_post.1", "seeds/gpt2-s21", "resid_post.4", "layer"),
        ("seeds/gpt2-s21", "resid_post.3", "gpt2-wide", "resid_post.4", "size"),
        ("gpt2-wide", "resid_post.4", "seeds/gpt2-s21", "resid_post.3", "size"),
    ],
    "stories": [
        ("babyllama-char105", "resid_post.2", "babyllama-char361", "resid_post.2", "alphabet"),
        ("babyllama-char105", "resid_post.2", "stories260k", "resid_post.2", "tokenizer"),
        ("stories260k", "resid_post.2", "babyllama-char105", "resid_post.2", "tokenizer"),
        ("stories260k", "resid_post.2", "seeds/gpt2-s21", "resid_post.3", "tokenizer"),
    ],
}
METHODS = ("random", "budget")


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    rows = []
    for text, pairs in PAIRS.items():
        corpus = itda.Corpus.from_files(DATA / "text" / {"wiki": WIKI, "stories": STORIES}[text])
        train, _ = corpus.split(held_out=0.1, seed=0)
        for first, place, second, other_place, differs in pairs:
            model, other = (itda.load_model(model_folder(name)) for name in (first, second))
            activations = itda.capture(model, train, place, tokens=TOKENS, progress=False)
            for method in METHODS:
                dictionary = itda.build_from_activations(
                    activations, atoms=ATOMS, steps=STEPS, method=method, progress=False
                )
                there = compare.transplant(dictionary, other, train, other_place, progress=False)
                found = compare.measure_translation(there, model, other, corpus, tokens=HELD_OUT_TOKENS, progress=False)
                ways = found.codes | (found.baselines if method == METHODS[0] else {})
                for name, scores in ways.items():
                    named = name in found.codes
                    rows.append(
                        {
                            "from": f"{first} {place}", "to": f"{second} {other_place}", "differs": differs,
                            "common": round(found.tokens / found.asked, 3),
                            "atoms": f"{method}, {found.atoms}" if named else "",
                            "L0": round(found.l0, 1) if named else "", "way": name, "FVU": scores.fvu,
                            "explains beyond token": scores.explains, "dCE": scores.delta_ce,
                        }
                    )  # fmt: skip
            print(first, place, second, other_place, flush=True)
    facts = {"atoms": ATOMS, "steps": STEPS, "tokens": TOKENS, "held_out_tokens": HELD_OUT_TOKENS}
    report("translate", rows, **facts, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
