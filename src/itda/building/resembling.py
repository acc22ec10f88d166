"""When one direction can stand in for another in a code."""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from itda.building.pools import Encoder
from itda.data.lots import evenly
from itda.pursuit import rebuild

_ROWS = 16_384
_TOGETHER = 4096  # rows that are compared with all atoms together
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
        some = rows[evenly(len(rows), _ROWS)]
        left = some - rebuild(encode(some, atoms), atoms)
        scale = torch.exp2(-torch.log2(some.abs().max()).ceil())  # squares of long rows are no float32
        some, left = some * scale, left * scale
        _, directions = torch.linalg.eigh((some.T @ some).double())
        directions = directions.float()
        variance = (some @ directions).square().mean(0)
        share = (left @ directions).square().mean(0) / variance.clamp(min=torch.finfo(torch.float32).tiny)
        return cls((directions * share.clamp(_LEAST, 1) ** exponent) @ directions.T)

    def apply(self, rows: Tensor) -> Tensor:
        """Rows (n, D) so that plain inner products are those of the metric."""
        return rows @ self.weights

    def nearest(self, atoms: Tensor, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """For each atom (A, D), cosines and indices (A, count) of the rows (N, D) most like it, best first."""
        wanted = torch.nn.functional.normalize(self.apply(atoms), dim=1)
        alike, places = torch.empty((len(atoms), 0)), torch.empty((len(atoms), 0), dtype=torch.int64)
        for start in range(0, len(rows), _TOGETHER):
            there = torch.nn.functional.normalize(self.apply(rows[start : start + _TOGETHER]), dim=1)
            best, which = torch.topk(wanted @ there.T, min(count, len(there)), dim=1)
            alike, places = torch.cat([alike, best], dim=1), torch.cat([places, which + start], dim=1)
            alike, kept = torch.topk(alike, min(count, alike.shape[1]), dim=1)
            places = places.gather(1, kept)
        return alike, places
