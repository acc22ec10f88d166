"""Atoms with all that every pursuit on them needs, made once; they can grow."""

from typing import Any

import torch
from torch import Tensor

from itda.options import one_of
from itda.pursuit import memory as memory_plan
from itda.pursuit.buffers import GrowingMatrix, Scratch
from itda.pursuit.gram import GramRows, WholeGram
from itda.pursuit.halves import HalfProducts
from itda.pursuit.precision import plain_float32, tf32

_ROUNDED = {"bfloat16": torch.bfloat16, "float16": torch.float16}
PRODUCTS = ("float32", "tf32", *_ROUNDED)
# Under these sizes products in bfloat16 save less than looking again at the atoms they leave open costs
_WIDE, _MANY = 512, 1024
_SMALLEST_BUFFER = 256  # atoms


class Prepared:
    """Unit atoms (A, D), and their inner products as far as the memory goes.

    Adding m atoms costs one product of m x A x D; the matrix is copied only when its buffer doubles.
    """

    def __init__(
        self,
        atoms: Tensor,
        *,
        capacity: int = 0,
        memory: Any = None,
        products: str = "float32",
        half_products: bool = True,
    ) -> None:
        """Compute what fits.

        Args:
            atoms: float32 (A, D), every row of norm 1.
            capacity: how many atoms there will be, if that is known.
            memory: bytes for the inner products, or text such as "2GiB"; None takes half of what is free.
            products: precision of the first correlations: `float32`, or, faster on a GPU and less exact,
                `tf32`, `bfloat16` or `float16` (sums in float32).
            half_products: on a CPU, allow first correlations from bfloat16 products; the codes are as good, but their
                last bits then depend on which atoms there were when it was first used.
        Raises: OptionError for a budget that cannot be read.
        """
        size, width = atoms.shape
        self.budget = memory_plan.parse(memory, atoms.device)
        self._atoms = GrowingMatrix(width, atoms.dtype, device=atoms.device, capacity=max(capacity, size))
        self._width, self._device = width, atoms.device
        self._gram: WholeGram | GramRows | None = None
        self._capacity = 0
        self._kind: memory_plan.Kind = "none"
        one_of("products", products, PRODUCTS)
        self.products = products
        self._rounded: Tensor | None = None
        self._half_products = half_products and width >= _WIDE and atoms.device.type == "cpu" and _has_matrix_units()
        self._halves: HalfProducts | None = None
        self.scratch = Scratch(atoms.device)
        """For the first correlations of a block."""
        self.splits: list[int] = []
        """How many atoms each `append` added: the last bits of the inner products depend on it."""
        self._reserve(max(capacity, size))
        if size:
            self.append(atoms)

    def __len__(self) -> int:
        return len(self.atoms)

    @property
    def atoms(self) -> Tensor:
        """float32 (A, D), a view."""
        return self._atoms.filled

    @property
    def gram(self) -> WholeGram | GramRows | None:
        """The inner products, whole or some rows; None where there is no memory for them."""
        return self._gram

    @property
    def kind(self) -> str:
        """What is kept: `float32` or `int16` for the whole matrix, `rows` of the atoms in use, or `none`."""
        return self._kind

    @property
    def width(self) -> int:
        """D."""
        return self._width

    @property
    def device(self) -> torch.device:
        """Where the atoms are."""
        return self._device

    def halves(self) -> HalfProducts | None:
        """The atoms for products in bfloat16, where this processor is much faster at those."""
        if not self._half_products or len(self) < _MANY:
            return None
        if self._halves is None:
            self._halves = HalfProducts(self.atoms)
        elif len(self._halves.spread) < len(self):
            self._halves.append(self.atoms[len(self._halves.spread) :])
        return self._halves

    def first_correlations(self, rows: Tensor) -> Tensor:
        """Unit rows (n, D) times all atoms (n, A): float32, or half precision where `products` asks for it."""
        if self.products in _ROUNDED:
            kind = _ROUNDED[self.products]
            if self._rounded is None or len(self._rounded) < len(self):
                self._rounded = self.atoms.to(kind)
            return rows.to(kind) @ self._rounded.T
        with tf32(self.products == "tf32"):
            return rows @ self.atoms.T

    def append(self, atoms: Tensor) -> None:
        """Add unit atoms (m, D) behind those that are there."""
        size = len(self) + len(atoms)
        if size > self._capacity:
            doubled = max(size, 2 * self._capacity, _SMALLEST_BUFFER)
            # Where the doubled buffer would not fit but the matrix does, as large a one as fits
            self._reserve(min(doubled, max(size, memory_plan.most_atoms(self.budget))))
        self._atoms.append(atoms)
        if self._gram is not None:
            with plain_float32(self._device):
                self._gram.append(self.atoms, atoms)
        self.splits.append(len(atoms))

    def _reserve(self, capacity: int) -> None:
        """Make room for inner products of `capacity` atoms, or for what of them fits."""
        kind, held = memory_plan.kind_of_gram(capacity, self.budget, self._device)
        if isinstance(self._gram, WholeGram) and kind == self._kind:
            self._gram = self._gram.grown(capacity)
        else:
            self._gram = self._fresh(kind, held, capacity)
        self._kind, self._capacity = kind, capacity

    def _fresh(self, kind: memory_plan.Kind, held: int, capacity: int) -> WholeGram | GramRows | None:
        if kind == "none":
            return None
        if kind == "rows":
            return GramRows(held, capacity, self.atoms)
        gram = WholeGram(capacity, torch.float32 if kind == "float32" else torch.int16, self._device)
        gram.append(self.atoms, self.atoms)
        return gram


def _has_matrix_units() -> bool:
    known = getattr(torch.cpu, "get_capabilities", None)  # torch 2.10
    return bool(known and known().get("amx_bf16", False))
