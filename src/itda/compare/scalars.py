"""One number a representation: what any measure of similarity has to beat.

Two representations are as alike as the smaller number is a share of the larger. Layers of a network differ in these
numbers, and networks of one architecture share them, so they match layers without looking at a single row.
"""

import torch

from itda.compare.representations import Representation

_VARIANCE = 0.99


def effective_rank(one: Representation) -> float:
    """exp of the entropy of the shares of variance of the principal directions, the smaller over the larger.

    Unchanged by rotation, uniform scale and shift of either. Source: Roy & Vetterli 2007.
    """
    shares = one.directions.variances / one.directions.variances.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))


def components_99(one: Representation) -> float:
    """How many principal directions hold 99 % of the variance, the smaller number over the larger.

    Unchanged by rotation, uniform scale and shift of either. Source: the sizes of SVCCA's subspaces, Raghu et al. 2017.
    """
    variances = one.directions.variances
    return float((variances.cumsum(0) / variances.sum() < _VARIANCE).sum() + 1)


def median_norm(one: Representation) -> float:
    """Median distance of a row from the mean, the smaller over the larger.

    Unchanged by rotation and shift of either, and by nothing that changes size. Source: none, the plainest there is.
    """
    return float(torch.linalg.vector_norm(one.sample, dim=1).median())


def ratio(first: float, second: float) -> float:
    """The smaller as a share of the larger."""
    return 1.0 if first == second else min(first, second) / max(first, second)
