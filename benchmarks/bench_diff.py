"""Is a planted trait found, and found first? And does a diff of two equals keep quiet?

python benchmarks/bench_diff.py

Ten traits, three fine-tunes of each (traits.py makes them). A diff reads documents that no fine-tune has seen, half of
them with the trait planted. An atom is of the trait if more than half of what the tuned model's codes have of it, on
the half that tests, is at the trait's places: the added text and the token before it. "Equals" are two fine-tunes on
the same text with two seeds. The distance that is asked of an atom was chosen on pairs among the first three seeds;
the pairs of two more seeds have no part in it.
"""

import argparse
import itertools
import math
import statistics
from collections.abc import Iterable
from typing import Any

import torch
from cells import Cell, Cells
from common import model_folder, report
from torch import Tensor
from traits import SEEDS, TRAITS, Trait, documents, tuned

import itda
from itda import compare
from itda.models.loading import Model

OF_TRAIT = 0.5
APART = 2.5  # the usual one
LESS_APART = 1.0
FRESH = (3, 4)
WAYS = ("ours", "difference of means", "difference of logits", "by chance")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    asked = parser.parse_args()
    seeds, cells = SEEDS[: asked.seeds], Cells("diff")
    for seed in seeds:
        for trait in TRAITS:
            if not cells.where(trait=trait.name, seed=seed):
                base = itda.load_model(model_folder(trait.model))
                planted(cells, trait, base, seed)
    for trait in TRAITS:
        for pair in [FRESH, *itertools.combinations(seeds, 2)]:
            equals(cells, trait, pair, APART)
        equals(cells, trait, FRESH, LESS_APART)
    rows = [summary(cells, trait, seeds) for trait in TRAITS]
    finds = [cell for cell in cells.all if "seed" in cell]
    report(
        "diff", rows,
        median_rank={way: statistics.median(cell[way] for cell in finds) for way in WAYS},
        by_model={model: {way: statistics.median(cell[way] for cell in finds if cell["model"] == model) for way in WAYS}
                  for model in dict.fromkeys(cell["model"] for cell in finds)},
        ours_against={way: against(finds, way) for way in WAYS[1:]},
        of_the_trait=statistics.median(cell["of trait"] for cell in finds),
        tested=statistics.median(cell["tested"] for cell in finds),
        none_called_changed=sum(cell["changed"] == 0 for cell in finds),
        called_changed=sum(cell["changed"] for cell in finds),
        called_changed_of_the_trait=sum(cell["changed, of trait"] for cell in finds),
        finds=len(finds),
        equals=[
            {"pairs": name, **calls(cell for cell in cells.all if "equals" in cell and which(cell))}
            for name, which in (
                ("of the first three seeds", lambda cell: cell["apart"] == APART and cell["equals"] != list(FRESH)),
                ("of two more seeds", lambda cell: cell["apart"] == APART and cell["equals"] == list(FRESH)),
                (f"the same, `apart={LESS_APART:g}`", lambda cell: cell["apart"] == LESS_APART),
            )
        ],
    )  # fmt: skip
    print({way: statistics.median(cell[way] for cell in finds) for way in WAYS})


def equals(cells: Cells, trait: Trait, pair: tuple[int, ...], apart: float) -> None:
    """Diff two fine-tunes on the same text."""
    if cells.where(trait=trait.name, equals=list(pair), apart=apart):
        return
    first, second = (itda.load_model(tuned(trait, seed)) for seed in pair)
    found = compare.diff(first, second, mixed(trait)[0], apart=apart, seed=pair[0], progress=False)
    tables = (found.joint, *found.own.values())
    cells.add(
        trait=trait.name, equals=list(pair), apart=apart, tested=[table.tested for table in tables],
        changed=[len(table.changed) for table in tables], atoms=len(found.joint.dictionary),
    )  # fmt: skip
    print(trait.name, pair, [len(table.changed) for table in tables], flush=True)


def calls(found: Iterable[Cell]) -> dict[str, int]:
    """How often an atom of two equals is called changed."""
    cells = list(found)
    return {
        "number": len(cells),
        "with an atom called changed": sum(cell["changed"][0] > 0 for cell in cells),
        "with one, own dictionaries": sum(sum(cell["changed"][1:]) > 0 for cell in cells),
        "atoms called changed": sum(cell["changed"][0] for cell in cells),
        "tested": sum(cell["tested"][0] for cell in cells),
        "atoms": sum(cell["atoms"] for cell in cells),
    }


def against(finds: list[Cell], way: str) -> dict[str, int]:
    """Of the fine-tunes, how many ours ranks before another way."""
    return {
        "before": sum(cell["ours"] < cell[way] for cell in finds),
        "level": sum(cell["ours"] == cell[way] for cell in finds),
        "behind": sum(cell["ours"] > cell[way] for cell in finds),
    }


def mixed(trait: Trait) -> tuple[itda.Corpus, dict[str, list[tuple[int, int]]]]:
    """Held-out documents, every other one with the trait; of each by id, the characters where the trait shows."""
    texts, spans = [], []
    for number, text in enumerate(documents(trait)[1]):
        if number % 2:
            texts.append(text)
            spans.append(trait.places(text))
        else:
            planted_text, added = trait.plant(text)
            texts.append(planted_text)
            spans.append([(max(0, start - 1), end) for start, end in added])
    corpus = itda.Corpus.from_texts(texts)
    by_text = dict(zip(texts, spans, strict=True))
    return corpus, {document.id: by_text[document.text] for document in corpus}


def planted(cells: Cells, trait: Trait, base: Model, seed: int) -> None:
    """Look for one fine-tune's trait."""
    model = itda.load_model(tuned(trait, seed))
    corpus, spans = mixed(trait)
    found = compare.diff(base, model, corpus, seed=seed, progress=False)
    dictionary = found.joint.dictionary
    of_trait = at_places(dictionary, model, corpus.without(set(dictionary.documents)), spans) > OF_TRAIT
    logits = found.by_logits
    assert logits is not None
    orders = {
        "ours": found.joint.order,
        "difference of means": found.by_mean_difference,
        "difference of logits": logits,
    }
    changed = [atom.atom for atom in found.joint.changed]
    facts: Cell = {name: first_of(order, of_trait) for name, order in orders.items()}
    count, size = int(of_trait.sum()), len(dictionary)
    cell = cells.add(
        trait=trait.name, model=trait.model, seed=seed, atoms=size, **facts,
        **{"by chance": (size + 1) / (count + 1), "of trait": count, "changed": len(changed),
           "changed, of trait": int(of_trait[changed].sum()), "tested": found.joint.tested,
           "changed, own": [len(table.changed) for table in found.own.values()],
           "kl": found.outputs.kl if found.outputs else None},
    )  # fmt: skip
    print({name: value for name, value in cell.items() if name != "model"}, flush=True)


def at_places(
    dictionary: itda.Dictionary, model: Model, corpus: itda.Corpus, spans: dict[str, list[tuple[int, int]]]
) -> Tensor:
    """Of what a model's codes have of each atom, the share at the places of a trait."""
    activations = itda.capture(model, corpus, dictionary.site, progress=False)
    sources = activations.sources
    inside = torch.tensor(
        [
            any(int(sources.char_start[row]) < end and int(sources.char_end[row]) > start
                for start, end in spans[sources.windows[int(sources.window[row])].document])
            for row in range(len(activations))
        ]
    )  # fmt: skip
    codes = dictionary.encode(activations.rows)
    amounts = []
    for part in (codes[inside], codes):
        used = part.atoms >= 0
        amounts.append(
            torch.zeros(len(dictionary)).index_add_(0, part.atoms[used].long(), part.coefficients[used].abs())
        )
    return amounts[0] / amounts[1].clamp_min(1e-9)


def first_of(order: Tensor, wanted: Tensor) -> float:
    """The rank, from 1, of the first atom that is wanted; past the last if there is none."""
    ranks = torch.nonzero(wanted[order])[:, 0]
    return float(ranks[0]) + 1 if len(ranks) else float(len(order) + 1)


def summary(cells: Cells, trait: Trait, seeds: tuple[int, ...]) -> dict[str, Any]:
    """One trait over its seeds."""
    group = [cell for cell in cells.where(trait=trait.name) if cell.get("seed") in seeds]
    row: dict[str, Any] = {"trait": trait.name, "model": trait.model, "seeds": len(group)}
    for name in (*WAYS, "of trait", "changed", "changed, of trait", "tested", "kl"):
        row[name] = statistics.median(cell[name] for cell in group) if group else math.nan
    return row


if __name__ == "__main__":
    main()
