"""One small folder of every kind that is read, and all that is done with it once it is open."""

from collections.abc import Callable
from pathlib import Path

import torch

import itda
from itda.data.checkpoints import Checkpoint, Saved
from itda.scale import results
from support import tiny


def use_dictionary(folder: Path) -> None:
    dictionary = itda.Dictionary.from_pretrained(folder)
    repr(dictionary), dictionary.facts(), dictionary.find("the"), [source.text for source in dictionary.sources]


def use_activations(folder: Path) -> None:
    activations = itda.Activations.load(folder)
    repr(activations), [source.text for source in activations.sources]


def use_encoding(folder: Path) -> None:
    encoding = itda.Encoding.load(folder)
    len(encoding), encoding.codes.l0, [source.text for source in encoding.sources]


def use_store(folder: Path) -> None:
    store = itda.Store(folder)
    for entry in store.listed():
        entry.facts(), repr(entry)
        entry.problems()
    stored = store.open()
    for block in stored.blocks(50):
        [source.text for source in block.sources]


def use_checkpoint(folder: Path) -> None:
    with Checkpoint(folder, {"run": 1}) as checkpoint:
        checkpoint.load()


def use_parts(folder: Path) -> None:
    with results.Results(folder, {"run": 1}) as kept:
        kept.missing(range(3))


def use_tally(folder: Path) -> None:
    from itda.evaluation import Tally

    tally = Tally.load(folder)
    tally.report(model="m", site="s", excluded=0, resamples=5, seed=0)


USES: dict[str, Callable[[Path], None]] = {
    "dictionary": use_dictionary,
    "activations": use_activations,
    "encoding": use_encoding,
    "store": use_store,
    "store in parts": use_store,
    "checkpoint": use_checkpoint,
    "parts": use_parts,
    "tally": use_tally,
}


def originals(home: Path) -> Path:
    """One small folder of every kind, in `home`."""
    from itda.evaluation import tally_windows

    model = itda.wrap(tiny.module("Llama"), tiny.tokenizer())
    corpus, held_out = itda.Corpus.from_texts(tiny.KINGS[:6]), itda.Corpus.from_texts(tiny.KINGS[6:9])
    activations = itda.capture(model, corpus, "resid_post.1", progress=False)
    activations.save(home / "activations")
    dictionary = itda.build_from_activations(activations, atoms=20, steps=3, progress=False)
    dictionary.save_pretrained(home / "dictionary")
    itda.encode(dictionary, model, corpus, progress=False).save(home / "encoding")
    itda.capture(model, corpus, "resid_post.1", store=home / "store", progress=False)
    for part in corpus.parts(2):
        itda.capture(model, part, "resid_post.1", store=home / "store in parts", progress=False)
    with Checkpoint(home / "checkpoint", {"run": 1}) as checkpoint:
        checkpoint.save(Saved({"after": [["", {}]]}, {"builder-0": {"atoms": dictionary.atoms}}))
    with results.Results(home / "parts", {"run": 1}) as kept:
        results.finish(results.place_of_part(kept.folder, 1), {"sites": ["resid_post.1"]})
    tally_windows(
        dictionary, model, held_out, "resid_post.1", tokens=None, steps=None, coding=None, baselines=True, seed=0,
        backend="auto", memory=None, progress=False,
    ).save(home / "tally")  # fmt: skip
    return home


def large(folder: Path, rows: int) -> Path:
    """A dictionary of so many atoms of width 256."""
    found = itda.build_from_activations(torch.randn(rows // 10, 256), atoms=100, steps=3, progress=False)
    parts = [torch.nn.functional.normalize(torch.randn(rows, 256), dim=1), torch.ones(rows)]
    from dataclasses import replace

    from itda.data.sources import Sources

    usage = torch.ones(rows, dtype=torch.int64)
    whole = replace(
        found, atoms=parts[0], norms=parts[1], sources=Sources.of_rows(rows), usage_counts=usage,
        usage_energy=parts[1],
    )  # fmt: skip
    return whole.save_pretrained(folder)
