"""Buffers that grow without being copied at every step, and lie on large pages where the system has them."""

import math

import numpy as np
import torch
from torch import Tensor

from itda.errors import BackendError


def empty(*shape: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
    """An uninitialised tensor.

    On the CPU its memory is NumPy's, which asks for large pages: a pursuit reads random rows of a large
    matrix, and with pages of 4 KB every row costs a page walk, and a new buffer a fault a page.
    """
    size = math.prod(shape) * dtype.itemsize
    if torch.device(device).type != "cpu" or not size:
        return torch.empty(shape, dtype=dtype, device=device)
    try:
        return torch.from_numpy(np.empty(size, np.uint8)).view(dtype).view(shape)
    except MemoryError as error:
        raise BackendError(
            f"A matrix of {' x '.join(map('{:,}'.format, shape))} needs {size / 2**30:,.0f} GiB, which are not there. "
            "Ask for fewer atoms."
        ) from error


class GrowingMatrix:
    """Rows behind rows, in a buffer that doubles when it is full."""

    def __init__(
        self, width: int, dtype: torch.dtype, *, device: torch.device | str = "cpu", capacity: int = 0
    ) -> None:
        self._buffer = empty(capacity, width, dtype=dtype, device=device)
        self._size = 0

    @property
    def filled(self) -> Tensor:
        """The rows that are there, a view."""
        return self._buffer[: self._size]

    def append(self, rows: Tensor) -> None:
        """Put rows behind those that are there."""
        end = self._size + len(rows)
        if end > len(self._buffer):
            grown = empty(
                max(end, 2 * len(self._buffer)), rows.shape[1], dtype=self._buffer.dtype, device=self._buffer.device
            )
            grown[: self._size] = self.filled
            self._buffer = grown
        self._buffer[self._size : end] = rows
        self._size = end


class Scratch:
    """A buffer that is used again and again: new pages cost as much as filling them."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spare: list[Tensor] = []

    def take(self, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """An uninitialised matrix. Give it back with `release`; whoever asks meanwhile gets another one."""
        wanted = rows * columns * dtype.itemsize
        try:
            buffer = self._spare.pop()
        except IndexError:  # none there, or another thread was faster
            buffer = torch.empty(0, dtype=torch.uint8)
        if len(buffer) < wanted:
            buffer = empty(wanted, dtype=torch.uint8, device=self._device)
        return buffer[:wanted].view(dtype).view(rows, columns)

    def release(self, matrix: Tensor) -> None:
        """Take a matrix back."""
        whole = torch.empty(0, dtype=torch.uint8, device=matrix.device).set_(matrix.untyped_storage())
        self._spare = [whole]
