"""What reads the same in a terminal, a notebook and at a prompt."""

import importlib
import pkgutil

import itda
from itda.shown import Shown


def test_at_a_prompt_results_are_what_they_print():
    for module in pkgutil.walk_packages(itda.__path__, "itda."):
        if not module.name.startswith(("itda.cli", "itda.view", "itda.adapters")):
            importlib.import_module(module.name)
    kinds = Shown.__subclasses__()
    assert len(kinds) > 15
    assert all(kind.__repr__ is Shown.__repr__ for kind in kinds)
