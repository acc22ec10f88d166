"""Atoms that are convex mixtures of at most five named activations."""

from typing import ClassVar

import torch

from itda.building.builder import Atoms
from itda.building.learning import Pull, blocks_of, learn
from itda.building.mixing import Mix
from itda.building.options import MixtureOptions
from itda.building.pools import Pool, PoolBuilder, mixtures_of
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
        size, encode = min(self.wanted, len(pool.rows)), self.encoder
        start = pool.units(novel(pool, size, encode))
        free = (self.options.passes + 1) // 2
        learned = learn(pool.rows, start, encode, free, generator)
        likeness = Likeness.of(pool.rows, learned, encode, exponent=_EXPONENT)
        mix = Mix.of(learned, pool, likeness, self.options.parts)
        pull = Pull(learned)
        for _ in range(self.options.passes - free):
            blocks = blocks_of(len(pool.rows), size, generator)
            for number, block in enumerate(blocks):
                atoms = mix.atoms
                pull.add(pool.rows[block], encode(pool.rows[block], atoms), atoms, strength=_STRENGTH)
                follow = mix.choose if number % -(-len(blocks) // _CHOICES) == 0 else mix.weigh
                follow(pull.targets(atoms))
        return mixtures_of(pool, mix.weights, mix.rows)

    def _to_encode(self, rows: int) -> int:
        return self.options.passes * rows
