"""Plain ways to a dictionary, to measure the others against."""

from typing import ClassVar

import torch

from itda.building.builder import Atoms, unit_and_norm
from itda.building.pools import Pool, PoolBuilder, activations_of, learned_of
from itda.data.nearest import nearest_rows
from itda.errors import ActivationError

_PASSES = 10
_AT_ONCE = 8192  # rows that are compared with all centres together


class RandomBuilder(PoolBuilder):
    """Activations drawn at random."""

    method: ClassVar[str] = "random"

    def _atoms(self, pool: Pool, generator: torch.Generator) -> Atoms:
        drawn = torch.randperm(len(pool.rows), generator=generator)[: self.wanted]
        return activations_of(pool, drawn.sort().values)


class KmeansBuilder(PoolBuilder):
    """The activation nearest to each centre of k-means: Lloyd's iterations from random rows."""

    method: ClassVar[str] = "kmeans"

    @property
    def _why_fewer(self) -> str:
        return "the centres are nearest to no others"

    def _atoms(self, pool: Pool, generator: torch.Generator) -> Atoms:
        size = min(self.wanted, len(pool.rows))
        drawn = torch.randperm(len(pool.rows), generator=generator)[:size].sort().values
        centres = pool.rows[drawn]
        for _ in range(_PASSES):
            sums, counts = torch.zeros_like(centres), torch.zeros(size)
            for part in torch.split(pool.rows, _AT_ONCE):
                nearest = torch.cdist(part, centres).argmin(1)
                sums.index_add_(0, nearest, part)
                counts += torch.bincount(nearest, minlength=size)
            centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
        distance, row = torch.full((size,), torch.inf), drawn.clone()
        for start in range(0, len(pool.rows), _AT_ONCE):
            least, which = torch.cdist(centres, pool.rows[start : start + _AT_ONCE]).min(1)
            row = torch.where(least < distance, which + start, row)
            distance = torch.minimum(least, distance)
        return activations_of(pool, torch.unique(row))


class TokenMeansBuilder(PoolBuilder):
    """The mean activations of the most frequent tokens: a dictionary that knows nothing but which token it was."""

    method: ClassVar[str] = "token_means"

    @property
    def _why_fewer(self) -> str:
        return "the rows have no more different tokens"

    def _atoms(self, pool: Pool, generator: torch.Generator) -> Atoms:
        means = self._token_means.finish()
        if means is None:
            raise ActivationError("Token means need rows that know their tokens. Capture them; a bare array has none.")
        order = torch.argsort(means.counts, descending=True, stable=True)
        rows = means.of(means.token_ids[order]) - pool.mean
        rows = rows[(rows != 0).any(1)][: self.wanted]
        atoms, _ = unit_and_norm(rows)
        return learned_of(pool, atoms, nearest_rows(atoms, pool.rows, pool.norms))
