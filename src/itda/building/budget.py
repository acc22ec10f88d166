"""A fixed number of real activations that serve best together."""

from typing import ClassVar

import torch
from torch import Tensor

from itda.building.builder import Atoms
from itda.building.learning import learn
from itda.building.options import BudgetOptions
from itda.building.pools import Encoder, Pool, PoolBuilder, activations_of
from itda.building.proposing import propose, propose_rows, rows_looked_at
from itda.building.resembling import Likeness
from itda.building.starting import filled, novel
from itda.data.lots import evenly

_MORE = 0.15  # share of the atoms that come in at each exchange
_ALIKE = 8  # nearest rows that an atom may become
_ROWS_AN_ATOM = 8  # that say how much each carries
_EXPONENT = 0.5  # of likeness; 0.25 is 2 % worse, 1 as good as 0.25


class BudgetBuilder(PoolBuilder):
    """Atoms are learned freely, each is replaced by the real activation most like it, and the worst are exchanged.

    What a pursuit needs of an atom is a direction that many rows share; where the learned ones lie says where to look,
    better than which rows are novel or carry much among others.
    """

    method: ClassVar[str] = "budget"
    options: BudgetOptions

    def _atoms(self, pool: Pool, generator: torch.Generator) -> Atoms:
        size = min(self.wanted, len(pool.rows))
        start = novel(pool, size, self.encoder)
        learned = learn(pool.rows, pool.units(start), self.encoder, self.options.passes, generator)
        chosen = real_for(learned, pool, self.encoder)
        for _ in range(self.options.rounds):
            chosen = exchange(chosen, size, pool, self.encoder, generator)
        return activations_of(pool, filled(chosen, size, len(pool.rows)))

    def _to_encode(self, rows: int) -> int:
        return self.options.passes * rows + 3 * self.options.rounds * min(rows, rows_looked_at(self.wanted))


def real_for(atoms: Tensor, pool: Pool, encode: Encoder) -> Tensor:
    """Rows of the pool that can stand in for learned atoms (A, D), by index; each once, so perhaps fewer than A."""
    likeness = Likeness.of(pool.rows, atoms, encode, exponent=_EXPONENT)
    _, nearest = likeness.nearest(atoms, pool.rows, _ALIKE)
    some = evenly(len(pool.rows), _ROWS_AN_ATOM * len(atoms))
    energy = encode(pool.rows[some], atoms).energy(len(atoms))
    taken: dict[int, None] = {}
    for options in nearest[torch.argsort(energy, descending=True, stable=True)].tolist():
        free = next((row for row in options if row not in taken), None)
        if free is not None:
            taken[free] = None
    return torch.tensor(list(taken))


def exchange(chosen: Tensor, size: int, pool: Pool, encode: Encoder, generator: torch.Generator) -> Tensor:
    """Let the rows come in that would save the most, and of all keep those `size` that carry the most."""
    looked_at, candidates = propose_rows(len(pool.rows), size, generator)
    atoms = pool.units(chosen)
    best = candidates[propose(pool.rows[looked_at], atoms, pool.units(candidates), encode, int(_MORE * size))]
    known = torch.zeros(len(pool.rows), dtype=torch.bool)
    known[chosen] = True
    chosen = torch.cat([chosen, best[~known[best]]])
    measured_on = torch.randperm(len(pool.rows), generator=generator)[: 2 * len(looked_at)]
    energy = encode(pool.rows[measured_on], pool.units(chosen)).energy(len(chosen))
    return chosen[torch.argsort(energy, descending=True, stable=True)[:size].sort().values]
