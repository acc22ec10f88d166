"""Measures that compare rows with rows, on a sample: RBF CKA, RSA, neighbours, relative representations, shared codes.

Every one uses rows less the mean of all rows, so none depends on where zero is.
"""

from functools import cached_property

import torch
from scipy.stats import rankdata
from torch import Tensor

from itda.building import build_from_activations
from itda.compare.representations import Representation
from itda.errors import ShapeError
from itda.pursuit import Coding, pursue
from itda.randomness import seeded

_BANDWIDTH = 0.8  # of the median distance
_NEIGHBOURS = 10
_ANCHORS = 256
_STEPS = 8  # of a code on shared atoms
_LEAST_ROWS = 4


class Sample:
    """Some rows (n, D) of one representation, with what the measures need of it alone."""

    def __init__(self, representation: Representation) -> None:
        self.rows = representation.sample
        if len(self.rows) < _LEAST_ROWS:
            raise ShapeError(f"Comparing rows with rows needs at least {_LEAST_ROWS} of them. Got {len(self.rows)}.")

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def directions(self) -> Tensor:
        """The rows at length 1, (n, D)."""
        return torch.nn.functional.normalize(self.rows, dim=1)

    @cached_property
    def distances(self) -> Tensor:
        """Euclidean, of each pair of rows once, float32 (n (n - 1) / 2,)."""
        return torch.pdist(self.rows)

    @cached_property
    def ranks(self) -> Tensor:
        """Ranks of the distances, less their mean, at length 1."""
        ranks = torch.from_numpy(rankdata(self.distances.numpy()))
        if ranks.min() == ranks.max():
            raise ShapeError("All rows are as far from each other: their distances have no order to compare.")
        return torch.nn.functional.normalize(ranks - ranks.mean(), dim=0).float()

    @cached_property
    def kernel(self) -> Tensor:
        """exp(-d² / 2s²) of all pairs, rows and columns less their means, at Frobenius norm 1, float32 (n, n)."""
        width = _BANDWIDTH * self.distances.median()
        if not width:
            raise ShapeError(
                "Most of these rows are the same: the median of their distances, the width of a kernel, is 0."
            )
        kernel = torch.exp(-torch.cdist(self.rows, self.rows).square_().div_(2 * width**2))
        kernel -= kernel.mean(0)
        kernel -= kernel.mean(1, keepdim=True)
        return kernel.div_(torch.linalg.matrix_norm(kernel))

    @cached_property
    def neighbours(self) -> Tensor:
        """For each row the k others with the largest cosines, bool (n, n)."""
        alike = self.directions @ self.directions.T
        alike.fill_diagonal_(-torch.inf)
        nearest = torch.topk(alike, _NEIGHBOURS, dim=1).indices
        return torch.zeros(alike.shape, dtype=torch.bool).scatter_(1, nearest, True)

    @cached_property
    def atoms(self) -> Tensor:
        """The rows that a dictionary of this representation would keep, by index: sorted int64 (A,)."""
        wanted = min(_ANCHORS, len(self) // 2)
        built = build_from_activations(
            self.rows, atoms=wanted, steps=min(_STEPS, wanted), method="greedy", center=False, progress=False
        )
        return built.sources.row.sort().values

    @cached_property
    def own_relative(self) -> Tensor:
        """`relative` to its own atoms."""
        return self.relative(self.atoms)

    @cached_property
    def own_codes(self) -> Tensor:
        """`codes` of its own atoms."""
        return self.codes(self.atoms)

    def relative(self, anchors: Tensor) -> Tensor:
        """Cosines of all rows that are no anchors with the anchors, (m, A), each row at length 1."""
        cosines = self.directions[_others(len(self), anchors)] @ self.directions[anchors].T
        return torch.nn.functional.normalize(cosines, dim=1)

    def codes(self, anchors: Tensor) -> Tensor:
        """The same rows as sparse sums of the anchors, dense (m, A), each row at length 1."""
        steps = min(_STEPS, len(anchors))
        coding = Coding(steps=steps, method="omp", nonnegative=True)
        codes = pursue(self.rows[_others(len(self), anchors)], self.directions[anchors], coding)
        return torch.nn.functional.normalize(codes.to_dense(len(anchors)), dim=1)


def cka_rbf(first: Sample, second: Sample) -> float:
    """CKA with Gaussian kernels, each as wide as 0.8 of the median distance.

    Unchanged by rotation, uniform scale and shift. Source: Kornblith et al. 2019.
    """
    return float(torch.dot(first.kernel.flatten(), second.kernel.flatten()))


def rsa(first: Sample, second: Sample) -> float:
    """Spearman's correlation of the Euclidean distances of all pairs of rows.

    Unchanged by rotation, uniform scale and shift. Source: Kriegeskorte, Mur & Bandettini 2008, with correlations as
    distances, which no rotation leaves alone.
    """
    return float(torch.dot(first.ranks, second.ranks))


def neighbours(first: Sample, second: Sample) -> float:
    """Mutual nearest neighbours: the share of a row's ten nearest, by cosine, that are the same in both.

    Unchanged by rotation, uniform scale and shift. Source: Huh et al. 2024; there without taking the mean off.

    Raises: ShapeError for fewer than 22 rows, where most of the others would be among the ten nearest by chance.
    """
    if len(first) < 2 * (_NEIGHBOURS + 1):
        raise ShapeError(
            f"Of {len(first)} rows, the {_NEIGHBOURS} nearest are most of the others, whatever is compared. Give at "
            f"least {2 * (_NEIGHBOURS + 1)}."
        )
    common = (first.neighbours & second.neighbours).sum(1).double().mean()
    return float(common) / _NEIGHBOURS


def relative(first: Sample, second: Sample) -> float:
    """Relative representations: the mean cosine of rows written as cosines with 256 random rows, the same in both.

    The anchors themselves are left out. Unchanged by rotation, uniform scale and shift. Source: Moschella et al. 2023.
    """
    generator = seeded(0)
    anchors = torch.randperm(len(first), generator=generator)[: min(_ANCHORS, len(first) // 2)]
    return _mean_cosine(first.relative(anchors), second.relative(anchors))


def relative_atoms(first: Sample, second: Sample) -> float:
    """Relative representations whose anchors are the rows that a dictionary of the first keeps as its atoms.

    The anchors themselves are left out. Not symmetric. Unchanged by rotation, uniform scale and shift. Source:
    Moschella et al. 2023; anchors as by Leask, Nanda & Al Moubayed 2025.
    """
    return _mean_cosine(first.own_relative, second.relative(first.atoms))


def codes(first: Sample, second: Sample) -> float:
    """The mean cosine of codes of eight atoms, the atoms being the same rows in both: those that a dictionary of the
    first keeps. Not symmetric.

    Two codes without atoms count as the same. Unchanged by rotation, uniform scale and shift. Source: sparse codes on
    paired anchors, Norelli et al. 2023; anchors as by Leask, Nanda & Al Moubayed 2025.
    """
    return _mean_cosine(first.own_codes, second.codes(first.atoms))


def _mean_cosine(first: Tensor, second: Tensor) -> float:
    """Of rows at length 1; two that are zero, such as codes without atoms, are the same."""
    nothing = ~first.any(1) & ~second.any(1)
    return float(((first * second).sum(1) + nothing).double().mean())


def _others(count: int, anchors: Tensor) -> Tensor:
    others = torch.ones(count, dtype=torch.bool)
    others[anchors] = False
    return others
