"""What a user asks for, and the builder that does it."""

from dataclasses import dataclass
from typing import Any, Literal

from itda.building.builder import Builder
from itda.building.greedy import GreedyBuilder
from itda.building.options import GreedyOptions, PaperOptions
from itda.building.paper import PaperBuilder
from itda.errors import ActivationError, OptionError
from itda.options import one_of
from itda.pursuit import Coding, default_steps

# With a threshold every block is encoded, and larger ones take less time; the atoms are as good.
_THRESHOLD_BLOCK = 64


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """How a dictionary is built from rows; `None` leaves a field to the method."""

    atoms: int | None = None
    """How many atoms; without a threshold, by default 8 times the width, at most a quarter of the rows."""
    steps: int | None = None
    """Pursuit steps K; max(4, min(40, D / 16)) by default."""
    method: Literal["greedy", "paper"] = "greedy"
    """`greedy`, the worst explained rows first, or `paper`, the published rule."""
    max_unexplained: float | None = None
    """Threshold of `greedy`, instead of a size or besides it: share of a row's energy that is unexplained."""
    max_cosine_gap: float | None = None
    """Threshold of `paper`: 1 - cos(x, x^)."""
    coding: Coding | None = None
    """All of how codes are made; `steps` is its shorthand."""
    center: bool | None = None
    """Take off the mean before a pursuit; True by default, False for `paper`."""
    block: int | None = None
    """Rows looked at together; by default 8, 64 for a threshold, 8192 for `paper`."""
    backend: str = "auto"
    """Of the pursuit while building: `auto`, `reference`, `torch` or `numba`."""
    memory: int | str | None = None
    """What inner products of the atoms may take, in bytes or as "2GiB"; half of what is free by default."""

    def __post_init__(self) -> None:
        one_of("method", self.method, ("greedy", "paper"))
        if self.coding is not None and not isinstance(self.coding, Coding):
            raise OptionError(f"coding must be an itda Coding. Got {type(self.coding).__name__} instead.")
        if self.coding is not None and self.steps is not None:
            raise OptionError("Give steps= or coding=, not both: a Coding has its steps.")
        foreign = {"greedy": "max_cosine_gap", "paper": "max_unexplained"}[self.method]
        if getattr(self, foreign) is not None:
            raise OptionError(
                f"{foreign} is not a threshold of method={self.method!r}. Leave it out, or change the method."
            )

    def facts(self) -> dict[str, Any]:
        """What makes two requests the same, as plain values; how much memory is used does not."""
        facts = {name: value for name, value in vars(self).items() if name not in ("coding", "memory")}
        return {**facts, "coding": self.coding.to_dict() if self.coding else None}

    def coding_for(self, width: int) -> Coding:
        """How codes are made for rows of this width."""
        return self.coding or Coding(steps=default_steps(width) if self.steps is None else self.steps)

    def builder(self, width: int, rows: int) -> Builder:
        """The builder for `rows` rows of this width.

        Raises: OptionError for options that cannot be met; ActivationError without rows.
        """
        if rows == 0:
            raise ActivationError("A dictionary needs activations to be built from. Got no rows.")
        if self.atoms is not None and isinstance(self.atoms, int) and self.atoms > rows:
            raise OptionError(
                f"There are {rows:,} rows to take atoms from. Got atoms={self.atoms:,}; "
                "ask for fewer, or give more text."
            )
        coding = self.coding_for(width)
        given: dict[str, Any] = {
            name: getattr(self, name) for name in ("center", "block") if getattr(self, name) is not None
        }
        if self.method == "paper":
            options = PaperOptions(atoms=self.atoms, max_cosine_gap=self.max_cosine_gap, **given)
            return PaperBuilder(width, coding, options, backend=self.backend, memory=self.memory)
        atoms = self.atoms
        if atoms is None and self.max_unexplained is None:
            atoms = default_atoms(width, rows, coding)
        if self.max_unexplained is not None:
            given.setdefault("block", _THRESHOLD_BLOCK)
        greedy = GreedyOptions(atoms=atoms, max_unexplained=self.max_unexplained, expected_rows=rows, **given)
        return GreedyBuilder(width, coding, greedy, backend=self.backend, memory=self.memory)


def default_atoms(width: int, rows: int, coding: Coding) -> int:
    """How many atoms a dictionary has if nobody says: eight times the width, if there are rows enough."""
    return min(rows, max(coding.steps, min(8 * width, rows // 4)))
