"""Directions as convex mixtures of a few unit rows."""

from typing import Self

import torch
from torch import Tensor

from itda.building.pools import Pool
from itda.building.resembling import Likeness

_NEAREST = 64  # rows that may be mixed; more of them fit the direction better and serve worse
_AT_ONCE = 256  # atoms whose candidates are looked at together
_SWEEPS = 10  # over the weights of a mixture
_LEAST = 1e-9


class Mix:
    """For each of A directions at most P rows of a pool with their weights; both follow where the directions go."""

    def __init__(self, pool: Pool, likeness: Likeness, parts: int) -> None:
        self._pool, self._likeness, self._parts = pool, likeness, parts
        self.rows = torch.empty((0, parts), dtype=torch.int64)
        """int64 (A, P), indices of unit rows."""
        self.weights = torch.empty((0, parts))
        """float32 (A, P), not negative."""

    @classmethod
    def of(cls, directions: Tensor, pool: Pool, likeness: Likeness, parts: int) -> Self:
        """The mixtures of unit rows of a pool that are most like unit directions (A, D)."""
        mix = cls(pool, likeness, parts)
        mix.choose(directions)
        return mix

    @property
    def atoms(self) -> Tensor:
        """float32 (A, D), norm 1."""
        mixed = (self.weights[..., None] * self._pool.units(self.rows)).sum(1)
        return torch.nn.functional.normalize(mixed, dim=1)

    def choose(self, directions: Tensor) -> None:
        """Choose rows anew among the nearest of each direction and those it has: one after the other, the best first.

        Source: orthogonal matching pursuit, with weights that are not negative.
        """
        wanted = self._likeness.apply(directions)
        _, nearest = self._likeness.nearest(directions, self._pool.rows, _NEAREST)
        if len(self.rows):
            nearest = torch.cat([nearest, self.rows], dim=1)
        found = [
            self._chosen(*parts)
            for parts in zip(torch.split(wanted, _AT_ONCE), torch.split(nearest, _AT_ONCE), strict=True)
        ]
        self.rows = torch.cat([rows for rows, _ in found])
        self.weights = torch.cat([weights for _, weights in found])

    def weigh(self, directions: Tensor) -> None:
        """Weigh the rows anew, for other directions."""
        self.weights = _never_nothing(_weights(self._seen(self.rows), self._likeness.apply(directions), self.weights))

    def _seen(self, rows: Tensor) -> Tensor:
        """Some unit rows as the likeness sees them; all of the pool would take as much memory as the pool."""
        return self._likeness.apply(self._pool.units(rows))

    def _chosen(self, wanted: Tensor, nearest: Tensor) -> tuple[Tensor, Tensor]:
        options = self._seen(nearest)
        lengths = torch.linalg.vector_norm(options, dim=2).clamp(min=_LEAST)
        atoms = torch.arange(len(wanted))
        places = torch.empty((len(wanted), 0), dtype=torch.int64)
        weights, left = torch.empty((len(wanted), 0)), wanted
        for _ in range(min(self._parts, nearest.shape[1])):
            alike = (options @ left[..., None])[..., 0] / lengths
            alike.scatter_(1, places, -torch.inf)
            places = torch.cat([places, alike.argmax(1, keepdim=True)], dim=1)
            parts = options[atoms[:, None], places]
            weights = _weights(parts, wanted, torch.nn.functional.pad(weights, (0, 1)))
            left = wanted - (weights[..., None] * parts).sum(1)
        missing = (0, self._parts - places.shape[1])
        rows = torch.nn.functional.pad(nearest.gather(1, places), missing, value=0)
        weights = torch.nn.functional.pad(weights, missing)
        return rows, _never_nothing(weights)


def _never_nothing(weights: Tensor) -> Tensor:
    """The first part alone where every weight is 0: all parts then point away from what is wanted."""
    weights[weights.sum(1) <= 0, 0] = 1.0
    return weights


def _weights(parts: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Weights (n, P), not negative, with which parts (n, P, D) add up to what is wanted (n, D), as far as they can.

    Coordinate descent from the weights that are given; for a handful of parts a few sweeps are exact enough.
    """
    gram = parts @ parts.transpose(1, 2)
    aim = (parts @ wanted[..., None])[..., 0]
    weights = weights.clone()
    for _ in range(_SWEEPS):
        for place in range(weights.shape[1]):
            own = gram[:, place, place].clamp(min=_LEAST)
            open_ = aim[:, place] - (gram[:, place] * weights).sum(1) + own * weights[:, place]
            weights[:, place] = (open_ / own).clamp(min=0)
    return weights
