"""How alike two dictionaries of one place are as directions, whatever their atoms are and come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from itda.compare.known import known
from itda.data.dictionary import Dictionary, checked_dictionary
from itda.errors import OptionError
from itda.options import flag, seed_number
from itda.randomness import seeded
from itda.shown import Shown

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

ALIKE = 0.9
"""The cosine at which two atoms count as alike."""
_AT_ONCE = 2**26  # cosines that are held at a time


class Nearest(NamedTuple):
    """What each of A atoms is most like in the other dictionary."""

    atoms: Tensor
    """int64 (A,)."""
    cosines: Tensor
    """float32 (A,)."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Alignment(Shown):
    """How alike two dictionaries are as directions."""

    of_first: Nearest
    """For each atom of the first, the nearest of the second."""
    of_second: Nearest
    """For each atom of the second, the nearest of the first."""
    expected: tuple[float, float]
    """The mean cosines by chance: with directions in place of the other's atoms that are drawn from a Gaussian with
    their covariance."""

    @property
    def mean_cosine(self) -> tuple[float, float]:
        """The mean cosine with the nearest atom of the other, of each; known as MMCS in work on autoencoders."""
        return float(self.of_first.cosines.mean()), float(self.of_second.cosines.mean())

    @property
    def alike(self) -> tuple[float, float]:
        """The share of each one's atoms that have one in the other at a cosine of 0.9 or more."""
        first, second = ((of.cosines >= ALIKE).double().mean() for of in (self.of_first, self.of_second))
        return float(first), float(second)

    @property
    def mutual(self) -> int:
        """Pairs of atoms that are each other's nearest."""
        there = self.of_second.atoms[self.of_first.atoms]
        return int((there == torch.arange(len(there))).sum())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        sizes = len(self.of_first.atoms), len(self.of_second.atoms)
        found: dict[str, Any] = known(
            {"sizes": sizes, "mean_cosine": self.mean_cosine, "expected": self.expected, "alike": self.alike,
             "mutual": self.mutual}
        )  # fmt: skip
        return found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.table import Table

        table = Table("", "atoms", "mean cosine with the nearest", "by chance", f"alike (cosine {ALIKE} or more)",
                      show_edge=False, pad_edge=False)  # fmt: skip
        for place, (name, nearest) in enumerate((("first", self.of_first), ("second", self.of_second))):
            numbers = f"{self.mean_cosine[place]:.3f}", f"{self.expected[place]:.3f}", f"{self.alike[place]:.1%}"
            table.add_row(name, f"{len(nearest.atoms):,}", *numbers)
        yield table
        yield f"\n{self.mutual:,} pairs are each other's nearest"


def align(first: Dictionary, second: Dictionary, *, signed: bool = False, seed: int = 0) -> Alignment:
    """Match the atoms of two dictionaries of one place by their directions.

    This asks nothing of the atoms but their width, so it takes autoencoders' decoders too, which `overlap` cannot. It
    says nothing across models: their spaces have nothing in common.

    Args:
        first, second: of one model and site, as far as they know theirs.
        signed: count an atom and its opposite as alike.
        seed: of the directions that chance is estimated with.
    Raises: MismatchError for dictionaries of other places or widths; OptionError for what is no dictionary.
    """
    checked_dictionary(first).check_same_place(second, "The second dictionary")
    flag("signed", signed)
    seed = seed_number(seed)
    if not len(first) or not len(second):
        raise OptionError("There are no atoms in one of the dictionaries.")
    generator = seeded(seed)
    return Alignment(
        of_first=_nearest(first.atoms, second.atoms, signed),
        of_second=_nearest(second.atoms, first.atoms, signed),
        expected=(
            float(_nearest(first.atoms, _alike_drawn(second.atoms, generator), signed).cosines.mean()),
            float(_nearest(second.atoms, _alike_drawn(first.atoms, generator), signed).cosines.mean()),
        ),
    )


def _nearest(atoms: Tensor, others: Tensor, signed: bool) -> Nearest:
    places, cosines = [], []
    for part in torch.split(atoms, max(1, _AT_ONCE // len(others))):
        products = part @ others.T
        found = (products.abs_() if signed else products).max(1)
        places.append(found.indices)
        cosines.append(found.values)
    return Nearest(torch.cat(places), torch.cat(cosines).clamp_max_(1.0))


def _alike_drawn(atoms: Tensor, generator: torch.Generator) -> Tensor:
    """As many unit directions, from a Gaussian with the mean and covariance of these."""
    mean = atoms.mean(0)
    _, values, directions = torch.linalg.svd(atoms - mean, full_matrices=False)
    drawn = torch.randn(len(atoms), len(values), generator=generator) * values / len(atoms) ** 0.5
    return torch.nn.functional.normalize(drawn @ directions + mean, dim=1)
