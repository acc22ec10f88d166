"""Builders that look at rows in fixed blocks, in their order, and take some of each as atoms."""

from abc import abstractmethod

import torch
from torch import Tensor

from itda.building.builder import Atoms, Builder, State, named, part, unit_and_norm
from itda.building.options import BlockOptions
from itda.building.reservoir import Reservoir
from itda.data.sources import Sources
from itda.progress import SILENT, Bar
from itda.pursuit import Block, Coding, Prepared

_AT_ONCE = 1024  # rows whose correlations with the atoms are computed together, at most
_AT_ONCE_BYTES = 64 * 2**20
_HELD_BACK = 1024  # rows in which a builder can make good what fewer rows than expected have cost it
SAMPLE_ROWS = 8192  # the most on which usage is counted at the end


class BlockBuilder(Builder):
    """Subclasses say which rows of a block become atoms."""

    options: BlockOptions

    def __init__(
        self,
        width: int,
        coding: Coding,
        options: BlockOptions,
        *,
        backend: str = "auto",
        memory: int | str | None = None,
    ) -> None:
        super().__init__(width, coding, options, backend=backend, memory=memory)
        self.prepared = self._no_atoms()
        self.rows_in_all: int | None = None
        """How many there are, once that is certain; the last 1024 rows or more are looked at only then."""
        self.smallest_novelty = float("inf")
        self._mean = None if options.center else torch.zeros(width)
        self._waiting_rows, self._waiting_sources = torch.empty((0, width)), Sources.of_rows(0)
        self._atom_sources: list[Sources] = []
        self._norms = [torch.empty(0)]
        self._sample = Reservoir(width, SAMPLE_ROWS, sources=False)

    @abstractmethod
    def choose(self, block: Block, start: int, end: int) -> list[tuple[int, float]]:
        """Those of the centred rows from `start` to `end` of a block that become atoms: index and novelty, in order.

        Must call `add` for each, so that the next choice sees it.
        """

    def add(self, rows: Tensor) -> None:
        """Append rows (m, D), none of them zero, to the atoms."""
        unit, norms = unit_and_norm(rows)
        self.prepared.append(unit)
        self._norms.append(norms)

    def taken(self) -> Tensor:
        """Which rows are atoms, int64 (A,), once all rows were given; instead of `finish`."""
        return self._found().sources.row

    @property
    def sample(self) -> Tensor:
        """See `Builder.sample`."""
        return self._sample.rows

    def _take(self, rows: Tensor, sources: Sources) -> None:
        self._waiting_rows = torch.cat([self._waiting_rows, rows])
        self._waiting_sources = Sources.concatenate([self._waiting_sources, sources])
        self._work(last=False)

    def _found(self, bar: Bar = SILENT) -> Atoms:
        self.rows_in_all = self.rows_seen + len(self._waiting_rows)
        self._work(last=True)
        assert self._mean is not None
        sources = Sources.concatenate([Sources.of_rows(0), *self._atom_sources])
        return Atoms(self.prepared, torch.cat(self._norms), self._mean, sources, novelty=self.smallest_novelty)

    def _own_state(self) -> State:
        state: State = {
            "atoms": self.prepared.atoms.clone(),
            "norms": torch.cat(self._norms),
            "splits": torch.tensor(self.prepared.splits, dtype=torch.int64),
            "waiting": self._waiting_rows.clone(),
            "budget": torch.tensor(self.prepared.budget),  # what is free may have changed, what is kept must not
            "smallest_novelty": torch.tensor(self.smallest_novelty, dtype=torch.float64),
        }
        if self._mean is not None:
            state["mean"] = self._mean
        atom_sources = Sources.concatenate(self._atom_sources)
        state |= named("waiting_sources", self._waiting_sources.to_tensors())
        state |= named("atom_sources", atom_sources.to_tensors())
        return state | named("sample", self._sample.state())

    def _restore_own(self, state: State) -> None:
        self.memory = int(state["budget"])
        self.prepared = self._no_atoms()
        for part_of_atoms in torch.split(state["atoms"], state["splits"].tolist()):
            self.prepared.append(part_of_atoms)
        self._waiting_rows = state["waiting"]
        self._waiting_sources = Sources.from_tensors(part(state, "waiting_sources"))
        self._atom_sources = [Sources.from_tensors(part(state, "atom_sources"))]
        self._norms = [state["norms"]]
        self._mean = state.get("mean")
        self._sample.restore(part(state, "sample"))
        self.smallest_novelty = float(state["smallest_novelty"])

    def _work(self, *, last: bool) -> None:
        """Look at all full blocks but those at the end, which wait until it is known that they are the end."""
        if self._mean is None:
            if len(self._waiting_rows) < self.options.mean_rows and not last:
                return
            self._mean = self._waiting_rows[: self.options.mean_rows].double().mean(0).float().nan_to_num()
        done, size = 0, len(self._waiting_rows)
        while size - done > max(self._at_once, _HELD_BACK) or (last and done < size):
            end = min(done + self._at_once, size)
            self._look_at(done, end)
            done = end
        if done:
            self._let_go(done)

    def _no_atoms(self) -> Prepared:
        # No products in bfloat16: their last bits depend on when they were first used, and a build that goes
        # on after a stop must give the same bytes
        capacity = self.options.atoms or 0
        return Prepared(torch.empty((0, self.width)), capacity=capacity, memory=self.memory, half_products=False)

    @property
    def _at_once(self) -> int:
        """Rows that are multiplied with the atoms together: whole blocks, and the same for the same atoms."""
        rows = min(_AT_ONCE, _AT_ONCE_BYTES // (4 * max(1, len(self.prepared))))
        return self.options.block * max(1, rows // self.options.block)

    def _look_at(self, first: int, last: int) -> None:
        """Choose from waiting rows, block by block."""
        assert self._mean is not None
        together = Block(self._waiting_rows[first:last] - self._mean, self.prepared)
        for start in range(0, last - first, self.options.block):
            end = min(start + self.options.block, last - first)
            self.rows_seen += end - start
            chosen = self.choose(together, start, end)
            if chosen:
                places = torch.tensor([first + index for index, _ in chosen])
                self._atom_sources.append(self._waiting_sources.select(places))
                self.smallest_novelty = min(self.smallest_novelty, *(novelty for _, novelty in chosen))

    def _let_go(self, done: int) -> None:
        """Take the first `done` waiting rows into the sample and the token means."""
        rows, sources = self._waiting_rows, self._waiting_sources
        seen = sources.select(torch.arange(done))
        self._sample.update(rows[:done], seen)
        self._count(rows[:done], seen)
        self._waiting_rows = rows[done:].clone()
        self._waiting_sources = sources.select(torch.arange(done, len(rows)))
