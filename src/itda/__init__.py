"""Inference-Time Decomposition of Activations: write a model's activations as sums of real, named ones.

    import itda

    model = itda.load_model("path/or/hub-name")
    train, held_out = itda.Corpus.from_files("stories.json").split()
    dictionary = itda.build(model, train, site="resid_post.2", atoms=1024)
    print(itda.evaluate(dictionary, model, held_out))
    print(itda.explain(dictionary, model, "Once upon a time"))

Names are resolved when they are first used, so importing this loads nothing heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from itda import compare, pursuit, steer, view
    from itda.building import build, build_from_activations, build_many, extend, extend_from_activations, merge
    from itda.capturing import capture, capture_generation
    from itda.data.activations import Activations
    from itda.data.corpus import Corpus
    from itda.data.dictionary import Dictionary
    from itda.data.encoding import Encoding
    from itda.data.store import Store
    from itda.encoding import encode
    from itda.errors import ItdaError
    from itda.evaluation import (
        Judge,
        ablate,
        compare_codes,
        evaluate,
        evaluate_activations,
        judge_atoms,
        probe,
        read_atoms,
    )
    from itda.explaining import explain
    from itda.logs import logging_to
    from itda.models.loading import load_model, wrap
    from itda.pursuit import Codes, Coding

_HOMES = {
    "Activations": "itda.data.activations",
    "Codes": "itda.pursuit",
    "Coding": "itda.pursuit",
    "Corpus": "itda.data.corpus",
    "Dictionary": "itda.data.dictionary",
    "Encoding": "itda.data.encoding",
    "ItdaError": "itda.errors",
    "Judge": "itda.evaluation",
    "Store": "itda.data.store",
    "ablate": "itda.evaluation",
    "build": "itda.building",
    "build_from_activations": "itda.building",
    "build_many": "itda.building",
    "capture": "itda.capturing",
    "capture_generation": "itda.capturing",
    "compare_codes": "itda.evaluation",
    "encode": "itda.encoding",
    "evaluate": "itda.evaluation",
    "evaluate_activations": "itda.evaluation",
    "explain": "itda.explaining",
    "extend_from_activations": "itda.building",
    "extend": "itda.building",
    "judge_atoms": "itda.evaluation",
    "load_model": "itda.models.loading",
    "logging_to": "itda.logs",
    "merge": "itda.building",
    "probe": "itda.evaluation",
    "read_atoms": "itda.evaluation",
    "wrap": "itda.models.loading",
}
_PARTS = ("compare", "pursuit", "steer", "view")

__version__ = "0.1.0"
__all__ = [
    "Activations",
    "Codes",
    "Coding",
    "Corpus",
    "Dictionary",
    "Encoding",
    "ItdaError",
    "Judge",
    "Store",
    "__version__",
    "ablate",
    "build",
    "build_from_activations",
    "build_many",
    "capture",
    "capture_generation",
    "compare",
    "compare_codes",
    "encode",
    "evaluate",
    "evaluate_activations",
    "explain",
    "extend",
    "extend_from_activations",
    "judge_atoms",
    "load_model",
    "logging_to",
    "merge",
    "probe",
    "pursuit",
    "read_atoms",
    "steer",
    "view",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return import_module(f"itda.{name}")
    if name not in _HOMES:
        raise AttributeError(f"itda has no {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
