"""The inner products of all atoms with each other: all of them, or those of the atoms in use.

Each kind gives rows of the matrix by atom (`rows`) and takes in new atoms (`append`).
"""

from threading import Lock
from typing import Any

import torch
from torch import Tensor

from itda.pursuit.buffers import empty

# 16 bits over the range -1.024 to 1.024: atoms may be a little longer than 1
SCALE = 1 / 32000
ROUNDING = SCALE / 2
"""What an inner product loses at most by being stored in 16 bits."""


def to_int16(products: Tensor) -> Tensor:
    """Inner products of unit atoms as multiples of SCALE; overwrites them."""
    return products.mul_(1 / SCALE).round_().to(torch.int16)


_AT_ONCE = 1024  # atoms whose products are held in float32 before they are stored


class WholeGram:
    """The whole matrix in float32 or in 16 bits, in a square buffer."""

    def __init__(self, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        self._buffer = empty(capacity, capacity, dtype=dtype, device=device)
        self._size = 0

    @property
    def capacity(self) -> int:
        """Atoms that fit."""
        return len(self._buffer)

    @property
    def matrix(self) -> Tensor:
        """(A, A), a view of the buffer: its rows are as long as the capacity."""
        return self._buffer[: self._size, : self._size]

    @property
    def buffer(self) -> Tensor:
        """The whole buffer (capacity, capacity), contiguous; what lies beyond A is not initialised."""
        return self._buffer

    @property
    def rounding(self) -> float:
        """The largest error of an entry."""
        return ROUNDING if self._buffer.dtype == torch.int16 else 0.0

    def rows(self, chosen: Tensor) -> Tensor:
        """float32 (n, A) of the atoms chosen (n,)."""
        rows = self.matrix[chosen]
        return rows.float().mul_(SCALE) if rows.dtype == torch.int16 else rows

    def append(self, atoms: Tensor, new: Tensor) -> None:
        """Take in new atoms (m, D), which `atoms` (A + m, D) has already."""
        start, end = self._size, self._size + len(new)
        products = empty(min(_AT_ONCE, len(new)), end, device=new.device)
        for first in range(start, end, _AT_ONCE):
            last = min(first + _AT_ONCE, end)
            part = torch.mm(atoms[first:last], atoms[:end].T, out=products[: last - first])
            self._buffer[first:last, :end] = part if self._buffer.dtype == torch.float32 else to_int16(part)
        self._buffer[:start, start:end] = self._buffer[start:end, :start].T
        self._size = end

    def grown(self, capacity: int) -> "WholeGram":
        """The same in a larger buffer."""
        larger = WholeGram(capacity, self._buffer.dtype, self._buffer.device)
        larger._buffer[: self._size, : self._size] = self.matrix
        larger._size = self._size
        return larger


class GramRows:
    """Rows of the matrix, in 16 bits, of the atoms that were used last; the others are computed when needed."""

    rounding = ROUNDING

    def __init__(self, held: int, capacity: int, atoms: Tensor) -> None:
        device = atoms.device
        self._atoms = atoms
        self._buffer = empty(held, capacity, dtype=torch.int16, device=device)
        self._place = torch.full((capacity,), -1, dtype=torch.int64, device=device)
        self._owner = torch.full((held,), -1, dtype=torch.int64, device=device)
        self._last_used = torch.full((held,), -1, dtype=torch.int64, device=device)
        self._clock = 0
        self._lock = Lock()  # several threads may encode on the same atoms, and each moves rows about
        self.computed = 0
        """Rows computed so far."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=Lock())  # a copy, in this process or another, has threads of its own

    @property
    def capacity(self) -> int:
        """Atoms that fit."""
        return len(self._place)

    @property
    def held(self) -> int:
        """Rows that are kept; questions for more different atoms than this compute some of them again and again."""
        return len(self._owner)

    def rows(self, chosen: Tensor) -> Tensor:
        """float32 (n, A) of the atoms chosen (n,)."""
        atoms = torch.unique(chosen)
        if len(atoms) > self.held:
            return torch.cat([self.rows(part) for part in torch.split(chosen, self.held)])
        with self._lock:
            return self._held(atoms, chosen)

    def _held(self, atoms: Tensor, chosen: Tensor) -> Tensor:
        """Those of the chosen, all of which are among so many different atoms (m,); computes those that are missing."""
        self._clock += 1
        known = self._place[atoms]
        self._last_used[known[known >= 0]] = self._clock
        missing = atoms[known < 0]
        if len(missing):
            oldest = torch.argsort(self._last_used, stable=True)[: len(missing)]
            dropped = self._owner[oldest]
            self._place[dropped[dropped >= 0]] = -1
            self._buffer[oldest, : len(self._atoms)] = to_int16(self._atoms[missing] @ self._atoms.T)
            self._owner[oldest], self._place[missing], self._last_used[oldest] = missing, oldest, self._clock
            self.computed += len(missing)
        return self._buffer[self._place[chosen], : len(self._atoms)].float().mul_(SCALE)

    def append(self, atoms: Tensor, new: Tensor) -> None:
        """Take in new atoms (m, D), which `atoms` (A + m, D) has already."""
        start = len(atoms) - len(new)
        used = torch.nonzero(self._owner >= 0)[:, 0]
        if len(used) and len(new):
            self._buffer[used, start : len(atoms)] = to_int16(atoms[self._owner[used]] @ new.T)
        self._atoms = atoms
