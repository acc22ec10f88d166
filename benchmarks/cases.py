"""The models that benchmarks measure dictionaries on: what is built from, and what is held out."""

from functools import cached_property
from pathlib import Path
from typing import Any

from cells import Cell
from common import DATA, clock, model_folder
from scoring import HeldOut

import itda

# model -> texts
CASES = {
    "stories260k": ("tinystories_1000.json",),
    "babyllama-char105": ("tinystories_1000.json",),
    "babyllama-char361": ("tinystories_1000.json",),
    "seeds/gpt2-s21": ("wikitext_1000.json",),
    "gpt2-wide": ("wikitext_1000.json",),
    "minilm": ("wikitext_1000.json", "wikitext2_valid.txt"),
}
TOKENS, HELD_OUT_TOKENS = 100_000, 10_000
ATOMS_A_DIMENSION = 8
SHARES = (0.015, 0.03, 0.06, 0.12)
"""Steps in a dimension."""


class Case:
    """One model and one seed: activations to build from, and held-out text to measure on."""

    def __init__(self, name: str, seed: int, folder: Path | None = None, text: itda.Corpus | None = None) -> None:
        self.name, self.seed = name, seed
        self.model = itda.load_model(folder or model_folder(name))
        width = self.model.site(self.model.middle_site).width
        assert width is not None
        self.width, self.atoms = width, ATOMS_A_DIMENSION * width
        self.train, self.held_out = (text or corpus(name)).split(held_out=0.1, seed=seed)

    @cached_property
    def activations(self) -> itda.Activations:
        """What everything is built from."""
        return itda.capture(self.model, self.train, tokens=TOKENS, seed=self.seed, progress=False)

    @cached_property
    def place(self) -> HeldOut:
        """What everything is measured on."""
        shown = itda.build_from_activations(self.activations, atoms=64, steps=1, method="random", progress=False)
        assert shown.provenance is not None
        assert shown.token_means is not None
        capture = shown.provenance.capture
        return HeldOut(self.model, self.held_out, self.activations.site, capture, shown.token_means, HELD_OUT_TOKENS)

    def build(self, steps: int, **options: Any) -> tuple[itda.Dictionary, Cell]:
        """A dictionary, and what it took."""
        _, rows = self.place, self.activations.rows  # captured before the clock starts
        begin = clock()
        dictionary = itda.build_from_activations(
            self.activations, atoms=self.atoms, steps=steps, seed=self.seed, progress=False, **options
        )
        return dictionary, {"atoms": len(dictionary), "seconds": round(clock() - begin, 2), "rows": len(rows)}

    def facts(self, steps: int) -> Cell:
        """What names a cell of it."""
        return {"model": self.name, "seed": self.seed, "steps": steps, "share": round(steps / self.width, 4)}

    def steps(self, share: float) -> int:
        """K for a share of the width."""
        return max(1, round(share * self.width))


def corpus(name: str) -> itda.Corpus:
    """The texts of a model: the encoder's are more, since one file has too few of its tokens."""
    texts: list[str] = []
    for file in CASES[name]:
        split_on = "\n = " if file.endswith(".txt") else None
        texts += [document.text for document in itda.Corpus.from_files(DATA / "text" / file, split_on=split_on)]
    return itda.Corpus.from_texts(list(dict.fromkeys(texts)))
