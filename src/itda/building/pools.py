"""Builders that keep rows evenly over all that come, and make atoms of them at the end."""

import hashlib
from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from itda.building.blocks import SAMPLE_ROWS
from itda.building.builder import Atoms, Builder, State, named, part, unit_and_norm
from itda.building.options import PoolOptions
from itda.building.reservoir import Reservoir
from itda.data.mixtures import Mixtures
from itda.data.sources import Sources
from itda.errors import ActivationError
from itda.progress import SILENT, Advance, Bar
from itda.pursuit import Codes, Coding, prepare, pursue
from itda.randomness import seeded

_TOGETHER = 4096  # rows that are looked at together


class Pool(NamedTuple):
    """Rows to choose from, no two the same and none of them zero."""

    rows: Tensor
    """float32 (N, D), the mean taken off."""
    norms: Tensor
    """float32 (N,)."""
    sources: Sources
    mean: Tensor
    """float32 (D,)."""

    def units(self, places: Tensor) -> Tensor:
        """Some of the rows, by index, at norm 1. All of them at once would take as much memory as the rows."""
        return self.rows[places] / self.norms[places][..., None]


class Encoder(NamedTuple):
    """How rows are encoded while building."""

    coding: Coding
    backend: str
    memory: int | str | None
    advance: Advance = SILENT
    """Told how many rows were encoded."""

    def __call__(self, rows: Tensor, atoms: Tensor) -> Codes:
        """Codes of rows (n, D) on unit atoms (A, D)."""
        self.advance(len(rows))
        return pursue(rows, prepare(atoms, memory=self.memory), self.coding, backend=self.backend)


class PoolBuilder(Builder):
    """Subclasses say which atoms a pool of rows makes."""

    options: PoolOptions

    def __init__(
        self,
        width: int,
        coding: Coding,
        options: PoolOptions,
        *,
        backend: str = "auto",
        memory: int | str | None = None,
    ) -> None:
        super().__init__(width, coding, options, backend=backend, memory=memory)
        self._reservoir = Reservoir(width, options.rows_kept)
        self.encoder = Encoder(self.coding, backend, memory)
        """How rows are encoded while building."""

    @abstractmethod
    def _atoms(self, pool: Pool, generator: torch.Generator) -> Atoms:
        """The atoms that a pool makes, at least as many rows as atoms."""

    def _to_encode(self, rows: int) -> int:
        """About how many rows of a pool of so many `_atoms` encodes, counting each time; 0 where that is quick."""
        return 0

    @property
    def _why_fewer(self) -> str:
        return "there are no more different rows"

    @property
    def sample(self) -> Tensor:
        """See `Builder.sample`."""
        return self._reservoir.some(SAMPLE_ROWS)

    def _take(self, rows: Tensor, sources: Sources) -> None:
        self.rows_seen += len(rows)
        self._reservoir.update(rows, sources)
        self._count(rows, sources)

    def _found(self, bar: Bar = SILENT) -> Atoms:
        pool = self._pool()
        if len(pool.rows) < self.coding.steps:
            raise ActivationError(
                f"The {self.rows_seen:,} rows have only {len(pool.rows)} different ones, fewer than the "
                f"{self.coding.steps} steps. Give more varied rows, or lower steps.{self._outliers(pool.mean)}"
            )
        to_encode = self._to_encode(len(pool.rows))
        if to_encode:
            self.encoder = self.encoder._replace(advance=bar.then("choose atoms", to_encode))
        return self._atoms(pool, seeded(self.options.seed))

    def _pool(self) -> Pool:
        rows, sources = self._reservoir.rows, self._reservoir.sources
        mean = torch.zeros(self.width)
        if self.options.center and len(rows):
            sums = sum((part.sum(0, dtype=torch.float64) for part in torch.split(rows, _TOGETHER)), mean.double())
            mean = (sums / len(rows)).float()
        return pool_of(rows.sub_(mean), sources, mean)

    def _own_state(self) -> State:
        return named("reservoir", self._reservoir.state())

    def _restore_own(self, state: State) -> None:
        self._reservoir.restore(part(state, "reservoir"))

    @property
    def wanted(self) -> int:
        """How many atoms were asked for."""
        assert self.options.atoms is not None
        return self.options.atoms


def pool_of(rows: Tensor, sources: Sources, mean: Tensor) -> Pool:
    """A pool of the distinct rows of (N, D) that are not zero, their mean taken off already."""
    places = torch.tensor(_distinct(rows), dtype=torch.int64)
    if len(places) < len(rows):
        rows, sources = rows[places], sources.select(places)
    norms = [unit_and_norm(part)[1] for part in torch.split(rows, _TOGETHER) if len(part)]
    return Pool(rows, torch.cat([torch.empty(0), *norms]), sources, mean)


def activations_of(pool: Pool, rows: Tensor) -> Atoms:
    """Atoms that are rows of the pool, by index."""
    return Atoms(prepare(pool.units(rows)), pool.norms[rows], pool.mean, pool.sources.select(rows))


def learned_of(pool: Pool, atoms: Tensor, examples: Tensor) -> Atoms:
    """Atoms that are no activations: unit directions (A, D), and for each a row of the pool to show for it."""
    sources = pool.sources.select(examples)
    return Atoms(prepare(atoms), torch.ones(len(atoms)), pool.mean, sources, kind="learned")


def mixtures_of(pool: Pool, weights: Tensor, rows: Tensor) -> Atoms:
    """Atoms that are mixtures of rows of the pool: weights of unit rows (A, P), not negative, and the rows (A, P)."""
    of_activations = weights / pool.norms[rows]
    of_activations = of_activations / of_activations.sum(1, keepdim=True)
    order = torch.argsort(of_activations, dim=1, descending=True, stable=True)
    rows, of_activations = rows.gather(1, order), of_activations.gather(1, order)
    rows = torch.where(of_activations > 0, rows, rows[:, :1])
    mixed = (of_activations[..., None] * pool.rows[rows]).sum(1)
    units, norms = unit_and_norm(mixed)
    mixtures = Mixtures(of_activations, pool.sources.select(rows.flatten()))
    return Atoms(prepare(units), norms, pool.mean, mixtures.largest, kind="mixtures", mixtures=mixtures)


def _distinct(rows: Tensor) -> list[int]:
    """First places of the distinct rows that are not zero, in order."""
    seen: set[bytes] = set()
    found = []
    for index, (row, filled) in enumerate(zip(rows.numpy(), (rows != 0).any(1).tolist(), strict=True)):
        digest = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
        if filled and digest not in seen:
            seen.add(digest)
            found.append(index)
    return found
