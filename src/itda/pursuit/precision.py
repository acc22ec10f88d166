"""Products of float32 matrices are products in float32 here, whatever the process around has asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_EXACT = ("none", "ieee")


@contextmanager
def plain_float32(device: torch.device) -> Iterator[None]:
    """No autocast, TF32 or bfloat16 in float32 products, no other default data type, no gradients, no inference mode.

    A pursuit may run inside a forward pass under autocast, or in a process that trades precision for speed.
    Buffers that were made in inference mode could not be used outside of it.
    """
    uncast = torch.autocast(device.type, enabled=False)
    with torch.inference_mode(False), torch.no_grad(), uncast, _exact(), by_default():
        yield


@contextmanager
def by_default() -> Iterator[None]:
    """Tensors are float32 where nothing else is said, though a process may load its models as bfloat16 by default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


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
