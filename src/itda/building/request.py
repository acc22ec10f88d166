"""What a user asks for, and the builder that does it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from itda.building.baselines import KmeansBuilder, RandomBuilder, TokenMeansBuilder
from itda.building.budget import BudgetBuilder
from itda.building.builder import Builder
from itda.building.greedy import GreedyBuilder
from itda.building.learned import LearnedBuilder
from itda.building.mixture import MixtureBuilder
from itda.building.options import (
    BudgetOptions,
    BuildOptions,
    GreedyOptions,
    LearnedOptions,
    MixtureOptions,
    PaperOptions,
    PoolOptions,
    SnmfOptions,
)
from itda.building.paper import PaperBuilder
from itda.building.snmf import SnmfBuilder
from itda.errors import ActivationError, OptionError
from itda.options import in_python, is_whole, one_of, seed_number, whole
from itda.plugins import Registry
from itda.pursuit import Coding, default_coding, default_steps
from itda.pursuit.memory import free, parse

# With a threshold every block is encoded, and larger ones take less time; the atoms are as good.
_THRESHOLD_BLOCK = 64
_POOL_BYTES = 8  # for each number of a pool: kept as it came, and worked on once more
_ROW_BYTES = 400  # for the source of each row

Way = tuple[type[Builder], type[BuildOptions]]
"""A builder and the options it takes."""


def _accepted(name: str, added: Any) -> Way:
    builder, options = added
    if not (issubclass(builder, Builder) and issubclass(options, BuildOptions)):
        raise TypeError("it must be a Builder and the BuildOptions it takes, as a pair")
    return builder, options


_BUILDERS: Registry[Way] = Registry(
    "itda.builders",
    {
        "budget": (BudgetBuilder, BudgetOptions),
        "greedy": (GreedyBuilder, GreedyOptions),
        "mixture": (MixtureBuilder, MixtureOptions),
        "paper": (PaperBuilder, PaperOptions),
        "learned": (LearnedBuilder, LearnedOptions),
        "random": (RandomBuilder, PoolOptions),
        "kmeans": (KmeansBuilder, PoolOptions),
        "token_means": (TokenMeansBuilder, PoolOptions),
        "snmf": (SnmfBuilder, SnmfOptions),
    },
    _accepted,
)
"""Other packages may add to it; see `itda.plugins`."""
NAMELESS = ("learned", "token_means", "snmf")
"""Methods whose atoms are no activations."""
_SPECIAL = ("max_unexplained", "max_cosine_gap", "block", "pool", "passes", "rounds", "parts", "kept")
"""Options that some methods have and others do not."""


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """How a dictionary is built from rows; `None` leaves a field to the method."""

    atoms: int | None = None
    """How many atoms; without a threshold, by default 8 times the width, at most a quarter of the rows."""
    steps: int | None = None
    """Pursuit steps K, how many atoms codes have in the mean; max(4, min(40, D / 16)) by default."""
    method: str | None = None
    """Activations: `budget`, those that serve best together, the default for a number of atoms; `greedy`, the worst
    explained rows first, the default for a threshold or a block; `paper`, the published rule. Mixtures of up to five of
    them: `mixture`. Baselines: `random`, `kmeans`, and those whose atoms have no name: `token_means`, `learned`, and
    `snmf` for MLP neurons. Other packages may add more."""
    max_unexplained: float | None = None
    """Threshold of `greedy`, instead of a size or besides it: share of a row's energy that is unexplained."""
    max_cosine_gap: float | None = None
    """Threshold of `paper`: 1 - cos(x, x^)."""
    coding: Coding | None = None
    """All of how codes are made; `steps` is its shorthand. By default least squares without negative coefficients,
    `steps` in the mean and up to twice as many where a row needs them (exactly `steps` with `max_unexplained`); for
    `paper` plain matching pursuit."""
    center: bool | None = None
    """Take off the mean before a pursuit; True by default, False for `paper` and `snmf`."""
    block: int | None = None
    """Rows that `greedy` and `paper` look at together; by default 8, 64 for a threshold, 8192 for `paper`."""
    pool: int | None = None
    """Rows kept, evenly over all, by the methods that go through them several times; by default 32 for each atom, at
    least 131,072."""
    passes: int | None = None
    """How many times `budget`, `mixture`, `learned` and `snmf` go through these rows."""
    rounds: int | None = None
    """How many times `budget` exchanges atoms; by default 3."""
    parts: int | None = None
    """Activations in a `mixture`, 1 to 5; by default 5."""
    kept: float | None = None
    """Share of the neurons that an atom of `snmf` keeps; by default 0.01."""
    extra: Mapping[str, Any] | None = None
    """Options of a method that another package adds, beside those here."""
    seed: int = 0
    """Of every random choice among the rows."""
    backend: str = "auto"
    """Of the pursuit while building: `auto`, `reference`, `torch` or `numba`."""
    memory: int | str | None = None
    """What inner products of the atoms may take, in bytes or as "2GiB"; half of what is free by default."""

    def __post_init__(self) -> None:
        in_python(self)
        if self.method is None:
            of_greedy = self.max_unexplained is not None or self.block is not None
            object.__setattr__(self, "method", "greedy" if of_greedy else "budget")
        one_of("method", self.method, tuple(_BUILDERS))
        seed_number(self.seed)
        parse(self.memory, torch.device("cpu"))
        if self.coding is not None and not isinstance(self.coding, Coding):
            raise OptionError(f"coding must be an itda Coding. Got {type(self.coding).__name__} instead.")
        if self.steps is not None:
            whole("steps", self.steps)
        if self.coding is not None and self.steps is not None:
            raise OptionError("Give steps= or coding=, not both: a Coding has its steps.")
        if self.coding is not None and self.coding.most is not None and self.max_unexplained is not None:
            raise OptionError(
                "max_unexplained promises what K steps leave of any row, and this Coding has K in the mean (most=). "
                "Leave most out."
            )
        foreign = [name for name in _SPECIAL if getattr(self, name) is not None and name not in self._own]
        if foreign:
            owners = [method for method in _BUILDERS if foreign[0] in _names(method)]
            raise OptionError(
                f"{foreign[0]} is not an option of method={self.method!r}. Leave it out, or take "
                f"method={' or '.join(map(repr, owners))}."
            )

        if unknown := sorted(set(self.extra or ()) - self._own):
            raise OptionError(
                f"method={self.method!r} has no option {unknown[0]!r}. It has {', '.join(sorted(self._own))}."
            )

    @property
    def _own(self) -> set[str]:
        return _names(str(self.method))

    def facts(self) -> dict[str, Any]:
        """What makes two requests the same, as plain values; how much memory is used does not."""
        facts = {name: value for name, value in vars(self).items() if name not in ("coding", "memory")}
        return {**facts, "coding": self.coding.to_dict() if self.coding else None}

    def coding_for(self, width: int) -> Coding:
        """How codes are made for rows of this width."""
        steps = default_steps(width) if self.steps is None else self.steps
        if self.coding or self.method == "paper":
            return self.coding or Coding(steps=steps)
        coding = default_coding(steps)
        # A threshold promises what K steps leave of any row
        return coding if self.max_unexplained is None else coding.with_options(steps=steps)

    def builder(self, width: int, rows: int) -> Builder:
        """The builder for `rows` rows of this width.

        Raises: OptionError for options that cannot be met; ActivationError without rows.
        """
        if rows == 0:
            raise ActivationError("A dictionary needs activations to be built from. Got no rows.")
        if self.atoms is not None and is_whole(self.atoms) and self.atoms > rows:
            raise OptionError(
                f"There are {rows:,} rows to take atoms from. Got atoms={self.atoms:,}; "
                "ask for fewer, or give more text."
            )
        coding = self.coding_for(width)
        given: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("atoms", "center", "seed", *_SPECIAL)
            if name in self._own and getattr(self, name) is not None
        }
        if self.max_unexplained is not None:
            given.setdefault("block", _THRESHOLD_BLOCK)
        elif self.method != "paper":
            given.setdefault("atoms", default_atoms(width, rows, coding))
        if self.method == "greedy":
            given["expected_rows"] = rows
        kind, options = _BUILDERS[str(self.method)]
        made = options(**given, **(self.extra or {}))
        if isinstance(made, PoolOptions):
            check_room(min(made.rows_kept, rows), width)
        return kind(width, coding, made, backend=self.backend, memory=self.memory)


def check_room(rows: int, width: int) -> None:
    """Refuse a pool that does not fit into memory: how large it is decides the result, so it is not for us to cut it.

    Raises: OptionError.
    """
    needed, there = rows * (_POOL_BYTES * width + _ROW_BYTES), free(torch.device("cpu"))
    if needed > there:
        raise OptionError(
            f"A pool of {rows:,} rows of width {width:,} needs {needed / 2**30:,.1f} GiB, and {there / 2**30:,.1f} are "
            "free. Give pool= of fewer rows, or fewer atoms."
        )


def _names(method: str) -> set[str]:
    """The options that a method has."""
    return {field.name for field in fields(_BUILDERS[method][1])}


def default_atoms(width: int, rows: int, coding: Coding) -> int:
    """How many atoms a dictionary has if nobody says: eight times the width, if there are rows enough."""
    return min(rows, max(coding.steps, min(8 * width, rows // 4)))
