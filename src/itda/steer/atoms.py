"""Steering by atoms: what a vector is made of, another coefficient for one atom, and vectors in another model."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text
from torch import Tensor

from itda.compare import Transplant
from itda.data.dictionary import Dictionary, checked_dictionary
from itda.errors import MismatchError, OptionError
from itda.explaining import place_of
from itda.models.loading import Model
from itda.options import finite_number, is_whole, one_of, whole
from itda.pursuit import Coding, pursue
from itda.shown import Quote, Shown
from itda.steer.applying import Gate, Steering, TextGate, steering
from itda.steer.operators import unit
from itda.steer.positions import Tokens, checked_tokens
from itda.steer.vectors import SteeringVector

Kind = Literal["set", "scale", "clamp"]


@dataclass(frozen=True)
class AtomShare:
    """One atom in a vector."""

    atom: int
    coefficient: float
    """Of the atom at length 1, the vector at length 1 too."""
    cosine: float
    """Of the atom with the vector."""
    text: str


@dataclass(frozen=True, repr=False)
class VectorExplanation(Shown):
    """A vector as a sum of atoms; str() of it is a table."""

    site: str
    unexplained: float
    """Share of the vector's energy that these atoms miss."""
    atoms: tuple[AtomShare, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"site": self.site, "unexplained": self.unexplained, "atoms": [vars(atom) for atom in self.atoms]}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(f"at {self.site}, {self.unexplained:.1%} of the vector is in none of these atoms", style="bold")
        table = Table(show_edge=False, pad_edge=False, expand=True)
        for name in ("coefficient", "cosine", "atom"):
            table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
        table.add_column("text", no_wrap=True, overflow="ellipsis", ratio=1)
        for one in self.atoms:
            table.add_row(f"{one.coefficient:+.3f}", f"{one.cosine:+.3f}", str(one.atom), Quote.of(one.text))
        yield table


def explain(vector: SteeringVector, dictionary: Dictionary, *, count: int = 8) -> VectorExplanation:
    """Write a vector as a signed sum of a dictionary's atoms: which texts it adds, and which it takes away.

    Args:
        vector: with a direction at the dictionary's site.
        dictionary: of the same model.
        count: at most so many atoms.
    Raises: OptionError for a vector that is not at that site; MismatchError for one of another model.
    """
    count = whole("count", count)
    direction = unit(_direction(vector, dictionary))
    coding = Coding(steps=min(count, len(dictionary), dictionary.width), method="omp")
    codes = pursue(direction[None], dictionary.atoms, coding)
    cosines = dictionary.atoms @ direction
    shares = [
        AtomShare(atom, value, float(cosines[atom]), dictionary.describe(atom))
        for atom, value in zip(codes.atoms[0].tolist(), codes.coefficients[0].tolist(), strict=True) if atom >= 0
    ]  # fmt: skip
    ordered = sorted(shares, key=lambda share: -abs(share.coefficient))
    return VectorExplanation(dictionary.site, float(codes.unexplained[0]), tuple(ordered))


def transfer(vector: SteeringVector, dictionary: Dictionary, there: Transplant, *, count: int = 64) -> SteeringVector:
    """Carry a vector to another model through atoms that both have: the same weights on the same named activations.

    A vector is a difference of activations, so it is written as a signed sum of atoms less the mean, v ~ sum_k w_k
    (x_k - m), and is sum_k w_k (y_k - m') there, at length 1: the two models measure strength in norms of their own.

    Args:
        vector: at the dictionary's site.
        dictionary: of the vector's model.
        there: `compare.transplant` of the dictionary into the other model.
        count: at most so many atoms.
    Raises: OptionError; MismatchError if `there` is a transplant of another dictionary, or holds none of the atoms.
    """
    count = whole("count", count)
    if not isinstance(there, Transplant) or there.original.fingerprint != dictionary.fingerprint:
        raise MismatchError(
            "A vector is carried by a transplant of its own dictionary: compare.transplant(dictionary, ...)."
        )
    assert there.provenance is not None
    direction = unit(_direction(vector, dictionary))
    known = dictionary.atoms[there.kept]
    codes = pursue(direction[None], known, Coding(steps=min(count, len(there), dictionary.width), method="omp"))
    used = codes.atoms[0] >= 0
    places = codes.atoms[0][used].long()
    weights = codes.coefficients[0][used] / dictionary.norms[there.kept][places]
    moved = (weights[:, None] * there.norms[places, None] * there.atoms[places]).sum(0)
    if float(torch.linalg.vector_norm(moved)) == 0:
        raise MismatchError(
            "None of the vector's atoms has a place in the other model, so nothing of it can be carried."
        )
    lengths = torch.linalg.vector_norm(there.atoms * there.norms[:, None] + there.mean, dim=1)
    facts = {
        "method": "transfer", "of": dict(vector.facts), "atoms": int(used.sum()),
        "unexplained": float(codes.unexplained[0]),
    }  # fmt: skip
    return SteeringVector(
        directions={there.site: unit(moved)}, norms={there.site: float(lengths.median())}, model=there.provenance.model,
        facts=facts,
    )  # fmt: skip


@dataclass(frozen=True)
class AtomEdit:
    """Another coefficient for one atom in the code of an activation; all else of the activation stays.

    x + (c' - c) d, where c is what the dictionary's code has of the atom, and 0 where it has none.
    """

    dictionary: Dictionary
    atom: int
    kind: Kind
    value: float
    """`set`: c' in the units of the activations; `scale`: c' = value c; `clamp`: c' at most that."""

    def __post_init__(self) -> None:
        checked_dictionary(self.dictionary)
        one_of("kind", self.kind, ("set", "scale", "clamp"))
        if not is_whole(self.atom) or not 0 <= self.atom < len(self.dictionary):
            raise OptionError(f"Atoms are numbers from 0 to {len(self.dictionary) - 1}. Got {self.atom!r}.")
        finite_number("value", self.value)

    def changed(self, coefficients: Tensor) -> Tensor:
        """c' of c, float32 (n,)."""
        if self.kind == "set":
            return torch.full_like(coefficients, self.value)
        return coefficients * self.value if self.kind == "scale" else coefficients.clamp_max(self.value)

    def apply(
        self, model: Model, *, tokens: Tokens = "all", when: Gate | TextGate | None = None, site: str | None = None,
        check_model: bool = True,
    ) -> AbstractContextManager[Steering]:  # fmt: skip
        """Steer a model while the context is open.

        Args:
            model: the one the dictionary was built on.
            tokens, when: as of `SteeringVector.apply`.
            site: where, for a dictionary that was built from a bare array.
            check_model: refuse a model with other weights.
        """
        where = place_of(self.dictionary, model, site, check_model)
        wanted = checked_tokens(tokens)

        def change(values: Tensor) -> Tensor:
            rows = values.cpu()
            now = coefficients(self.dictionary, rows, self.atom)
            return values + ((self.changed(now) - now)[:, None] * self.dictionary.atoms[self.atom]).to(values)

        told = Steering(f"{self.kind} atom {self.atom} to {self.value:g}", (where,), wanted, None, "")
        return steering(model, {where: change}, wanted, when, told, check_model=check_model)


def coefficients(dictionary: Dictionary, rows: Tensor, atom: int) -> Tensor:
    """What the codes of rows (n, D) have of one atom, float32 (n,); 0 where they have none."""
    codes = dictionary.encode(rows)
    return torch.where(codes.atoms == atom, codes.coefficients, 0).sum(1)


def _direction(vector: SteeringVector, dictionary: Dictionary) -> Tensor:
    checked_dictionary(dictionary)
    if dictionary.provenance is None:
        raise OptionError("This dictionary was built from a bare array, so its atoms belong to no model.")
    if vector.model is not None and not vector.model.is_same_model(dictionary.provenance.model):
        raise MismatchError(
            f"This vector is of the model {vector.model.id!r}, the dictionary of {dictionary.model_id!r}. "
            "Take those of one model."
        )
    if dictionary.site not in vector.directions:
        raise OptionError(f"This vector is at {', '.join(vector.sites)}, the dictionary at {dictionary.site}.")
    found: Mapping[str, Tensor] = vector.directions
    return found[dictionary.site].float()
