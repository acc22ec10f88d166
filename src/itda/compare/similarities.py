"""The one door to measures of similarity."""

import difflib
import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor

from itda.compare import nets, sampled_measures, scalars
from itda.compare.linear_measures import Pair
from itda.compare.overlaps import kinds_of
from itda.compare.representations import Representation
from itda.compare.sampled_measures import Sample
from itda.data.activations import Activations
from itda.data.entries import RowsOnDisk
from itda.data.sources import Sources
from itda.errors import MismatchError, OptionError, ShapeError
from itda.options import flag
from itda.plugins import Registry

Looks = Literal["nets", "sums", "sample", "scalar"]


class Measure(NamedTuple):
    """A way to say how alike two representations are: 1 for one beside itself, never more."""

    name: str
    looks: Looks
    """At dictionaries, at sums over all rows, at a sample of rows, or at one number of each representation."""
    symmetric: bool
    function: Callable[..., float]

    @property
    def description(self) -> str:
        """Formula, invariances and source."""
        return self.function.__doc__ or ""


_OWN = {
    measure.name: measure
    for measure in (
        Measure("overlap", "nets", True, nets.overlap),
        Measure("cka", "sums", True, Pair.cka),
        Measure("cka_debiased", "sums", True, Pair.cka_debiased),
        Measure("cka_rbf", "sample", True, sampled_measures.cka_rbf),
        Measure("cca", "sums", True, Pair.cca),
        Measure("svcca", "sums", True, Pair.svcca),
        Measure("svcca_larger", "sums", True, Pair.svcca_larger),
        Measure("svcca_20", "sums", True, Pair.svcca_20),
        Measure("pwcca", "sums", False, Pair.pwcca),
        Measure("procrustes", "sums", True, Pair.procrustes),
        Measure("regression", "sums", False, Pair.regression),
        Measure("rsa", "sample", True, sampled_measures.rsa),
        Measure("neighbours", "sample", True, sampled_measures.neighbours),
        Measure("relative", "sample", True, sampled_measures.relative),
        Measure("relative_atoms", "sample", False, sampled_measures.relative_atoms),
        Measure("codes", "sample", False, sampled_measures.codes),
        Measure("effective_rank", "scalar", True, scalars.effective_rank),
        Measure("components_99", "scalar", True, scalars.components_99),
        Measure("median_norm", "scalar", True, scalars.median_norm),
    )
}
SCALARS = tuple(name for name, measure in _OWN.items() if measure.looks == "scalar")
"""Measures of a single number, which any other should beat."""


def _accepted(name: str, added: Any) -> Measure:
    if not isinstance(added, Measure) or added.looks not in get_args(Looks):
        raise TypeError("it must be an itda.compare.similarities.Measure")
    return added._replace(name=name)


_MEASURES: Registry[Measure] = Registry("itda.measures", _OWN, _accepted)
"""Other packages may add to it; see `itda.plugins`."""


class Known:
    """A representation with what measures have found out of it alone, so that nothing is computed for every pair."""

    def __init__(
        self, representation: Representation, kinds: Tensor | None = None, *, atoms: int | None = None
    ) -> None:
        """As `Nets`, but for the representation, which may be plain."""
        self.representation, self._kinds, self._atoms = representation, kinds, atoms
        self._scalars: dict[str, float] = {}

    @cached_property
    def nets(self) -> nets.Nets:
        """Its dictionaries."""
        return nets.Nets(self.representation.whitened, self._kinds, atoms=self._atoms)

    @cached_property
    def sample(self) -> Sample:
        """Its sample of rows."""
        return Sample(self.representation)

    def scalar(self, measure: Measure) -> float:
        """Its number."""
        if measure.name not in self._scalars:
            self._scalars[measure.name] = measure.function(self.representation)
        return self._scalars[measure.name]


def similarity(
    rows_a: Any, rows_b: Any, measure: str = "cka", *, whiten: bool = False, check_places: bool = True
) -> float:
    """How alike two representations of the same N rows are: 1 for equal ones, never more.

    Args:
        rows_a, rows_b: torch or numpy matrices (N, D) and (N, E), or Activations in memory or in a store: row i of both
            is of the same place. Read once (twice to whiten), in pieces.
        measure: one of `measures()`; `describe(measure)` says what it computes.
        whiten: give every direction with variance the same first. Measures of single numbers then say nothing.
        check_places: refuse Activations whose rows are not of the same places of the same documents, in one order.
    Raises: MismatchError for other places; OptionError for another measure; ShapeError for other shapes, or rows too
        few for the measure; ActivationError for NaN, infinity, or rows that are all the same.
    """
    wanted = named(measure)
    flag("whiten", whiten)
    named_rows = {"rows_a": rows_a, "rows_b": rows_b}
    flag("check_places", check_places)
    sources = [rows.sources for rows in named_rows.values() if isinstance(rows, Activations | RowsOnDisk)]
    kinds = None
    if len(sources) == 2 and len(rows_a) == len(rows_b) and all(one.named for one in sources):
        if check_places:
            _check_places(*sources)
        kinds = kinds_of(*sources)
    first, second = (Known(Representation.of(rows, name, whiten=whiten), kinds) for name, rows in named_rows.items())
    return alike(wanted, Pair(first.representation, second.representation), first, second)


def _check_places(first: Sources, second: Sources) -> None:
    apart = [row for row, (one, other) in enumerate(zip(first.keys(), second.keys(), strict=True)) if one != other]
    if apart:
        one, other = first[apart[0]], second[apart[0]]
        raise MismatchError(
            f"{len(apart):,} of {len(first):,} rows are not of the same place. Row {apart[0]} is {one.text!r} in the "
            f"one and {other.text!r} in the other. Capture the same corpus with the same tokens= and seed=, or give "
            "check_places=False."
        )


def measures() -> tuple[str, ...]:
    """The names of all measures, those of a single number last."""
    return tuple(_MEASURES)


def describe(measure: str) -> str:
    """What a measure computes, what leaves it unchanged, and where it comes from.

    Raises: OptionError for another name.
    """
    return named(measure).description


def named(measure: str) -> Measure:
    """The measure of that name.

    Raises: OptionError with those there are.
    """
    if not isinstance(measure, str) or measure not in _MEASURES:
        near = difflib.get_close_matches(str(measure), _MEASURES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise OptionError(f"There is no measure {measure!r}.{hint} There are {', '.join(_MEASURES)}.")
    return _MEASURES[measure]


def alike(wanted: Measure, pair: Pair, first: Known, second: Known) -> float:
    """How alike two representations are by a measure; a pair is read once, for all measures."""
    if wanted.looks == "sums":
        value = wanted.function(pair)
    elif wanted.looks == "nets":
        value = wanted.function(first.nets, second.nets)
    elif wanted.looks == "sample":
        value = wanted.function(first.sample, second.sample)
    else:
        value = scalars.ratio(first.scalar(wanted), second.scalar(wanted))
    if not math.isfinite(value):
        raise ShapeError(f"{wanted.name} of these rows is {value}: too few of them, or too many that are the same.")
    return min(1.0, value)  # rounding can end a hair above
