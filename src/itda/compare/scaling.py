"""Does the other model need an atom too, although its codes do without? Absence from a code is not an answer."""

import torch
from torch import Tensor

from itda.data.dictionary import Dictionary
from itda.pursuit import Codes


def latent_scaling(dictionary: Dictionary, own: tuple[Tensor, Codes], other: tuple[Tensor, Codes]) -> Tensor:
    """How much of each atom the other model has at the tokens where the codes of one model have it.

    For atom j with coefficients c in this model's codes, beta = sum(c r) / sum(c^2), where r is the part along atom j
    of what all other atoms of a model's code leave of its activation; the answer is beta of the other model over beta
    of this one. About 1: the other model has it as well, said with other atoms or not at all. About 0: it does not.
    Source: Minder et al. 2025, "Overcoming sparsity artifacts in crosscoders", for codes that are pursuits.

    Args:
        dictionary: A atoms.
        own: rows (n, D) as the model has them, and their codes.
        other: the same tokens in the other model.
    Returns: float64 (A,); NaN for atoms that no code of this model has.
    """
    sums = torch.zeros((3, len(dictionary)), dtype=torch.float64)
    left = [rows - dictionary.decode(codes) for rows, codes in (own, other)]
    atoms, coefficients = own[1].atoms, own[1].coefficients
    for place in range(atoms.shape[1]):
        there = torch.nonzero(atoms[:, place] >= 0)[:, 0]
        which, amount = atoms[there, place].long(), coefficients[there, place].double()
        sums[0].index_add_(0, which, amount.square())
        directions = dictionary.atoms[which]
        for row, (rest, codes) in enumerate(zip(left, (own[1], other[1]), strict=True), 1):
            has = torch.where(codes.atoms[there] == which[:, None], codes.coefficients[there], 0).sum(1)
            part = (rest[there] * directions).sum(1) + has
            sums[row].index_add_(0, which, amount * part.double())
    return sums[2] / sums[1]
