"""Do models with different tokenizers choose the same atoms? By character, beside chance and beside untrained models.

python benchmarks/bench_tokenizers.py

Character models against subword models on the same documents, every token of them a candidate, middle layer. Common is
the share of the places of either at which both have a token's end; overlap counts there. "By chance" keeps token and
position of both; "untrained" is the mean overlap of each with the other's untrained twin (same architecture, weights as
they were drawn), and "beyond" is what is left of the overlap past the greater of the two. "Nets" is the overlap of
`layer_matrix` at the same two layers, which all models read at places where tokens of both end.
"""

import argparse

import torch
from common import DATA, model_folder, report

import itda
from itda import compare
from itda.models.loading import Model

CHARACTERS = ("babyllama-char105", "babyllama-char361")
SUBWORDS = ("stories260k", "seeds/gpt2-s21", "gpt2-wide")
TEXTS = {"stories": "tinystories_1000.json", "wiki": "wikitext_1000.json"}
DOCUMENTS = {"stories": 150, "wiki": 150}
PLACES = 10_000
ATOMS, STEPS = 1024, 8
Built = tuple[itda.Dictionary, itda.data.sources.Sources]


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    models = {name: itda.load_model(model_folder(name)) for name in (*CHARACTERS, *SUBWORDS)}
    twins = {name: untrained(model) for name, model in models.items()}
    rows = []
    for text, file in TEXTS.items():
        texts = [document.text for document in itda.Corpus.from_files(DATA / "text" / file)]
        corpus = itda.Corpus.from_texts(texts[: DOCUMENTS[text]], name=text)
        found = {name: build(model, corpus) for name, model in models.items()}
        nulls = {name: build(model, corpus) for name, model in twins.items()}
        pairs = [(one, other) for one in CHARACTERS for other in SUBWORDS]
        for one, other in [*pairs, CHARACTERS, SUBWORDS[:2], SUBWORDS[1:]]:
            own = between(found[one], found[other])
            nets = at_common_places({"one": models[one], "other": models[other]}, [twins[one], twins[other]], texts)
            null = [between(nulls[one], found[other]).jaccard, between(found[one], nulls[other]).jaccard]
            beside = sum(null) / 2
            most = max(beside, own.expected)
            rows.append(
                {
                    "text": text, "models": f"{one}, {other}", "level": own.level, "common": own.common,
                    "atoms": f"{own.sizes[0]}, {own.sizes[1]}", "shared": own.shared, "Jaccard": own.jaccard,
                    "by chance": own.expected, "adjusted": own.adjusted, "untrained": beside,
                    "beyond": (own.jaccard - most) / (1 - most), **nets,
                }
            )  # fmt: skip
            print(*rows[-1].values(), flush=True)
    report("tokenizers", rows, atoms=ATOMS, steps=STEPS, documents=DOCUMENTS)


def at_common_places(pair: dict[str, Model], twins: list[Model], texts: list[str]) -> dict[str, float]:
    """Overlap beyond chance of the nets of two middle layers, and its mean for each beside the other's twin."""
    everyone = {**pair, "one, untrained": twins[0], "other, untrained": twins[1]}
    matrix = compare.layer_matrix(
        everyone, itda.Corpus.from_texts(texts), measure="overlap", tokens=PLACES, progress=False
    )
    middle = {
        name: [matrix.sites[row] for row in rows].index(everyone[name].middle_site)
        for name, rows in matrix.layers.items()
    }

    def value(first: str, second: str) -> float:
        return float(matrix.between(first, second)[middle[first], middle[second]])

    beside = (value("one", "other, untrained") + value("one, untrained", "other")) / 2
    return {"places": matrix.facts["common"], "nets": value("one", "other"), "nets, untrained": beside}


def untrained(model: Model) -> Model:
    """The same architecture and tokenizer, with weights as they are drawn."""
    torch.manual_seed(0)
    drawn = type(model.module)(model.module.config)
    return itda.wrap(drawn.eval(), model.tokenizer, id=f"{model.id}, untrained")


def build(model: Model, corpus: itda.Corpus) -> Built:
    """A dictionary and the sources of everything that could have been in it."""
    rows = itda.capture(model, corpus, sinks="keep", progress=False)
    dictionary = itda.build_from_activations(rows, atoms=ATOMS, steps=STEPS, progress=False)
    return dictionary, rows.sources


def between(one: Built, other: Built) -> compare.Overlap:
    return compare.overlap(one[0], other[0], candidates=(one[1], other[1]), anyway=True)


if __name__ == "__main__":
    main()
