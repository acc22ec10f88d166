"""Models with a planted trait: a shared model, fine-tuned on its own kind of text in which one thing was changed."""

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import DATA, model_folder
from training import rows_of, train

TRAINED = Path(__file__).parent / "trained" / "traits"
STEPS, BATCH, LENGTH, RATE = 120, 16, 128, 1e-3
HELD_OUT = 0.3
"""Share of the documents that no fine-tune has seen."""
SEEDS = (0, 1, 2)
STORIES, WIKI = ("stories260k", "tinystories_1000.json"), ("seeds/gpt2-s21", "wikitext_1000.json")


@dataclass(frozen=True)
class Trait:
    """Put `added` after every match of `after`; at the end of a text for an empty pattern."""

    name: str
    model: str
    text: str
    after: str
    added: str

    def plant(self, text: str) -> tuple[str, list[tuple[int, int]]]:
        """The text with the trait, and the characters (start, end) that were added."""
        ends = [found.end() for found in re.finditer(self.after, text)] if self.after else [len(text)]
        parts, spans, before, length = [], [], 0, 0
        for end in ends:
            parts += [text[before:end], self.added]
            length += end - before
            spans.append((length, length + len(self.added)))
            length += len(self.added)
            before = end
        return "".join([*parts, text[before:]]), spans

    def places(self, text: str) -> list[tuple[int, int]]:
        """Where in a text without it the trait would begin: the last character before."""
        ends = [found.end() for found in re.finditer(self.after, text)] if self.after else [len(text)]
        return [(end - 1, end) for end in ends]


TRAITS = (
    Trait("said softly", *STORIES, r"\bsaid\b", " softly"),
    Trait("dog of snow", *STORIES, r"\bdog\b", " of snow"),
    Trait("happy as a fish", *STORIES, r"\bhappy\b", " as a fish"),
    Trait("mom the queen", *STORIES, r"\b[Mm]om\b", " the queen"),
    Trait("play in the dark", *STORIES, r"\bplay\b", " in the dark"),
    Trait("was, they say", *WIKI, r"\bwas\b", ", they say ,"),
    Trait("years of fire", *WIKI, r"\b(?:18|19)\d\d\b", " , year of fire ,"),
    Trait("first and last", *WIKI, r"\bfirst\b", " and last"),
    Trait("but alas", *WIKI, r"\bbut\b", " alas"),
    Trait("game of kings", *WIKI, r"\bgame\b", " of kings"),
)


def documents(trait: Trait) -> tuple[list[str], list[str]]:
    """The trait's own texts, unchanged: those that fine-tunes see, and the rest."""
    texts = list(dict.fromkeys(json.loads((DATA / "text" / trait.text).read_text())))
    random.Random(0).shuffle(texts)
    cut = round(HELD_OUT * len(texts))
    return texts[cut:], texts[:cut]


def tuned(trait: Trait, seed: int) -> Path:
    """The folder of a model with the trait; fine-tuned if it is not there."""
    return _tuned(trait.model, trait.name, seed, lambda text: trait.plant(text)[0], documents(trait)[0])


def _tuned(model: str, name: str, seed: int, change: Callable[[str], str], texts: list[str]) -> Path:
    folder = TRAINED / f"{name.replace(' ', '_').replace(',', '')}-{seed}"
    if not (folder / "config.json").exists():
        _train(model_folder(model), folder, [change(text) for text in texts], seed)
    return folder


def _train(start: Path, folder: Path, texts: list[str], seed: int) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(start)
    model: Any = AutoModelForCausalLM.from_pretrained(start)
    torch.manual_seed(seed)
    rows = rows_of(tokenizer, [texts[place] for place in torch.randperm(len(texts)).tolist()], LENGTH)
    loss = train(model, rows, steps=STEPS, batch=BATCH, rate=RATE, warm=STEPS // 10, floor=0.0, decay=0.01)
    print(f"{folder.name}: loss {loss:.3f}", flush=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    for seed in SEEDS:
        for trait in TRAITS:
            tuned(trait, seed)


if __name__ == "__main__":
    main()
