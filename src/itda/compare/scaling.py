"""Does the other model have an atom too, although its codes do without? Absence from a code is not an answer."""

import torch
from torch import Tensor

from itda.data.dictionary import Dictionary
from itda.pursuit import Codes


def latent_scaling(dictionary: Dictionary, rows: Tensor, codes: Codes, other: Tensor) -> Tensor:
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
    Returns: float64 (A,); NaN for atoms that no code has.
    """
    left = rows - dictionary.decode(codes)
    sums = torch.zeros((2, len(dictionary)), dtype=torch.float64)
    for place in range(codes.atoms.shape[1]):
        there = torch.nonzero(codes.atoms[:, place] >= 0)[:, 0]
        which, amount = codes.atoms[there, place].long(), codes.coefficients[there, place]
        directions = dictionary.atoms[which]
        own = (left[there] * directions).sum(1) + amount
        change = ((other[there] - rows[there]) * directions).sum(1)
        for row, part in enumerate((own, own + change)):
            sums[row].index_add_(0, which, (amount * part).double())
    return sums[1] / sums[0]
