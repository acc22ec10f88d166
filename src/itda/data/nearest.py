"""The row that shows best what a direction is."""

import torch
from torch import Tensor

_TOGETHER = 4096  # rows that are looked at together


def nearest_rows(directions: Tensor, rows: Tensor, norms: Tensor) -> Tensor:
    """For each unit direction (A, D) the row with the largest cosine, by index, int64 (A,).

    Args:
        rows: float32 (N, D), none of them zero.
        norms: float32 (N,), of the rows.
    """
    best, row = torch.full((len(directions),), -torch.inf), torch.zeros(len(directions), dtype=torch.int64)
    for places in torch.split(torch.arange(len(rows)), _TOGETHER):
        alike, which = (directions @ (rows[places] / norms[places][:, None]).T).max(1)
        row = torch.where(alike > best, places[which], row)
        best = torch.maximum(alike, best)
    return row
