"""A dictionary of the embedded model with its pages, and one of hostile text."""

from pathlib import Path
from typing import NamedTuple

import pytest

import itda
from itda.view.preparing import prepare
from itda.view.records import Records
from itda.view.shelf import Book, Shelf
from itda.view.what_if import WhatIf
from support.pages import PREPARED, hostile_records


class Prepared(NamedTuple):
    """A folder with one dictionary in it and its pages beside."""

    folder: Path
    dictionary: itda.Dictionary
    records: Records


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, embedded) -> Prepared:
    """Signed codes, so that there are atoms that are taken away too."""
    corpus = itda.Corpus.embedded()
    dictionary = itda.build(
        embedded, corpus.split()[0], site="resid_post.3", atoms=128, tokens=6_000, method="random", progress=False,
        coding=itda.Coding(steps=6, method="omp"),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("view") / "runs"
    dictionary.save_pretrained(folder / "l3")
    records = prepare(dictionary, embedded, corpus, name="l3", **PREPARED)
    records.save(folder / "l3")
    pairs = [("Raise a ValueError", "Return a list"), ("Raise an error", "Return an item")]
    itda.steer.SteeringVector.fit(embedded, pairs, ["resid_post.2"], progress=False).save(folder / "raise.safetensors")
    return Prepared(folder, dictionary, records)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory, model) -> Prepared:
    """A dictionary of two hundred texts that would like to be markup."""
    dictionary, records = hostile_records(model)
    folder = tmp_path_factory.mktemp("hostile") / "runs"
    dictionary.save_pretrained(folder / "bad <b>")
    records.save(folder / "bad <b>")
    return Prepared(folder, dictionary, records)


@pytest.fixture(scope="session")
def opener(embedded):
    """Opens a book with the embedded model."""

    def opened(book: Book) -> WhatIf:
        return WhatIf(itda.Dictionary.from_pretrained(book.folder), embedded)

    return opened


@pytest.fixture
def shelf(prepared) -> Shelf:
    """What is in the folder."""
    return Shelf.open([prepared.folder])
