"""Measures that follow from sums over rows: linear CKA, the CCA family, Procrustes, linear regression."""

import math
from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from itda.compare.representations import Directions, Representation
from itda.errors import ShapeError

_PENALTIES = torch.logspace(-6, 1, 8, dtype=torch.float64)  # in units of the mean variance of a direction
_VARIANCE = 0.99  # of SVCCA
_COMPONENTS = 20  # of SVCCA with a fixed number

_Piece = tuple[int, Tensor]
"""Rows (n, D), and the fold they are of."""


class _Cross:
    """Sums over rows of two representations, those of the second beside those of the first."""

    def __init__(self, first: int, second: int) -> None:
        self.products = torch.zeros((first, second), dtype=torch.float64)
        """Sum of outer products, (D, E)."""
        self.by_first = torch.zeros(second, dtype=torch.float64)
        """Sum of the second's rows, each times the squared length of the first's, (E,)."""
        self.by_second = torch.zeros(first, dtype=torch.float64)
        self.lengths = 0.0
        """Sum of products of squared lengths."""

    def add(self, first: Tensor, second: Tensor) -> None:
        long, wide = first.square().sum(1), second.square().sum(1)
        self.products += first.T @ second
        self.by_first += long @ second
        self.by_second += wide @ first
        self.lengths += float(long @ wide)

    @property
    def swapped(self) -> "_Cross":
        """The same with the second representation first."""
        other = _Cross(0, 0)
        other.products, other.lengths = self.products.T, self.lengths
        other.by_first, other.by_second = self.by_second, self.by_first
        return other


def _in_step(first: Iterator[_Piece], second: Iterator[_Piece]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Pieces of two representations of as many rows, cut where either is cut: a store is, at the ends of shards."""
    others = (piece for piece in second if len(piece[1]))
    there = torch.empty(0, 0)
    for fold, here in first:
        while len(here):
            if not len(there):
                _, there = next(others)
            count = min(len(here), len(there))
            yield fold, here[:count], there[:count]
            here, there = here[count:], there[count:]
    for _ in others:  # to its end, where it has gathered what else is asked of it
        raise ShapeError("Both representations must be of the same rows.")


class Pair:
    """Two representations of the same N rows, in the same order.

    Raises: ShapeError if they have not as many rows.
    """

    def __init__(self, first: Representation, second: Representation, *, twin: "Pair | None" = None) -> None:
        """`twin` has the same the other way round: what it has read need not be read again."""
        if len(first) != len(second):
            raise ShapeError(
                "Both representations must be of the same rows in the same order. "
                f"Got {len(first)} rows and {len(second)}."
            )
        self.first, self.second, self._twin = first, second, twin

    @property
    def swapped(self) -> "Pair":
        """The second beside the first."""
        return Pair(self.second, self.first, twin=self)

    @cached_property
    def _folds(self) -> list[_Cross]:
        """Sums over each stretch of rows; one reading of both, for what is needed of each alone too."""
        if self._twin:
            return [fold.swapped for fold in self._twin._folds]
        found: list[_Cross] = []
        for fold, first, second in _in_step(self.first.blocks(), self.second.blocks()):
            if fold == len(found):
                found.append(_Cross(first.shape[1], second.shape[1]))
            found[fold].add(first, second)
        return found

    @cached_property
    def _products(self) -> Tensor:
        return torch.stack([fold.products for fold in self._folds]).sum(0)

    @cached_property
    def covariance(self) -> Tensor:
        """Sum of outer products about both means, float64 (D, E)."""
        first, second = self.first.sums, self.second.sums
        return self._products - torch.outer(first.rows, second.rows) / first.count

    def cka(self) -> float:
        """||X'Y||² / (||X'X|| ||Y'Y||), X and Y centred, Frobenius norms.

        Unchanged by rotation, uniform scale and shift. Rises as rows get fewer than columns; `cka_debiased` does not.
        Source: Kornblith et al. 2019.
        """
        lengths = [torch.linalg.matrix_norm(one.sums.covariance) for one in (self.first, self.second)]
        return float(torch.linalg.matrix_norm(self.covariance) ** 2 / (lengths[0] * lengths[1]))

    def cka_debiased(self) -> float:
        """Linear CKA of unbiased estimates of HSIC: 0 in the mean for unrelated rows, and below 0 by chance.

        Unchanged by rotation, uniform scale and shift.
        Source: Song et al. 2012; Nguyen, Raghu & Kornblith 2021.
        """
        if len(self.first) < 4:
            raise ShapeError(f"cka_debiased needs at least 4 rows. Got {len(self.first)}.")
        cross = self._folds
        between = _unbiased(
            self.first, self.second,
            self._products,
            torch.stack([fold.by_first for fold in cross]).sum(0),
            torch.stack([fold.by_second for fold in cross]).sum(0),
            sum(fold.lengths for fold in cross),
        )  # fmt: skip
        alone = [
            _unbiased(one, one, one.sums.products, one.sums.by_length, one.sums.by_length, one.sums.lengths)
            for one in (self.first, self.second)
        ]
        if min(alone) <= 0:
            raise ShapeError(f"cka_debiased cannot tell {len(self.first)} rows from chance. Take more rows.")
        return between / math.sqrt(alone[0] * alone[1])

    def cca(self) -> float:
        """Mean canonical correlation over the smaller number of directions.

        Unchanged by any invertible linear map and shift. Source: Hotelling 1936; Raghu et al. 2017.
        """
        return float(self._correlations(self.first.directions, self.second.directions).mean())

    def svcca(self) -> float:
        """Mean canonical correlation of the principal directions that hold 99 % of the variance of each.

        Divided by the smaller number of directions. Unchanged by rotation, uniform scale and shift.
        Source: Raghu et al. 2017.
        """
        return float(self._svcca_correlations().mean())

    def svcca_larger(self) -> float:
        """The canonical correlations of svcca, their sum divided by the larger number of directions.

        Where the numbers differ this says mostly how much they do. Unchanged by rotation, uniform scale and shift.
        Source: Raghu et al. 2017, with the denominator that makes it 1 only for as many directions.
        """
        sizes = [len(_with_variance(one.directions).variances) for one in (self.first, self.second)]
        return float(self._svcca_correlations().sum() / max(sizes))

    def svcca_20(self) -> float:
        """Mean canonical correlation of the first 20 principal directions of each (all, where there are fewer).

        Unchanged by rotation, uniform scale and shift. Source: Raghu et al. 2017, with one number of directions for
        all, so that no representation is alike by how many it has.
        """
        return float(self._correlations(*(_leading(one.directions) for one in (self.first, self.second))).mean())

    def pwcca(self) -> float:
        """Mean canonical correlation, each weighted by how much of the first representation its direction accounts for.

        Not symmetric. Unchanged by invertible linear maps of the second; of the first only by uniform scale, shift and
        another order or sign of its columns.
        Source: Morcos, Raghu & Bengio 2018.
        """
        left, correlations, _ = self._canonical(self.first.directions, self.second.directions)
        variances, axes = self.first.directions
        # Inner products of canonical variables and centred columns, a row a variable
        accounts = (left.T * variances.sqrt()) @ axes.T
        weights = accounts.abs().sum(1)
        return float((weights @ correlations) / weights.sum())

    def procrustes(self) -> float:
        """||X'Y||_* / (||X|| ||Y||), X and Y centred: the cosine left after the best rotation.

        Unchanged by rotation, uniform scale and shift. 1 - it is half the squared Procrustes distance of unit size.
        Source: Schönemann 1966; Ding, Denain & Steinhardt 2021.
        """
        sizes = [one.directions.variances.sum().sqrt() for one in (self.first, self.second)]
        return float(torch.linalg.matrix_norm(self.covariance, "nuc") / (sizes[0] * sizes[1]))

    def regression(self) -> float:
        """R² of the second from the first by ridge regression, on stretches of rows that it was not fitted on.

        The penalty is the best of eight on all these stretches together. Not symmetric; may be negative. Unchanged by
        rotation, uniform scale and shift of either. Source: Hoerl & Kennard 1970; as a similarity Kornblith et al.
        2019, there in-sample.
        """
        if len(self._folds) < 2 or len(self.first) < 2 * len(self._folds):
            raise ShapeError(f"regression needs at least 10 rows. Got {len(self.first)}.")
        missed = torch.zeros(len(_PENALTIES), dtype=torch.float64)
        there = 0.0
        for held_out in range(len(self._folds)):
            errors, energy = self._held_out_errors(held_out)
            missed, there = missed + errors, there + energy
        if there <= 0:
            raise ShapeError("regression onto rows that are all the same says nothing.")
        return float(1 - missed.min() / there)

    def _held_out_errors(self, held_out: int) -> tuple[Tensor, float]:
        """Squared errors on one fold by penalty, and the fold's squares about the mean of the others."""
        first, second, cross = self.first.folds[held_out], self.second.folds[held_out], self._folds[held_out]
        count = len(self.first) - first.count
        mean, variances, axes = self.first.without_fold(held_out)
        target_mean = (self.second.sums.rows - second.rows) / count
        products = self._products - cross.products
        towards = products - count * torch.outer(mean, target_mean)
        # Sums about the means of the rows that it was fitted on
        own = _about(first.products, first.rows, first.rows, mean, mean, first.count)
        between = _about(cross.products, first.rows, second.rows, mean, target_mean, first.count)
        energy = float(_about(second.products, second.rows, second.rows, target_mean, target_mean, first.count).trace())
        inner, own, between = axes.T @ towards, axes.T @ own @ axes, axes.T @ between
        errors = []
        for penalty in _PENALTIES * variances.clamp(min=0).mean():
            weights = inner / (variances.clamp(min=0) + penalty).clamp(min=torch.finfo(torch.float64).tiny)[:, None]
            errors.append((weights * (own @ weights)).sum() - 2 * (weights * between).sum() + energy)
        return torch.stack(errors), energy

    def _svcca_correlations(self) -> Tensor:
        return self._correlations(*(_with_variance(one.directions) for one in (self.first, self.second)))

    def _correlations(self, first: Directions, second: Directions) -> Tensor:
        return self._canonical(first, second)[1]

    def _canonical(self, first: Directions, second: Directions) -> tuple[Tensor, Tensor, Tensor]:
        """Left vectors (R, M), correlations (M,) and right vectors (M, S) between whitened directions."""
        needed = len(first.variances) + len(second.variances)
        if len(self.first) <= needed:
            raise ShapeError(
                f"Canonical correlations of {len(first.variances)} and {len(second.variances)} directions need more "
                f"than {needed} rows, or all are 1 whatever the rows are. Got {len(self.first)}."
            )
        inner = (first.axes / first.variances.sqrt()).T @ self.covariance @ (second.axes / second.variances.sqrt())
        left, correlations, right = torch.linalg.svd(inner, full_matrices=False)
        return left, correlations.clamp(max=1), right


def _unbiased(
    first: Representation, second: Representation, products: Tensor, by_first: Tensor, by_second: Tensor, lengths: float
) -> float:
    """The unbiased estimate of HSIC with linear kernels, from sums over rows. Source: Song et al. 2012, Eq. 5."""
    count, here, there = len(first), first.sums.rows, second.sums.rows
    matched = float(products.square().sum()) - lengths
    totals = [float(one.sums.rows.square().sum() - one.sums.products.trace()) for one in (first, second)]
    through = float(here @ products @ there - by_first @ there - by_second @ here) + lengths
    found = matched + totals[0] * totals[1] / ((count - 1) * (count - 2)) - 2 / (count - 2) * through
    return found / (count * (count - 3))


def _about(products: Tensor, first: Tensor, second: Tensor, mean: Tensor, other: Tensor, count: int) -> Tensor:
    """Sums of outer products about other means, from those about 0 and the sums of rows."""
    return products - torch.outer(mean, second) - torch.outer(first, other) + count * torch.outer(mean, other)


def _with_variance(found: Directions) -> Directions:
    share = found.variances.cumsum(0) / found.variances.sum()
    size = int((share < _VARIANCE).sum()) + 1
    return Directions(found.variances[:size], found.axes[:, :size])


def _leading(found: Directions) -> Directions:
    return Directions(found.variances[:_COMPONENTS], found.axes[:, :_COMPONENTS])
