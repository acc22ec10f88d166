"""Atoms that are convex mixtures of at most five named activations."""

from typing import ClassVar

import torch
from torch import Tensor

from itda.building.builder import Atoms
from itda.building.learning import Pull, blocks_of, learn
from itda.building.mixing import Mix
from itda.building.options import MixtureOptions
from itda.building.pools import Encoder, Pool, PoolBuilder, mixtures_of
from itda.building.resembling import Likeness
from itda.building.starting import novel

_EXPONENT = 0.25  # of likeness; 0 leaves 6 % more unexplained, 0.5 leaves 3 % more
_CHOICES = 2  # of other rows, in each pass
_STRENGTH = 2.0  # how far beyond the best direction a mixture is pulled, since it cannot follow all the way


class MixtureBuilder(PoolBuilder):
    """Between real activations and learned directions: read as five texts, made anew in any model that reads them.

    Atoms move freely at first. Then each is a mixture all the time: the codes are made with the mixtures, and these
    follow where the data pull them, so that they make up for one another's limits.
    """

    method: ClassVar[str] = "mixture"
    options: MixtureOptions

    def _atoms(self, pool: Pool, generator: torch.Generator) -> Atoms:
        size = min(self.wanted, len(pool.rows))
        start = pool.units(novel(pool, size, self.encoder))
        none = torch.empty((0, pool.rows.shape[1]))
        return mixtures_beside(none, pool, start, self.encoder, self.options.parts, self.options.passes, generator)

    def _to_encode(self, rows: int) -> int:
        return self.options.passes * rows


def mixtures_beside(
    there: Tensor, pool: Pool, start: Tensor, encode: Encoder, parts: int, passes: int, generator: torch.Generator
) -> Atoms:
    """Mixtures of a pool's rows that serve best beside atoms that are there and stay as they are.

    Args:
        there: unit atoms (B, D); none for a dictionary of mixtures only.
        pool: the rows, the mean of the atoms that are there taken off.
        start: unit atoms (A, D) where the mixtures begin.
        encode: how codes are made.
        parts: activations in a mixture, at most.
        passes: over the pool; half of them while atoms are free to move.
        generator: of the order of the rows.
    """
    fixed = len(there)
    free = (passes + 1) // 2
    learned = learn(pool.rows, torch.cat([there, start]), encode, free, generator, fixed=fixed)
    likeness = Likeness.of(pool.rows, learned, encode, exponent=_EXPONENT)
    mix = Mix.of(learned[fixed:], pool, likeness, parts)
    pull = Pull(learned)
    for _ in range(passes - free):
        blocks = blocks_of(len(pool.rows), len(learned), generator)
        for number, block in enumerate(blocks):
            atoms = torch.cat([there, mix.atoms])
            pull.add(pool.rows[block], encode(pool.rows[block], atoms), atoms, strength=_STRENGTH)
            follow = mix.choose if number % -(-len(blocks) // _CHOICES) == 0 else mix.weigh
            follow(pull.targets(atoms)[fixed:])
    return mixtures_of(pool, mix.weights, mix.rows)
