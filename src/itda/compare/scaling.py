"""Does the other model have an atom too, although its codes do without? Absence from a code is not an answer."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from itda.data.dictionary import Dictionary
from itda.pursuit import Codes

_RESAMPLES = 300


class Scaling(NamedTuple):
    """How much of each of A atoms the other model has; NaN for atoms that no code has."""

    shared: Tensor
    """float64 (A,): about 1 as much, about 0 nothing."""
    low: Tensor
    high: Tensor
    """float64 (A,): 95 % of it, by drawing documents with replacement."""

    def where(self, first: Tensor, other: "Scaling") -> "Scaling":
        """This one's atoms where `first`, bool (A,), and the other's elsewhere."""
        return Scaling(*(torch.where(first, one, another) for one, another in zip(self, other, strict=True)))


def latent_scaling(
    dictionary: Dictionary, rows: Tensor, codes: Codes, other: Tensor, documents: Tensor, *, seed: int = 0
) -> Scaling:
    """How much of each atom the other model has at the tokens where the codes of one model have it.

    For atom j with coefficients c in this model's codes, beta = sum(c r) / sum(c^2), where r is the part along atom j
    of what the other atoms of the code leave of an activation: of the other model's over of this one's. About 1: the
    other model has as much of it, whether its own codes say so with this atom, with one that is nearly the same, or
    not at all. About 0: it has nothing of it. Source: Minder et al. 2025, "Overcoming sparsity artifacts in
    crosscoders", for codes that are pursuits.

    Args:
        dictionary: A atoms.
        rows: (n, D) as this model has them.
        codes: of these.
        other: (n, D), the same tokens in the other model.
        documents: int64 (n,), the number of the document of each.
        seed: of the draws.
    """
    left = rows - dictionary.decode(codes)
    size, count = len(dictionary), int(documents.max()) + 1
    sums = torch.zeros((2, count * size), dtype=torch.float64)
    for place in range(codes.atoms.shape[1]):
        there = torch.nonzero(codes.atoms[:, place] >= 0)[:, 0]
        which, amount = codes.atoms[there, place].long(), codes.coefficients[there, place]
        directions = dictionary.atoms[which]
        own = (left[there] * directions).sum(1) + amount
        change = ((other[there] - rows[there]) * directions).sum(1)
        cell = documents[there] * size + which
        for table, part in zip(sums, (own, own + change), strict=True):
            table.index_add_(0, cell, (amount * part).double())
    own, others = sums.reshape(2, count, size)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)
    weights = torch.from_numpy(drawn).double()
    # A draw without any token of an atom says nothing of it
    spread = (weights @ others) / (weights @ own)
    ends = torch.stack([spread.nanquantile(share, dim=0) for share in (0.025, 0.975)])
    ends[:, (own > 0).sum(0) < 2] = torch.nan  # one document says nothing about others
    low, high = ends
    return Scaling(others.sum(0) / own.sum(0), low, high)
