"""Files of the first format are read by every later version: tests/data/format_1 stays as it was written."""

import shutil
from pathlib import Path

import pytest
import torch

import itda
from itda.data.encoding import Encoding
from itda.data.files import FORMAT_VERSION

FIRST = Path(__file__).parent / "format_1"


@pytest.fixture
def folder(tmp_path):
    """A copy: a store makes a lock file beside what it reads."""
    return shutil.copytree(FIRST, tmp_path / "first")


def test_dictionaries(folder):
    dictionary = itda.Dictionary.from_pretrained(folder / "dictionary")
    assert dictionary.fingerprint == "1cb3843eff7851fe9bda65b25770e7a2"
    assert (len(dictionary), dictionary.width, dictionary.site, dictionary.model_id) == (
        12,
        16,
        "resid_post.1",
        "a-model",
    )
    assert dictionary.describe(3) == "the good king and t[h]e old queen of number 0"
    assert dictionary.coding.nonnegative
    assert dictionary.encode(dictionary.activations).unexplained.max() < 1
    assert len(dictionary.documents) == 6
    mixtures = itda.Dictionary.from_pretrained(folder / "mixtures")
    assert mixtures.fingerprint == "b3ae135baa2a9d635a2c49fff626429a"
    assert sum(part.weight for part in mixtures.mixtures[0]) == pytest.approx(1)


def test_what_goes_with_them(folder):
    activations = itda.Activations.load(folder / "activations")
    encoding = Encoding.load(folder / "encoding")
    stored = itda.Store(folder / "store").open("resid_post.1")
    assert len(activations) == len(encoding.codes) == len(stored) == 20
    dictionary = itda.Dictionary.from_pretrained(folder / "dictionary")
    assert encoding.dictionary == dictionary.fingerprint
    assert torch.equal(dictionary.encode(activations).atoms, encoding.codes.atoms)
    assert torch.allclose(stored.rows, activations.rows, rtol=1e-2, atol=1e-2)
    assert [source.text for source in stored.sources] == [source.text for source in activations.sources]


def test_they_are_saved_in_the_newest(folder, tmp_path):
    again = itda.Dictionary.from_pretrained(folder / "dictionary")
    again.save_pretrained(tmp_path / "again")
    if FORMAT_VERSION == 1:
        for path in (FIRST / "dictionary").iterdir():
            assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    assert itda.Dictionary.from_pretrained(tmp_path / "again").fingerprint == again.fingerprint
