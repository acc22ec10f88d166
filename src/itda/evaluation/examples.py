"""Examples of an atom at work: tokens whose codes have it, and tokens of the same kind whose codes do not."""

from typing import NamedTuple

import torch
from torch import Tensor

from itda.data.activations import Activations
from itda.errors import ActivationError
from itda.pursuit import Codes


class Examples(NamedTuple):
    """Rows for one atom, by index; the three belong together place by place."""

    atom: int
    using: Tensor
    """int64 (n,): rows whose code has the atom."""
    alike: Tensor
    """int64 (n,): a row with the same token for each, whose code does not have it."""
    others: Tensor
    """int64 (n,): any row whose code does not have it, for each."""


def examples_of(
    activations: Activations, codes: Codes, *, atoms: int, count: int, least: int, seed: int
) -> tuple[list[Examples], float]:
    """Examples for some atoms that codes use.

    An atom is drawn as often as it carries energy, and so are its rows: what is asked is whether the codes can be
    read, not whether their strongest parts can. An atom that adds and one that takes away are used alike.

    Args:
        activations: N rows with their sources.
        codes: of these rows.
        atoms: how many atoms, at most.
        count: the most examples of one.
        least: the fewest; atoms with less are not drawn.
        seed: of every draw.
    Returns: the examples; of the energy of all codes, the share that such atoms carry.
    Raises: ActivationError if no atom has so many.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = activations.sources.token_id
    rows_of = _Groups(tokens)
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
        pairs = [
            (user, rival)
            for user in _weighted(users, weights, generator)
            if (rival := _one(rows_of[int(tokens[user])], having, generator)) is not None
        ][:count] if len(found) < atoms and len(users) >= least else []  # fmt: skip
        if len(pairs) >= least:
            using, alike = torch.tensor(pairs).T
            free = torch.nonzero(~having)[:, 0]
            others = free[torch.randint(len(free), (len(using),), generator=generator)]
            found.append(Examples(atom, using, alike, others))
            readable += float(carried[atom])
        if len(found) == atoms:
            break
    if not found:
        raise ActivationError(
            f"No atom is used by {least} of these {len(codes):,} tokens while others with the same tokens do without. "
            "Give more text."
        )
    return found, readable / float(carried.sum())


class _Groups:
    """Rows by token."""

    def __init__(self, tokens: Tensor) -> None:
        self._order = torch.argsort(tokens, stable=True)
        ids, counts = torch.unique_consecutive(tokens[self._order], return_counts=True)
        ends = counts.cumsum(0).tolist()
        self._place = {
            token: (end - count, end) for token, count, end in zip(ids.tolist(), counts.tolist(), ends, strict=True)
        }

    def __getitem__(self, token: int) -> Tensor:
        start, end = self._place[token]
        return self._order[start:end]


def _drawn(weights: Tensor, generator: torch.Generator) -> list[int]:
    """All places with a weight, each as early as its weight is large, by chance."""
    return _weighted(torch.arange(len(weights)), weights, generator) if len(weights) else []


def _weighted(items: Tensor, weights: Tensor, generator: torch.Generator) -> list[int]:
    """Items in random order, those of large weight early. Source: Efraimidis & Spirakis 2006."""
    chance = torch.rand(len(items), generator=generator, dtype=torch.float64).log() / weights.clamp(min=1e-30)
    return [int(item) for item in items[torch.argsort(chance, descending=True)][: int((weights > 0).sum())]]


def _one(rows: Tensor, having: Tensor, generator: torch.Generator) -> int | None:
    """One of the rows that do not have the atom."""
    free = rows[~having[rows]]
    return int(free[torch.randint(len(free), (1,), generator=generator)]) if len(free) else None
