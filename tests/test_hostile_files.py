"""Whatever is in a file, reading it ends in an answer or in an error of ours; nothing in it is executed."""

import random
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import itda
from itda.data.files import read_folder
from itda.errors import ItdaError
from support import hostile, uses

ATTACKS = 100  # of each of two ways; `make fuzz` makes 100,000


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    return uses.originals(tmp_path_factory.mktemp("originals"))


@pytest.mark.parametrize("kind", sorted(uses.USES))
def test_hostile_files_end_in_our_errors(kind, originals, tmp_path):
    uses.USES[kind](originals / kind)

    @settings(max_examples=ATTACKS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=False))
    def attack(random_):
        hostile.attack(originals / kind, tmp_path / "copy", uses.USES[kind], random_)

    attack()
    for seed in range(ATTACKS):  # further afield than hypothesis, which prefers what is simple
        hostile.attack(originals / kind, tmp_path / "copy", uses.USES[kind], random.Random(seed))


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
        text = path.read_text()
        if path == source / "adapters" / "foreign_files.py":  # other people's weights, by the loader that runs nothing
            assert text.count("torch.load(") == text.count("weights_only=True") == 1
            text = text.replace("torch.load(", "").replace("import pickle", "").replace("pickle.UnpicklingError", "")
        assert not re.search(r"\b(pickle|torch\.load|torch\.save|marshal|shelve|joblib|dill)\b", text), path
        assert not re.search(r"\b(eval|exec)\(", text.replace(".eval()", "")), path
