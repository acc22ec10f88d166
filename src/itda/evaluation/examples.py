"""Examples of an atom at work: tokens whose codes have it, and tokens of the same kind whose codes do not."""

from typing import NamedTuple

import torch
from torch import Tensor

from itda.data.activations import Activations
from itda.errors import ActivationError
from itda.pursuit import Codes
from itda.randomness import seeded


class Examples(NamedTuple):
    """Rows for one atom, by index; the three belong together place by place."""

    atom: int
    using: Tensor
    """int64 (n,): rows whose code has the atom."""
    alike: Tensor
    """int64 (n,): a row with the same token for each, whose code does not have it."""
    others: Tensor
    """int64 (n,): any row whose code does not have it, for each."""
    fold: Tensor
    """int64 (n,): documents are in folds, and a row and what stands beside it are of the same."""


def examples_of(
    activations: Activations, codes: Codes, *, folds: int, atoms: int, count: int, least: int, seed: int
) -> tuple[list[Examples], float]:
    """Examples for some atoms that codes use.

    An atom is drawn as often as it carries energy, and so are its rows: what is asked is whether the codes can be
    read, not whether their strongest parts can. An atom that adds and one that takes away are used alike.

    No row stands twice beside an atom's uses, and what is learned from one fold of documents can be asked about
    another: a row known from elsewhere would say which side it is on, whatever its text.

    Args:
        activations: N rows with their sources.
        codes: of these rows.
        folds: into so many are documents dealt, by chance.
        atoms: how many atoms, at most.
        count: the most examples of one.
        least: the fewest; atoms with less are not drawn.
        seed: of every draw.
    Returns: the examples; of the energy of all codes, the share that such atoms carry.
    Raises: ActivationError if no atom has so many.
    """
    generator = seeded(seed)
    fold = _dealt(activations, folds, generator)
    kind = activations.sources.token_id * folds + fold
    rows_of = _Groups(kind)
    used = codes.atoms >= 0
    which, owner = codes.atoms[used].long(), torch.arange(len(codes))[:, None].expand_as(codes.atoms)[used]
    energy = codes.coefficients[used].double().square()
    order = torch.argsort(which, stable=True)
    which, owner, energy = which[order], owner[order], energy[order]
    size = int(which.max()) + 1 if len(which) else 0
    ends = torch.bincount(which, minlength=size).cumsum(0).tolist()
    carried = torch.zeros(size, dtype=torch.float64).index_add_(0, which, energy)
    found: list[Examples] = []
    readable = 0.0
    for atom in _drawn(carried, generator):
        own = slice(ends[atom - 1] if atom else 0, ends[atom])
        users, weights = owner[own], energy[own]
        having = torch.zeros(len(codes), dtype=torch.bool)
        having[users] = True
        if len(users) < least:
            continue
        pairs = _pairs(_weighted(users, weights, generator), kind, rows_of, having, count, generator)
        if len(pairs) >= least:
            using, alike = torch.tensor(pairs).T
            others = _others(fold, using, having, folds, generator)
            if others is not None:
                found.append(Examples(atom, using, alike, others, fold[using]))
                readable += float(carried[atom])
        if len(found) == atoms:
            break
    if not found:
        raise ActivationError(
            f"No atom is used by {least} of these {len(codes):,} tokens while others with the same tokens do without. "
            "Give more text."
        )
    return found, readable / float(carried.sum())


def _dealt(activations: Activations, folds: int, generator: torch.Generator) -> Tensor:
    """The fold of every row's document, int64 (N,)."""
    windows = [window.document for window in activations.sources.windows]
    place = {document: number for number, document in enumerate(dict.fromkeys(windows))}
    dealt = torch.randperm(len(place), generator=generator) % folds
    return dealt[torch.tensor([place[document] for document in windows])][activations.sources.window]


def _pairs(
    users: list[int], kind: Tensor, rows_of: "_Groups", having: Tensor, count: int, generator: torch.Generator
) -> list[tuple[int, int]]:
    """Rows that use an atom, each with another of its kind that does not, no row twice."""
    free: dict[int, list[int]] = {}
    pairs: list[tuple[int, int]] = []
    for user in users:
        if len(pairs) == count:
            break
        own = int(kind[user])
        if own not in free:
            rows = rows_of[own]
            rows = rows[~having[rows]]
            free[own] = rows[torch.randperm(len(rows), generator=generator)].tolist()
        if free[own]:
            pairs.append((user, free[own].pop()))
    return pairs


def _others(fold: Tensor, using: Tensor, having: Tensor, folds: int, generator: torch.Generator) -> Tensor | None:
    """For each row that uses an atom one of its fold that does not, no row twice; None if there are too few."""
    found = torch.empty_like(using)
    for number in range(folds):
        here = fold[using] == number
        free = torch.nonzero(~having & (fold == number))[:, 0]
        if len(free) < int(here.sum()):
            return None
        found[here] = free[torch.randperm(len(free), generator=generator)[: int(here.sum())]]
    return found


class _Groups:
    """Rows by kind."""

    def __init__(self, kinds: Tensor) -> None:
        self._order = torch.argsort(kinds, stable=True)
        ids, counts = torch.unique_consecutive(kinds[self._order], return_counts=True)
        ends = counts.cumsum(0).tolist()
        self._place = {
            kind: (end - count, end) for kind, count, end in zip(ids.tolist(), counts.tolist(), ends, strict=True)
        }

    def __getitem__(self, kind: int) -> Tensor:
        start, end = self._place[kind]
        return self._order[start:end]


def _drawn(weights: Tensor, generator: torch.Generator) -> list[int]:
    """All places with a weight, each as early as its weight is large, by chance."""
    return _weighted(torch.arange(len(weights)), weights, generator) if len(weights) else []


def _weighted(items: Tensor, weights: Tensor, generator: torch.Generator) -> list[int]:
    """Items in random order, those of large weight early. Source: Efraimidis & Spirakis 2006."""
    chance = torch.rand(len(items), generator=generator, dtype=torch.float64).log() / weights.clamp(min=1e-30)
    return [int(item) for item in items[torch.argsort(chance, descending=True)][: int((weights > 0).sum())]]
