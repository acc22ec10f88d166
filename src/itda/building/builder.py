"""What every builder shares: rows arrive in any pieces, and in the end there is a dictionary.

A builder is a pure function of its options and of the rows in their order: whoever checkpoints,
resumes or shards a build needs only `update`, `state`, `restore` and `finish`.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from itda.building import allocator
from itda.building.calibrating import calibrated
from itda.building.options import BuildOptions
from itda.data.build_records import BuildRecord, library_versions
from itda.data.dictionary import Dictionary, Kind
from itda.data.mixtures import Mixtures
from itda.data.provenance import Provenance
from itda.data.sources import Sources
from itda.data.token_means import TokenMeansAccumulator
from itda.errors import ActivationError, OptionError, ShapeError
from itda.progress import SILENT, Bar
from itda.pursuit import Coding, Prepared, pursue
from itda.pursuit.precision import by_default
from itda.shapes import as_matrix

State = dict[str, Tensor]

_OUTWEIGHED = 10.0  # a mean so many times as long as most rows is that of a few others
_TIDY_ROWS = 8192  # after so many, memory that is free goes back to the system


class Atoms(NamedTuple):
    """What a builder found."""

    prepared: Prepared
    """The unit atoms."""
    norms: Tensor
    """float32 (A,): lengths of what they were."""
    mean: Tensor
    """float32 (D,): what was taken off the rows."""
    sources: Sources
    kind: Kind = "activations"
    mixtures: Mixtures | None = None
    novelty: float = float("inf")
    """The smallest of any atom when it was added; infinity where the method knows none."""


class Builder(ABC):
    """Turns rows into a dictionary."""

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
        self.width, self.coding, self.options, self.backend, self.memory = width, coding.asked, options, backend, memory
        self.rows_seen = 0
        """Rows that have been worked with so far."""
        self._token_means = TokenMeansAccumulator(width)

    @abstractmethod
    def _take(self, rows: Tensor, sources: Sources) -> None:
        """Take rows float32 (n, D), on the CPU."""

    @abstractmethod
    def _found(self, bar: Bar = SILENT) -> Atoms:
        """The atoms, once all rows were taken."""

    @property
    @abstractmethod
    def sample(self) -> Tensor:
        """Some of the rows seen, evenly over them, float32 (n, D), at most 8192."""

    @abstractmethod
    def _own_state(self) -> State:
        """What `_restore_own` needs to go on."""

    @abstractmethod
    def _restore_own(self, state: State) -> None: ...

    @by_default()
    def update(self, rows: Any, sources: Sources) -> None:
        """Take rows (n, D) with their sources.

        Raises: ShapeError, ActivationError.
        """
        matrix = as_matrix(rows, "rows", "N, D", width=self.width)
        if len(matrix) != len(sources):
            raise ShapeError(f"Every row needs its source. Got {len(matrix)} rows and {len(sources)} sources.")
        self._take(matrix.cpu(), sources)

    @by_default()
    def finish(
        self, *, provenance: Provenance | None = None, documents: Collection[str] = (), bar: Bar = SILENT
    ) -> Dictionary:
        """Look at what is left and make the dictionary; a line of progress below `bar` if that takes long.

        Raises: ActivationError if there are too few atoms for the pursuit steps.
        """
        found = self._found(bar)
        size = len(found.prepared)
        if size < self.coding.steps:
            raise ActivationError(
                f"The {self.rows_seen:,} rows gave only {size} atoms, fewer than the {self.coding.steps} steps. "
                f"Give more varied rows, lower the threshold, or lower steps.{self._outliers(found.mean)}"
            )
        notes = []
        if self.options.atoms is not None and size < self.options.atoms and self._why_fewer:
            notes.append(f"Only {size:,} of {self.options.atoms:,} atoms could be taken: {self._why_fewer}.")
        rows = self.sample - found.mean
        coding = calibrated(self.coding, rows, found.prepared, self.backend)
        sample = pursue(rows, found.prepared, coding, backend=self.backend)
        return Dictionary(
            atoms=found.prepared.atoms.clone(),
            norms=found.norms,
            mean=found.mean,
            sources=found.sources,
            coding=coding,
            build=BuildRecord(
                method=self.method,
                options=asdict(self.options),
                rows=self.rows_seen,
                threshold=round(found.novelty, 6) if found.novelty < float("inf") else None,
                unexplained=round(float(sample.unexplained.mean()), 6),
                notes=tuple(notes),
                versions=library_versions(),
            ),
            usage_counts=sample.usage(size),
            usage_energy=sample.energy(size),
            documents=tuple(documents),
            provenance=provenance,
            token_means=self._token_means.finish(),
            kind=found.kind,
            mixtures=found.mixtures,
        )

    @property
    def _why_fewer(self) -> str | None:
        """Why there can be fewer atoms than were asked for; None where a threshold decides that."""
        return "the other rows are repeats of these or sums of them"

    def _outliers(self, mean: Tensor) -> str:
        """A sentence for who has too few atoms because a few rows are so long that the others vanish beside them."""
        usual = float(torch.linalg.vector_norm(self.sample, dim=1).median()) if len(self.sample) else 0.0
        times = float(torch.linalg.vector_norm(mean)) / usual if usual else 0.0
        if not times > _OUTWEIGHED:
            return ""
        return f" The rows' mean is {times:.1g} times as long as most rows: leave the few far longer rows out."

    def state(self) -> State:
        """All that `restore` needs to go on, as tensors; good until the next update."""
        shared = {"width": torch.tensor(self.width), "rows_seen": torch.tensor(self.rows_seen)}
        return shared | self._own_state() | named("token_means", self._token_means.state())

    def restore(self, state: State) -> None:
        """Go on from `state`; the options must be those it was made with."""
        self.rows_seen = int(state["rows_seen"])
        self._token_means.restore(part(state, "token_means"))
        self._restore_own(state)

    def _count(self, rows: Tensor, sources: Sources) -> None:
        """Take rows into the token means."""
        if sources.named:
            self._token_means.update(rows, sources.token_id)
        if self.rows_seen // _TIDY_ROWS > (self.rows_seen - len(rows)) // _TIDY_ROWS:
            allocator.tidy()


def named(name: str, tensors: Mapping[str, Tensor]) -> State:
    """The tensors of one part of a state, under its name."""
    return {f"{name}.{key}": value for key, value in tensors.items()}


def part(state: State, name: str) -> State:
    """The inverse of `named`."""
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


def unit_and_norm(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (m, D), none of them zero, at norm 1, and the norms they had (m,)."""
    # Normalised twice: rows of norm 1e-30 or 1e30 lose all precision in one step
    largest = rows.abs().amax(1, keepdim=True)
    scaled = rows / largest
    return torch.nn.functional.normalize(scaled, dim=1), torch.linalg.vector_norm(scaled, dim=1) * largest[:, 0]
