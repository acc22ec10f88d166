"""Atoms without bound, which no text names: what could be reached if they need not be real."""

from typing import ClassVar

import torch

from itda.building.builder import Atoms
from itda.building.learning import learn
from itda.building.options import LearnedOptions
from itda.building.pools import Pool, PoolBuilder, learned_of
from itda.building.starting import novel
from itda.data.nearest import nearest_rows


class LearnedBuilder(PoolBuilder):
    """Sparse dictionary learning in blocks, by the update of K-SVD with the codes held fixed."""

    method: ClassVar[str] = "learned"
    options: LearnedOptions

    def _atoms(self, pool: Pool, generator: torch.Generator) -> Atoms:
        size = min(self.wanted, len(pool.rows))
        start = pool.units(novel(pool, size, self.encoder))
        atoms = learn(pool.rows, start, self.encoder, self.options.passes, generator)
        return learned_of(pool, atoms, nearest_rows(atoms, pool.rows, pool.norms))

    def _to_encode(self, rows: int) -> int:
        return self.options.passes * rows
