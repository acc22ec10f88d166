import subprocess
import sys

import pytest

import itda

HEAVY = ("torch", "numba", "ray", "triton", "transformers", "matplotlib", "numpy", "rich", "typer", "datasets")


def test_importing_loads_nothing_heavy():
    code = f"import sys, itda; print(*sorted(set(sys.modules) & {set(HEAVY)!r}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


def test_every_public_name_resolves_and_is_documented():
    for name in itda.__all__:
        assert getattr(itda, name).__doc__, name
    assert dir(itda) == itda.__all__
    assert {*itda._HOMES, *itda._PARTS, "__version__"} == set(itda.__all__)


@pytest.mark.parametrize("part", itda._PARTS)
def test_parts_are_there_after_import_itda_alone(part):
    subprocess.run([sys.executable, "-c", f"import itda; itda.{part}.__name__"], check=True)


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="itda has no 'train'"):
        _ = itda.train


def test_the_version_is_that_of_the_package():
    from importlib.metadata import version

    assert itda.__version__ == version("itda")
