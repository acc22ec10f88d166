"""Whatever is in a file, reading it ends in an answer or in an error of ours; nothing in it is executed."""

import re
from pathlib import Path

import pytest

import itda
from itda.data.checkpoints import Checkpoint, Saved
from itda.data.files import read_folder
from itda.errors import ItdaError
from support import hostile, tiny

ATTACKS = 250


def use_dictionary(folder):
    dictionary = itda.Dictionary.from_pretrained(folder)
    repr(dictionary), dictionary.facts(), dictionary.find("the"), [source.text for source in dictionary.sources]


def use_activations(folder):
    activations = itda.Activations.load(folder)
    repr(activations), [source.text for source in activations.sources]


def use_encoding(folder):
    encoding = itda.Encoding.load(folder)
    len(encoding), encoding.codes.l0, [source.text for source in encoding.sources]


def use_store(folder):
    store = itda.Store(folder)
    for entry in store.listed():
        entry.facts(), repr(entry)
        entry.problems()
    stored = store.open()
    for block in stored.blocks(50):
        [source.text for source in block.sources]


def use_checkpoint(folder):
    with Checkpoint(folder, {"run": 1}) as checkpoint:
        checkpoint.load()


USES = {
    "dictionary": use_dictionary,
    "activations": use_activations,
    "encoding": use_encoding,
    "store": use_store,
    "checkpoint": use_checkpoint,
}


@pytest.fixture(scope="module")
def originals(model, tmp_path_factory):
    """One small folder of every kind."""
    home = tmp_path_factory.mktemp("originals")
    corpus = itda.Corpus.from_texts(tiny.KINGS[:6])
    activations = itda.capture(model, corpus, "resid_post.1", progress=False)
    activations.save(home / "activations")
    dictionary = itda.build_from_activations(activations, atoms=20, steps=3, progress=False)
    dictionary.save_pretrained(home / "dictionary")
    itda.encode(dictionary, model, corpus, progress=False).save(home / "encoding")
    itda.capture(model, corpus, "resid_post.1", store=home / "store", progress=False)
    with Checkpoint(home / "checkpoint", {"run": 1}) as checkpoint:
        checkpoint.save(Saved({"after": [["", {}]]}, {"builder-0": {"atoms": dictionary.atoms}}))
    return home


@pytest.mark.parametrize("kind", sorted(USES))
def test_hostile_files_end_in_our_errors(kind, originals, tmp_path):
    USES[kind](originals / kind)
    for seed in range(ATTACKS):
        try:
            hostile.attack(originals / kind, tmp_path / "copy", USES[kind], seed)
        except Exception as error:
            raise AssertionError(f"attack {seed} on a {kind}: {type(error).__name__}: {error}") from error


def test_a_header_that_promises_more_than_there_is(tmp_path, originals):
    """A small file must not ask for large memory."""
    path = originals / "dictionary" / "dictionary.safetensors"
    content = path.read_bytes()
    (tmp_path / "d").mkdir()
    for item in (originals / "dictionary").iterdir():
        (tmp_path / "d" / item.name).write_bytes(item.read_bytes())
    (tmp_path / "d" / path.name).write_bytes((2**40).to_bytes(8, "little") + content[8:])
    hostile.sign(tmp_path / "d")
    with pytest.raises(ItdaError, match="not a safetensors file"):
        read_folder(tmp_path / "d", "dictionary")


def test_there_is_no_pickle_anywhere():
    source = Path(itda.__file__).parent
    for path in source.rglob("*.py"):
        assert not re.search(r"\b(pickle|torch\.load|torch\.save|marshal|shelve|joblib|dill)\b", path.read_text()), path
        assert not re.search(r"\b(eval|exec)\(", path.read_text().replace(".eval()", "")), path
