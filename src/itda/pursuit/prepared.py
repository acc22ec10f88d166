"""Atoms and their Gram matrix, made once and used by every pursuit; both can grow."""

import torch
from torch import Tensor

from itda.errors import BackendError


class Prepared:
    """Unit atoms (A, D) with their Gram matrix (A, A), in buffers that double when they are full.

    Adding m atoms costs one product of m x A x D; the Gram matrix is copied only when it doubles.
    """

    def __init__(self, atoms: Tensor, *, capacity: int = 0) -> None:
        size, width = atoms.shape
        capacity = max(capacity, size)
        self._atoms = atoms.new_empty((capacity, width))
        self._gram = _square(atoms, capacity)
        self._size = 0
        self.splits: list[int] = []
        """How many atoms each `append` added: the last bits of the Gram matrix depend on it."""
        if size:
            self.append(atoms)

    def __len__(self) -> int:
        return self._size

    @property
    def atoms(self) -> Tensor:
        """float32 (A, D), a view."""
        return self._atoms[: self._size]

    @property
    def gram(self) -> Tensor:
        """float32 (A, A), a view of the buffer: its rows are as long as the capacity."""
        return self._gram[: self._size, : self._size]

    @property
    def width(self) -> int:
        """D."""
        return self._atoms.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the atoms are."""
        return self._atoms.device

    def append(self, atoms: Tensor) -> None:
        """Add unit atoms (m, D) behind those that are there."""
        start, end = self._size, self._size + len(atoms)
        if end > len(self._atoms):
            self._grow(max(end, 2 * len(self._atoms)))
        self._atoms[start:end] = atoms
        products = atoms @ self._atoms[:end].T
        self._gram[start:end, :end] = products
        self._gram[:start, start:end] = products[:, :start].T
        self.splits.append(len(atoms))
        self._size = end

    def _grow(self, capacity: int) -> None:
        atoms, gram = self.atoms, self.gram
        self._atoms = atoms.new_empty((capacity, self.width))
        self._atoms[: self._size] = atoms
        self._gram = _square(gram, capacity)
        self._gram[: self._size, : self._size] = gram


def _square(like: Tensor, size: int) -> Tensor:
    try:
        return like.new_empty((size, size))
    except RuntimeError as error:  # torch has no error of its own for this on the CPU
        needed = size * size * like.element_size() / 2**30
        raise BackendError(
            f"The Gram matrix of {size:,} atoms needs {needed:,.0f} GiB, which are not there. Ask for fewer atoms."
        ) from error
