"""What every builder shares: rows arrive in any pieces and are looked at in fixed blocks.

A builder is a pure function of its options and of the rows in their order: whoever checkpoints,
resumes or shards a build needs only `update`, `state`, `restore` and `finish`.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import asdict
from typing import Any, ClassVar

import torch
from torch import Tensor

from itda.building import allocator
from itda.building.options import BuildOptions
from itda.data.dictionary import BuildRecord, Dictionary, library_versions
from itda.data.provenance import Provenance
from itda.data.sources import Sources
from itda.data.token_means import TokenMeansAccumulator
from itda.errors import ActivationError, OptionError, ShapeError
from itda.pursuit import Block, Coding, Prepared, pursue
from itda.shapes import as_matrix

State = dict[str, Tensor]

_AT_ONCE = 1024  # rows whose correlations with the atoms are computed together, at most
_AT_ONCE_BYTES = 64 * 2**20
_HELD_BACK = 1024  # rows in which a builder can make good what fewer rows than expected have cost it
_TIDY_ROWS = 8192  # after so many, memory that is free goes back to the system
_SAMPLE_ROWS = 8192  # the most on which usage is counted at the end


class Builder(ABC):
    """Turns rows into a dictionary; subclasses say which rows of a block become atoms."""

    method: ClassVar[str]

    def __init__(
        self,
        width: int,
        coding: Coding,
        options: BuildOptions,
        *,
        backend: str = "auto",
        memory: int | str | None = None,
    ) -> None:
        if options.atoms is not None and coding.steps > options.atoms:
            raise OptionError(
                f"steps={coding.steps} is more than the {options.atoms} atoms asked for. "
                "Lower steps, or ask for more atoms."
            )
        self.coding, self.options, self.backend, self.memory = coding, options, backend, memory
        self.prepared = self._no_atoms(width)
        self.rows_seen = 0
        """Rows that blocks have been made of so far."""
        self.rows_in_all: int | None = None
        """How many there are, once that is certain; the last 1024 rows or more are looked at only then."""
        self.smallest_novelty = float("inf")
        self._mean = None if options.center else torch.zeros(width)
        self._waiting_rows, self._waiting_sources = torch.empty((0, width)), Sources.of_rows(0)
        self._atom_sources: list[Sources] = []
        self._norms = [torch.empty(0)]
        self._token_means = TokenMeansAccumulator(width)
        self._sample = _Sample(width)

    @abstractmethod
    def choose(self, block: Block, start: int, end: int) -> list[tuple[int, float]]:
        """Those of the centred rows from `start` to `end` of a block that become atoms: index and novelty, in order.

        Must call `add` for each, so that the next choice sees it.
        """

    def add(self, rows: Tensor) -> None:
        """Append rows (m, D), none of them zero, to the atoms."""
        # Normalised twice: rows of norm 1e-30 or 1e30 lose all precision in one step.
        largest = rows.abs().amax(1, keepdim=True)
        scaled = rows / largest
        self.prepared.append(torch.nn.functional.normalize(scaled, dim=1))
        self._norms.append(torch.linalg.vector_norm(scaled, dim=1) * largest[:, 0])

    def update(self, rows: Any, sources: Sources) -> None:
        """Take rows (n, D) with their sources.

        Raises: ShapeError, ActivationError.
        """
        matrix = as_matrix(rows, "rows", "N, D", width=self.prepared.width)
        if len(matrix) != len(sources):
            raise ShapeError(f"Every row needs its source. Got {len(matrix)} rows and {len(sources)} sources.")
        self._waiting_rows = torch.cat([self._waiting_rows, matrix.cpu()])
        self._waiting_sources = Sources.concatenate([self._waiting_sources, sources])
        self._work(last=False)

    def finish(self, *, provenance: Provenance | None = None, documents: Collection[str] = ()) -> Dictionary:
        """Look at what is left and make the dictionary.

        Raises: ActivationError if there are too few atoms for the pursuit steps.
        """
        self.rows_in_all = self.rows_seen + len(self._waiting_rows)
        self._work(last=True)
        size = len(self.prepared)
        if size < self.coding.steps:
            raise ActivationError(
                f"The {self.rows_seen:,} rows gave only {size} atoms, fewer than the {self.coding.steps} steps. "
                "Give more varied rows, lower the threshold, or lower steps."
            )
        notes = []
        if self.options.atoms is not None and size < self.options.atoms and self._wants_all_atoms:
            notes.append(
                f"Only {size:,} of {self.options.atoms:,} atoms could be taken: "
                "the other rows are repeats of these or sums of them."
            )
        assert self._mean is not None
        sample = pursue(self._sample.rows - self._mean, self.prepared, self.coding, backend=self.backend)
        return Dictionary(
            atoms=self.prepared.atoms.clone(),
            norms=torch.cat(self._norms),
            mean=self._mean,
            sources=Sources.concatenate(self._atom_sources),
            coding=self.coding,
            build=BuildRecord(
                method=self.method,
                options=asdict(self.options),
                rows=self.rows_seen,
                threshold=round(self.smallest_novelty, 6),
                unexplained=round(float(sample.unexplained.mean()), 6),
                notes=tuple(notes),
                versions=library_versions(),
            ),
            usage_counts=sample.usage(size),
            usage_energy=sample.energy(size),
            documents=tuple(documents),
            provenance=provenance,
            token_means=self._token_means.finish(),
        )

    @property
    def sample(self) -> Tensor:
        """Some of the rows seen, evenly over them, float32 (n, D), at most 8192."""
        return self._sample.rows

    @property
    def _wants_all_atoms(self) -> bool:
        """Whether fewer atoms than asked for are a shortfall, not what a threshold decided."""
        return True

    def state(self) -> State:
        """All that `restore` needs to go on, as tensors; good until the next update."""
        state: State = {
            "atoms": self.prepared.atoms.clone(),
            "norms": torch.cat(self._norms),
            "splits": torch.tensor(self.prepared.splits, dtype=torch.int64),
            "waiting": self._waiting_rows.clone(),
            "rows_seen": torch.tensor(self.rows_seen),
            "budget": torch.tensor(self.prepared.budget),  # what is free may have changed, what is kept must not
            "smallest_novelty": torch.tensor(self.smallest_novelty, dtype=torch.float64),
        }
        if self._mean is not None:
            state["mean"] = self._mean
        parts = {
            "waiting_sources": self._waiting_sources.to_tensors(),
            "atom_sources": Sources.concatenate(self._atom_sources).to_tensors(),
            "token_means": self._token_means.state(),
            "sample": self._sample.state(),
        }
        return state | {f"{part}.{name}": value for part, tensors in parts.items() for name, value in tensors.items()}

    def restore(self, state: State) -> None:
        """Go on from `state`; the options must be those it was made with."""

        def part(name: str) -> State:
            return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}

        width = state["atoms"].shape[1]
        self.memory = int(state["budget"])
        self.prepared = self._no_atoms(width)
        for part_of_atoms in torch.split(state["atoms"], state["splits"].tolist()):
            self.prepared.append(part_of_atoms)
        self._waiting_rows, self._waiting_sources = state["waiting"], Sources.from_tensors(part("waiting_sources"))
        self._atom_sources = [Sources.from_tensors(part("atom_sources"))]
        self._norms = [state["norms"]]
        self._mean = state.get("mean")
        self._token_means.restore(part("token_means"))
        self._sample.restore(part("sample"))
        self.rows_seen = int(state["rows_seen"])
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
        self._count(done)

    def _no_atoms(self, width: int) -> Prepared:
        # No products in bfloat16: their last bits depend on when they were first used, and a build that goes
        # on after a stop must give the same bytes
        capacity = self.options.atoms or 0
        return Prepared(torch.empty((0, width)), capacity=capacity, memory=self.memory, half_products=False)

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

    def _count(self, done: int) -> None:
        """Take the first `done` waiting rows into the sample and the token means, and let them go."""
        if not done:
            return
        rows, sources = self._waiting_rows, self._waiting_sources
        self._sample.update(rows[:done])
        if sources.named:
            self._token_means.update(rows[:done], sources.token_id[:done])
        if self.rows_seen // _TIDY_ROWS > (self.rows_seen - done) // _TIDY_ROWS:
            allocator.tidy()
        self._waiting_rows = rows[done:].clone()
        self._waiting_sources = sources.select(torch.arange(done, len(rows)))


class _Sample:
    """Every s-th row, s doubling so that there are never more than _SAMPLE_ROWS."""

    def __init__(self, width: int) -> None:
        self.rows = torch.empty((0, width))
        self._stride, self._seen = 1, 0

    def update(self, rows: Tensor) -> None:
        first = -self._seen % self._stride
        self.rows = torch.cat([self.rows, rows[first :: self._stride]])
        self._seen += len(rows)
        while len(self.rows) > _SAMPLE_ROWS:
            self.rows = self.rows[::2].clone()
            self._stride *= 2

    def state(self) -> State:
        return {"rows": self.rows.clone(), "place": torch.tensor([self._stride, self._seen])}

    def restore(self, state: State) -> None:
        self.rows = state["rows"]
        self._stride, self._seen = state["place"].tolist()
