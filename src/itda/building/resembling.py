"""When one direction can stand in for another in a code."""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from itda.building.pools import Encoder
from itda.pursuit import rebuild

_ROWS = 16_384
_AT_ONCE = 256  # atoms that are compared with all rows together
_LEAST = 1e-4  # smallest share of a direction's variance


class Likeness(NamedTuple):
    """A metric in which a difference counts as far as the other atoms leave it unexplained.

    A code mends what lies along the main directions of the data, whatever its atoms are; what lies across them stays.
    So along each principal direction a difference is weighted by the share of the variance that codes leave there,
    to a power. Plain cosines left a tenth more unexplained after learned atoms were replaced by real ones.
    """

    weights: Tensor
    """float32 (D, D), symmetric."""

    @classmethod
    def of(cls, rows: Tensor, atoms: Tensor, encode: Encoder, *, exponent: float) -> Self:
        """From what atoms (A, D) leave of rows (N, D); exponent 0 gives plain inner products."""
        some = rows[:: -(-len(rows) // _ROWS)]
        left = some - rebuild(encode(some, atoms), atoms)
        _, directions = torch.linalg.eigh((some.T @ some).double())
        directions = directions.float()
        variance = (some @ directions).square().mean(0)
        share = (left @ directions).square().mean(0) / variance.clamp(min=torch.finfo(torch.float32).tiny)
        return cls((directions * share.clamp(_LEAST, 1) ** exponent) @ directions.T)

    def apply(self, rows: Tensor) -> Tensor:
        """Rows (n, D) so that plain inner products are those of the metric."""
        return rows @ self.weights

    def nearest(self, atoms: Tensor, units: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """For each atom (A, D), cosines and indices (A, count) of the unit rows (N, D) most like it, best first."""
        there = torch.nn.functional.normalize(self.apply(units), dim=1)
        wanted = torch.nn.functional.normalize(self.apply(atoms), dim=1)
        count = min(count, len(units))
        found = [torch.topk(part @ there.T, count, dim=1) for part in torch.split(wanted, _AT_ONCE)]
        return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])
