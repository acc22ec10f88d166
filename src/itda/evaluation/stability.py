"""How much of a code stays when something that should not matter is another."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text
from torch import Tensor

from itda.data.activations import Activations
from itda.data.dictionary import Dictionary, checked_dictionary
from itda.errors import ActivationError, OptionError
from itda.options import is_number, seed_number
from itda.pursuit import Codes, Coding, chosen_coding
from itda.randomness import seeded
from itda.shapes import as_matrix
from itda.shown import Shown

_ALIKE = 0.9
_AT_ONCE = 1024


@dataclass(frozen=True)
class Kept:
    """How much of the codes is found again."""

    atoms: float
    """Share of a code's atoms that the other code has too, the mean over rows."""
    energy: float
    """The same with each atom counted by its squared coefficient."""
    chance: float
    """Share of the energy that the other code of *another* row has: what is found again anyway."""
    dictionary: float | None = None
    """For another dictionary: the share of its atoms that are these."""


@dataclass(frozen=True, repr=False)
class Stability(Shown):
    """The answer of `compare_codes`."""

    rows: int
    changes: dict[str, Kept]
    """What was changed -> how much stayed."""

    def to_json(self) -> dict[str, Any]:
        """All numbers as plain values."""
        return asdict(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(f"How much of the codes of {self.rows:,} activations stays", style="bold")
        table = Table(show_edge=False, pad_edge=False)
        table.add_column("what is another", no_wrap=True)
        for name in ("atoms kept", "energy kept", "by chance", "same atoms in the dictionary"):
            table.add_column(name, justify="right")
        for name, kept in self.changes.items():
            values = (kept.atoms, kept.energy, kept.chance, kept.dictionary)
            table.add_row(Text(name), *("" if value is None else f"{value:.3f}" for value in values))
        yield table


def compare_codes(
    dictionary: Dictionary,
    activations: Any,
    *,
    noise: Sequence[float] = (0.01, 0.05, 0.1),
    others: Mapping[str, Dictionary] | None = None,
    steps: int | None = None,
    coding: Coding | None = None,
    seed: int = 0,
) -> Stability:
    """Encode activations as they are and otherwise, and compare.

    Args:
        dictionary: what encodes.
        activations: held-out Activations or a matrix (N, D).
        noise: lengths of random changes of an activation, in its distance from the dictionary's mean.
        others: dictionaries of the same place, such as one built with another seed or from the documents in another
            order. Their atoms count as these where they come from the same token of the same text, or point the same
            way (cosine at least 0.9; either sign where codes have both).
        steps, coding: instead of the dictionary's own coding. One step more and one less are tried as well.
        seed: of the noise, and of which rows are compared for chance.
    Returns: the report; str() of it is a table.
    Raises: ActivationError for fewer than two rows; OptionError; MismatchError.
    """
    checked_dictionary(dictionary)
    seed = seed_number(seed)
    if not isinstance(noise, Sequence):
        raise OptionError(f"noise must be a list of lengths, as in (0.05,). Got {noise!r} instead.")
    if others is not None and not isinstance(others, Mapping):
        raise OptionError(f"others must be dictionaries by name. Got {type(others).__name__} instead.")
    for length in noise:
        if not is_number(length) or not 0 < length < float("inf"):
            raise OptionError(f"noise must be lengths above 0, as shares of an activation's. Got {length!r} instead.")
    if isinstance(activations, Activations):
        dictionary.check_activations(activations)
        activations = activations.rows
    rows = as_matrix(activations, "activations", "N, D", width=dictionary.width)
    if len(rows) < 2:
        raise ActivationError(f"Codes are compared over rows; two at least are needed. Got {len(rows)}.")
    used = chosen_coding(dictionary.coding, coding, steps)
    generator = seeded(seed)
    own = dictionary.encode(rows, coding=used)
    if not bool((own.atoms >= 0).any()):
        raise ActivationError("None of these activations has a code, so there is nothing to compare.")
    changes = {}
    for length in noise:
        random = torch.nn.functional.normalize(torch.randn(rows.shape, generator=generator), dim=1)
        distance = torch.linalg.vector_norm(rows - dictionary.mean, dim=1, keepdim=True)
        moved = rows + length * distance * random
        changes[f"noise of {length:g}"] = kept(own, dictionary.encode(moved, coding=used), seed=seed)
    exactly = own if used.most is None else dictionary.encode(rows, coding=used.with_options(steps=used.steps))
    for more in (-1, 1):
        if 1 <= used.steps + more <= len(dictionary):
            codes = dictionary.encode(rows, coding=used.with_options(steps=used.steps + more))
            changes[f"{used.steps + more} steps"] = kept(exactly, codes, seed=seed)
    for name, other in (others or {}).items():
        if name in changes:
            raise OptionError(f"{name!r} is the name of a change that is measured anyway. Choose another.")
        dictionary.check_same_place(other, repr(name))
        counterpart = counterparts(dictionary, other, signed=not used.nonnegative)
        fewer = None if used.steps <= len(other) else len(other)
        codes = other.encode(rows, coding=used.with_options(steps=fewer))
        same = len(set(counterpart[counterpart >= 0].tolist())) / len(other)
        found = kept(own, codes, counterpart=counterpart, seed=seed)
        changes[name] = Kept(found.atoms, found.energy, found.chance, same)
    return Stability(len(rows), changes)


def kept(codes: Codes, others: Codes, *, counterpart: Tensor | None = None, seed: int = 0) -> Kept:
    """How much of some codes is in others of the same rows.

    Args:
        codes, others: of N rows each.
        counterpart: for each atom of `codes` that of `others` which counts as the same, or -1.
        seed: of the order in which rows are compared with others.
    """
    used = codes.atoms >= 0
    atoms = codes.atoms.long()
    if counterpart is not None:
        atoms = torch.where(used, counterpart[atoms.clamp(min=0)], -1)
    energy = torch.where(used, codes.coefficients, 0).double().square()
    total = energy.sum(1)

    def found(theirs: Tensor) -> Tensor:
        return ((atoms[:, :, None] == theirs[:, None, :]) & (atoms >= 0)[:, :, None]).any(2)

    def share(again: Tensor) -> float:
        return float(((energy * again).sum(1)[total > 0] / total[total > 0]).mean())

    again = found(others.atoms.long())
    # Each row beside one that is not itself
    shift = 1 + int(torch.randint(len(atoms) - 1, (1,), generator=seeded(seed)))
    by_chance = found(others.atoms.long().roll(shift, 0))
    counts = used.sum(1)
    return Kept(
        float((again.sum(1)[counts > 0] / counts[counts > 0]).mean()),
        share(again),
        share(by_chance),
    )


def counterparts(dictionary: Dictionary, other: Dictionary, *, signed: bool) -> Tensor:
    """For each atom (A,) that of another dictionary which is the same, by name or by direction; -1 for none.

    With `signed` codes the opposite direction is the same atom.
    """
    found = torch.full((len(dictionary),), -1, dtype=torch.int64)
    for start in range(0, len(dictionary), _AT_ONCE):
        cosines = dictionary.atoms[start : start + _AT_ONCE] @ other.atoms.T
        alike, place = (cosines.abs() if signed else cosines).max(1)
        found[start : start + _AT_ONCE] = torch.where(alike >= _ALIKE, place, -1)
    if dictionary.sources.named and other.sources.named and dictionary.kind == other.kind == "activations":
        place_of = {key: place for place, key in enumerate(other.sources.keys())}
        for atom, key in enumerate(dictionary.sources.keys()):
            found[atom] = place_of.get(key, int(found[atom]))
    return found
