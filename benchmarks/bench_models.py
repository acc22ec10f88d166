"""Are models of one architecture more alike than models of two? All layers of each together, with one budget.

python benchmarks/bench_models.py

Three seeds of one architecture, a wider one, and the first before it was trained; then a character model beside its
sister with another alphabet and a subword model. Beside untrained is what the text alone gives.
"""

import argparse
from typing import Any

from common import DATA, model_folder, report

import itda
from itda import compare

SETS: dict[str, tuple[str, tuple[str, ...], str | None]] = {
    "seeds and sizes": (
        "wikitext_1000.json",
        ("seeds/gpt2-s21", "seeds/gpt2-s49", "seeds/gpt2-s81", "gpt2-wide", "seeds/gpt2-s21-step0"),
        "seeds/gpt2-s21-step0",
    ),
    "architectures and tokenizers": (
        "tinystories_1000.json",
        ("babyllama-char105", "babyllama-char361", "stories260k", "seeds/gpt2-s21", "seeds/gpt2-s21-step0"),
        "seeds/gpt2-s21-step0",
    ),
}
TOKENS, ATOMS = 20_000, 4096


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    rows: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    for name, (file, models, untrained) in SETS.items():
        corpus = itda.Corpus.from_files(DATA / "text" / file)
        found = compare.model_matrix(
            {model: itda.load_model(model_folder(model)) for model in models},
            corpus, tokens=TOKENS, atoms=ATOMS, untrained=untrained, progress=False,
        )  # fmt: skip
        print(found)
        difference, ends = found.difference()
        facts[name] = {
            "within": found.within, "across": found.across, "beside untrained": found.beside_untrained,
            "within less across": difference, "interval": ends,
        }  # fmt: skip
        for one, model in enumerate(models):
            for other in range(one):
                rows.append(
                    {
                        "set": name, "models": f"{models[other]}, {model}",
                        "architectures": f"{found.architectures[other]}; {found.architectures[one]}",
                        "Jaccard": float(found.jaccard[one, other]), "by chance": float(found.expected[one, other]),
                        "overlap": float(found.values[one, other]),
                    }
                )  # fmt: skip
    report("models", rows, tokens=TOKENS, atoms=ATOMS, sets=facts)


if __name__ == "__main__":
    main()
