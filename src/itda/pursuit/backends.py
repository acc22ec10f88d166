"""Which backends exist, which can run here, and which one "auto" takes."""

import importlib.util
import os
import sys
from functools import cache
from typing import Literal, get_args

import torch

from itda.errors import BackendError, OptionError
from itda.pursuit.codes import Coding
from itda.pursuit.prepared import Prepared

Backend = Literal["auto", "reference", "torch", "numba", "triton"]

_KEPT = {
    "float32": "float32 Gram matrix",
    "int16": "int16 Gram matrix",
    "rows": "Gram rows of the atoms in use",
    "none": "no Gram matrix",
}


_threads_are_gone = False


def _look_at_threads() -> None:
    """In a process that was forked: whether its parent had started the kernel's threads.

    They are not there any more, and OpenMP ends a process that asks for them (numba) or lets it wait for ever (torch).
    """
    global _threads_are_gone
    try:
        _threads_are_gone = "numba" in sys.modules and sys.modules["numba"].threading_layer() == "omp"
    except ValueError:  # it has not been used
        _threads_are_gone = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_look_at_threads)


def check_threads() -> None:
    """Refuse to begin what would never end.

    Raises: BackendError in a process that was forked off after a pursuit, unless torch has one thread there.
    """
    if _threads_are_gone and torch.get_num_threads() > 1:
        raise BackendError(
            "This process was forked from one that has computed codes, and has none of its threads: it would wait for "
            'them for ever. Start it with multiprocessing.get_context("spawn"), or call torch.set_num_threads(1) '
            "in it first."
        )


def choose(backend: str, prepared: Prepared, coding: Coding) -> str:
    """The backend that will run; left to us, the compiled one of the device where it can, and torch elsewhere.

    Raises: OptionError for an unknown name; BackendError if the one that was named cannot run.
    """
    check_threads()
    if backend not in get_args(Backend):
        raise OptionError(f"backend must be one of {', '.join(get_args(Backend))}. Got {backend!r} instead.")
    if prepared.products != "float32" and coding.method != "mp":
        raise OptionError(
            f"products={prepared.products!r} are for plain pursuit (method='mp'). Got method={coding.method!r}; "
            "prepare the atoms without it."
        )
    reason_against = {"numba": _not_numba, "triton": _not_triton}
    if backend == "auto":
        fitting = {"cpu": "numba", "cuda": "triton"}.get(prepared.device.type, "torch")
        return "torch" if fitting == "torch" or reason_against[fitting](prepared, coding) else fitting
    if backend in reason_against and (reason := reason_against[backend](prepared, coding)):
        raise BackendError(f"The {backend} backend cannot run here: {reason}. Use backend='torch' or 'auto'.")
    return backend


def route(backend: str, prepared: Prepared, coding: Coding) -> str:
    """How codes are computed, in words."""
    if backend == "reference":
        return backend
    kept = prepared.kind if coding.method == "mp" or backend == "numba" else "none"
    products = prepared.products
    if backend == "numba" and prepared.halves() is not None:
        products = "bfloat16, looked at again in float32"
    return f"{backend}, {_KEPT[kept]}" + (f", first products in {products}" if products != "float32" else "")


@cache
def _triton_is_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def _not_numba(prepared: Prepared, _: Coding) -> str:
    if prepared.device.type != "cpu":
        return f"it needs the CPU, and these atoms are on {prepared.device}"
    if _threads_are_gone:
        return "this process was forked from one that has used it, and has none of its threads"
    if prepared.products != "float32":
        return f"its codes are those of float32, and these atoms were prepared with products={prepared.products!r}"
    if prepared.kind != "int16":
        return f"it needs the whole Gram matrix, which the memory budget ({prepared.budget:,} bytes) has no room for"
    return ""


def _not_triton(prepared: Prepared, coding: Coding) -> str:
    if not _triton_is_installed():
        return "triton is not installed"
    if prepared.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"it needs a GPU, and these atoms are on {prepared.device} (TRITON_INTERPRET=1 interprets it slowly)"
    if coding.method != "mp":
        return f"it has plain pursuit only, not {coding.method!r}"
    if coding.stops and prepared.products != "float32":
        return f"it infers what is left of a row from correlations, which products={prepared.products!r} round"
    if prepared.kind != "float32":
        return (
            "it needs the whole Gram matrix in float32, which the memory budget "
            f"({prepared.budget:,} bytes) has no room for"
        )
    return ""
