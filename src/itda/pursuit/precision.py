"""Products of float32 matrices are products in float32 here, whatever the process around has asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_EXACT = ("none", "ieee")


@contextmanager
def plain_float32(device: torch.device) -> Iterator[None]:
    """No autocast, no TF32 or bfloat16 in float32 products, no gradients, and no inference mode.

    A pursuit may run inside a forward pass under autocast, or in a process that trades precision for speed.
    Buffers that were made in inference mode could not be used outside of it.
    """
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False), _exact():
        yield


@contextmanager
def _exact() -> Iterator[None]:
    settings: list[Any] = [getattr(backend, "matmul", None) for backend in (torch.backends.cuda, torch.backends.mkldnn)]
    if hasattr(settings[0], "fp32_precision"):  # from torch 2.9
        changed = [(item, item.fp32_precision) for item in settings if item.fp32_precision not in _EXACT]
        for item, _ in changed:
            item.fp32_precision = "ieee"
        try:
            yield
        finally:
            for item, before in changed:
                item.fp32_precision = before
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def tf32(wanted: bool) -> Iterator[None]:
    """Products on a GPU in TF32, if wanted."""
    if not wanted:
        yield
        return
    matmul = torch.backends.cuda.matmul
    name, value = ("fp32_precision", "tf32") if hasattr(matmul, "fp32_precision") else ("allow_tf32", True)
    before = getattr(matmul, name)
    setattr(matmul, name, value)
    try:
        yield
    finally:
        setattr(matmul, name, before)
