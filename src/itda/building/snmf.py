"""Semi-nonnegative matrix factorisation of MLP neurons: which of them fire together, and where.

Source: Ding, Li & Jordan 2010 for the updates; for their use on MLP activations, and for keeping one neuron in a
hundred of a feature, "Decomposing MLP Activations into Interpretable Features via Semi-Nonnegative Matrix
Factorization" (2025).
"""

from typing import ClassVar

import torch
from torch import Tensor

from itda.building.builder import Atoms
from itda.building.options import SnmfOptions
from itda.building.pools import Pool, PoolBuilder, learned_of

_RIDGE = 1e-6
_TINY = 1e-12


class SnmfBuilder(PoolBuilder):
    """Rows as F g with g not negative: each feature F_j a few neurons, named by the rows in which it is strongest."""

    method: ClassVar[str] = "snmf"
    options: SnmfOptions

    def _atoms(self, pool: Pool, generator: torch.Generator) -> Atoms:
        size = min(self.wanted, len(pool.rows))
        use = torch.rand((len(pool.rows), size), generator=generator)  # G: how much of each feature a row has
        for _ in range(self.options.passes):
            features = self._features(pool.rows, use)
            use = use * _ratio(pool.rows, features, use)
        features = self._features(pool.rows, use)
        lengths = torch.linalg.vector_norm(features, dim=1)
        alive = lengths > _TINY
        return learned_of(pool, features[alive] / lengths[alive, None], (use * lengths).argmax(0)[alive])

    def _features(self, rows: Tensor, use: Tensor) -> Tensor:
        """F^T (A, D): least squares for the use, and of each feature the strongest neurons."""
        ridge = _RIDGE * torch.eye(use.shape[1])
        features = torch.linalg.solve(use.T @ use + ridge, use.T @ rows)
        kept = max(1, round(self.options.kept * features.shape[1]))
        least = features.abs().topk(kept, dim=1).values[:, -1:]
        return torch.where(features.abs() >= least, features, 0.0)


def _ratio(rows: Tensor, features: Tensor, use: Tensor) -> Tensor:
    """What the multiplicative update multiplies the use (N, A) with."""
    pull, among = rows @ features.T, features @ features.T
    for_ = pull.clamp(min=0) + use @ (-among).clamp(min=0)
    against = (-pull).clamp(min=0) + use @ among.clamp(min=0)
    # In double: torch's first float32 square root in a process has, now and then, other last bits than the next
    return ((for_ + _TINY) / (against + _TINY)).double().sqrt().float()
