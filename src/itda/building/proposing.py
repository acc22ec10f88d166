"""Which rows would serve best as further atoms."""

import torch
from torch import Tensor

from itda.building.pools import Encoder
from itda.pursuit import rebuild

_LEAST_ROWS, _ROWS_AN_ATOM = 16_384, 4
_LEAST_CANDIDATES = 8_192
_AT_ONCE = 2048  # rows that are compared with all candidates together


def propose_rows(count: int, atoms: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which of `count` rows to look at, and which to take as candidates, for so many atoms: each drawn at random."""
    looked_at = torch.randperm(count, generator=generator)[: rows_looked_at(atoms)]
    return looked_at, torch.randperm(count, generator=generator)[: max(_LEAST_CANDIDATES, atoms)]


def rows_looked_at(atoms: int) -> int:
    """How many rows say what so many atoms lack."""
    return max(_LEAST_ROWS, _ROWS_AN_ATOM * atoms)


def propose(rows: Tensor, atoms: Tensor, candidates: Tensor, encode: Encoder, count: int) -> Tensor:
    """The candidates that would save the most energy as the last atom of codes, by index, at most `count`.

    Each row speaks for one candidate only, the one that saves it the most beyond what its own last atom does: so of
    many alike only one is proposed. A choice that looks at all pairs (lazily greedy facility location) was no better.

    Args:
        rows: float32 (n, D).
        atoms: unit atoms (A, D) that are there.
        candidates: unit rows (P, D).
        encode: how codes are made.
        count: how many are wanted.
    """
    saved = torch.zeros(len(candidates))
    for part in torch.split(rows, _AT_ONCE):
        codes = encode(part, atoms)
        last = (codes.l0 - 1).clamp(min=0)[:, None]
        place = codes.atoms.gather(1, last)[:, 0].clamp(min=0).long()
        without = part - rebuild(codes, atoms) + codes.coefficients.gather(1, last) * atoms[place]
        own = (without @ atoms.T).square_().amax(1)
        most, which = (without @ candidates.T).square_().max(1)
        saved.index_add_(0, which, (most - own).clamp_(min=0))
    best = torch.argsort(saved, descending=True, stable=True)[:count]
    return best[saved[best] > 0]
