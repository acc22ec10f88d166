"""A representation: the rows of one place, with what similarity measures need of it alone, computed once.

Everything linear follows from sums over rows in float64, so a representation may be far larger than memory; what
compares rows with rows (kernels, distances, neighbours) looks at a sample spread evenly over them.
"""

from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from itda.data.activations import Activations, BareRows
from itda.data.entries import RowsOnDisk
from itda.errors import ActivationError, ShapeError
from itda.shapes import as_matrix, finite

FOLDS = 5
"""Stretches of rows, for what is fitted on some rows and measured on others."""
SAMPLE = 2000
"""Rows that are compared one with another."""
_BLOCK = 8192
_ROUNDING = 1e-12  # of float64, of the length of a row
_LEAST = 1e-10  # of the largest variance; below it a direction is rounding noise or constant


class Directions(NamedTuple):
    """Principal directions with any variance."""

    variances: Tensor
    """float64 (R,), the largest first."""
    axes: Tensor
    """float64 (D, R), orthonormal columns."""


class Sums:
    """Sums over rows (n, D) of a representation, from which its linear measures follow.

    Rows come less a fixed row near their mean, so that nothing cancels; no measure here depends on it.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.rows = torch.zeros(width, dtype=torch.float64)
        """Sum of the rows, (D,)."""
        self.products = torch.zeros((width, width), dtype=torch.float64)
        """Sum of outer products, (D, D)."""
        self.by_length = torch.zeros(width, dtype=torch.float64)
        """Sum of rows, each times its squared length, (D,)."""
        self.lengths = 0.0
        """Sum of squared lengths, squared."""

    def add(self, rows: Tensor) -> None:
        """Take float64 rows (n, D)."""
        squared = rows.square().sum(1)
        self.count += len(rows)
        self.rows += rows.sum(0)
        self.products += rows.T @ rows
        self.by_length += squared @ rows
        self.lengths += float(squared @ squared)

    @classmethod
    def total(cls, parts: "list[Sums]") -> "Sums":
        """All parts together."""
        whole = cls(len(parts[0].rows))
        for part in parts:
            whole.count += part.count
            whole.rows += part.rows
            whole.products += part.products
            whole.by_length += part.by_length
            whole.lengths += part.lengths
        return whole

    @property
    def covariance(self) -> Tensor:
        """Sum of outer products about the mean, float64 (D, D): the covariance times the number of rows."""
        return self.products - torch.outer(self.rows, self.rows) / self.count


class Representation:
    """Rows (N, D) of one place."""

    def __init__(self, rows: BareRows | RowsOnDisk, *, whiten: bool = False) -> None:
        self._rows, self._whiten = rows, whiten
        self._plain: Representation | None = None
        self._gathered: _Gathered | None = None
        self._without: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    @classmethod
    def of(cls, rows: Any, name: str = "rows", *, whiten: bool = False) -> Self:
        """A representation of a torch or numpy matrix (N, D), or of Activations in memory or in a store.

        Raises: ShapeError for what is no matrix; ActivationError for NaN or infinity.
        """
        if isinstance(rows, Activations):
            rows = rows.rows  # their sources would be cut with every piece
        if not isinstance(rows, RowsOnDisk):
            rows = BareRows(as_matrix(rows, name, "N, D").cpu())
        if not len(rows):
            raise ActivationError(f"{name} must have rows. Got none.")
        return cls(rows, whiten=whiten)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def whitened(self) -> Self:
        """The same with one variance in every direction that has any; itself if it is already."""
        if self._whiten:
            return self
        other = type(self)(self._rows, whiten=True)
        other._plain = self  # whose directions are known already, or will be asked for too
        return other

    @property
    def width(self) -> int:
        """D, of the rows as they are; whitened ones have as many columns as there are directions with variance."""
        return self._whitener.shape[1] if self._whiten else self._rows.width

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """The rows in order in float64 pieces, each with the fold it is of; less a fixed row, whitened if so asked.

        Whoever reads to the end for the first time has gathered the sums and the sample too.

        Raises: ActivationError at the end, if all rows are the same.
        """
        if self._gathered:
            yield from self._read()
            return
        folds = [Sums(self.width) for _ in fold_ends(len(self))]
        places, here, sample = sampled(len(self)), 0, []
        for fold, rows in self._read():
            folds[fold].add(rows)
            sample.append(rows[places[(places >= here) & (places < here + len(rows))] - here])
            here += len(rows)
            yield fold, rows
        whole = Sums.total(folds)
        if whole.covariance.trace() <= len(self) * (_ROUNDING * torch.linalg.vector_norm(self._shift)) ** 2:
            raise ActivationError("All rows are the same: a representation without any variance is like no other.")
        self._gathered = _Gathered(folds, whole, torch.cat(sample))

    def _read(self) -> Iterator[tuple[int, Tensor]]:
        ends, here = fold_ends(len(self)), 0
        for block in self._rows.blocks(_BLOCK):
            rows = finite(block.rows, "rows").double() - self._shift
            rows = rows @ self._whitener if self._whiten else rows
            cuts = [end - here for end in ends if here < end < here + len(rows)]
            for piece in torch.tensor_split(rows, cuts):
                yield bisect_right(ends, here), piece
                here += len(piece)

    @cached_property
    def _shift(self) -> Tensor:
        return next(iter(self._rows.blocks(_BLOCK))).rows.double().mean(0)

    @cached_property
    def _whitener(self) -> Tensor:
        """float64 (D, R): rows less their mean have unit variance in every direction after it."""
        plain = self._plain or Representation(self._rows)
        if len(plain) <= plain.width:
            raise ShapeError(
                f"Whitening needs more rows than columns. Got {len(plain)} rows of width {plain.width}: take more "
                "tokens, or a measure that does not whiten."
            )
        found = plain.directions
        return found.axes * (found.variances / len(plain)).rsqrt()

    def _gather(self) -> "_Gathered":
        if not self._gathered:
            for _ in self.blocks():
                pass
        assert self._gathered
        return self._gathered

    @property
    def folds(self) -> list[Sums]:
        """Sums over each of at most FOLDS stretches of rows, in order."""
        return self._gather().folds

    @property
    def sums(self) -> Sums:
        """Sums over all rows."""
        return self._gather().sums

    @cached_property
    def sample(self) -> Tensor:
        """float32 (n, R) of at most SAMPLE rows spread evenly, less the mean of all."""
        return (self._gather().sample - self.sums.rows / self.sums.count).float()

    @cached_property
    def directions(self) -> Directions:
        """Principal directions with any variance."""
        variances, axes = torch.linalg.eigh(self.sums.covariance)
        variances, axes = variances.flip(0), axes.flip(1)
        count = int((variances > _LEAST * variances[0]).sum())
        return Directions(variances[:count], axes[:, :count])

    def without_fold(self, fold: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of the rows of all other folds, float64: mean (D,), variances (D,) times their number, and their axes (D, D).

        Found once: of many pairs, each regression from these rows needs it.
        """
        if fold not in self._without:
            rest = self.folds[fold]
            count = len(self) - rest.count
            mean = (self.sums.rows - rest.rows) / count
            products = self.sums.products - rest.products - count * torch.outer(mean, mean)
            self._without[fold] = (mean, *torch.linalg.eigh(products))
        return self._without[fold]


class _Gathered(NamedTuple):
    folds: list[Sums]
    sums: Sums
    sample: Tensor


def fold_ends(count: int) -> list[int]:
    """Where each of at most FOLDS stretches of `count` rows ends: rows of a document stay together, mostly."""
    folds = min(FOLDS, count)
    return [count * (fold + 1) // folds for fold in range(folds)]


def sampled(count: int, size: int = SAMPLE) -> Tensor:
    """Indices int64 of at most `size` of `count` rows, spread evenly."""
    wanted = min(count, size)
    return torch.arange(wanted) * count // wanted
