"""One direction from paired activations: each way with its formula."""

from collections.abc import Callable

import torch
from torch import Tensor

Direction = Callable[[Tensor, Tensor], Tensor]
"""(positive (n, D), negative (m, D)) -> (D,), not scaled."""


def mean(positive: Tensor, negative: Tensor) -> Tensor:
    """mean(positive) - mean(negative).

    Source: Turner et al. 2023; Rimsky et al. 2024 (CAA).
    """
    return positive.mean(0) - negative.mean(0)


def pca(positive: Tensor, negative: Tensor) -> Tensor:
    """The first principal direction of the paired differences, not centred, towards where most of them point.

    Source: Zou et al. 2023, with each difference also taken the other way round.
    """
    return _first(positive - negative, positive, negative)


def pca_centred(positive: Tensor, negative: Tensor) -> Tensor:
    """The same of the differences less their mean: repeng's `pca_diff`.

    Source: Zou et al. 2023 as in vgel/repeng.
    """
    differences = positive - negative
    return _first(differences - differences.mean(0), positive, negative)


def logistic(positive: Tensor, negative: Tensor) -> Tensor:
    """The weights of a logistic regression without intercept on pairs less their middle.

    Source: scikit-learn's default penalty, as in steering-vectors.
    """
    from sklearn.linear_model import LogisticRegression

    middle = (positive + negative) / 2
    rows = torch.cat([positive - middle, negative - middle]).double().numpy()
    labels = [1] * len(positive) + [-1] * len(negative)
    found = LogisticRegression(fit_intercept=False, max_iter=1000).fit(rows, labels)
    return torch.from_numpy(found.coef_[0]).float()


def _first(rows: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    found = torch.linalg.svd(rows.double(), full_matrices=False).Vh[0].float()
    # A direction has no sign: most pairs decide
    votes = torch.sign((positive - negative) @ found).sum()
    chosen: Tensor = -found if votes < 0 else found
    return chosen


DIRECTIONS: dict[str, Direction] = {"mean": mean, "pca": pca, "pca_centred": pca_centred, "logistic": logistic}
"""By the name of a method; `traits` is `mean` over tokens."""
UNPAIRED = ("mean",)
"""Methods that need no pairs, only two sets."""
