"""Which backends exist, which can run here, and which one "auto" takes."""

from typing import Literal, get_args

import torch

from itda.errors import BackendError, OptionError

Backend = Literal["auto", "reference", "torch", "numba"]


def choose(backend: str, device: torch.device, method: str) -> str:
    """The backend that will run `method` on `device`; left to us, numba where it can and torch elsewhere.

    Raises: OptionError for an unknown name; BackendError if the one that was named cannot run there.
    """
    if backend not in get_args(Backend):
        raise OptionError(f"backend must be one of {', '.join(get_args(Backend))}. Got {backend!r} instead.")
    if backend == "auto":
        return "numba" if device.type == "cpu" and method == "mp" else "torch"
    if backend == "numba" and device.type != "cpu":
        raise BackendError(f"The numba backend runs on the CPU; these rows are on {device}. Use backend='torch'.")
    if backend == "numba" and method != "mp":
        raise BackendError(f"The numba backend has no {method!r} yet. Use backend='torch'.")
    return backend
