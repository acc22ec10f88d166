"""When to steer: where an atom's coefficient, or a projection, is above a threshold that labelled examples gave."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from itda.data.dictionary import Dictionary, checked_dictionary
from itda.errors import OptionError, ShapeError
from itda.options import finite_number, is_whole
from itda.shapes import finite
from itda.steer.atoms import coefficients
from itda.steer.operators import unit


class Threshold(NamedTuple):
    """A value that tells two kinds apart, and how well it does on the examples it was found on."""

    value: float
    balanced_accuracy: float
    """Mean of the shares of either kind on its side."""


def find_threshold(scores: Any, labels: Sequence[bool] | Tensor) -> Threshold:
    """The threshold above which examples are called positive, at the best balanced accuracy; in the widest gap of
    several that are as good.

    Args:
        scores: float (n,).
        labels: which are positive: True and False, or 1 and 0.
    Raises: ShapeError; OptionError for other labels, or where there is one kind only.
    """
    values, positive = _column(scores, "scores", torch.float64), _column(labels, "labels")
    if not bool(((positive == 0) | (positive == 1)).all()):
        raise OptionError("The labels must be True and False, or 1 and 0.")
    positive = positive.bool()
    if len(values) != len(positive):
        raise ShapeError(f"There must be as many labels as scores. Got {len(positive)} and {len(values)}.")
    if not bool(values.isfinite().all()):
        raise ShapeError("The scores must be finite numbers.")
    if not bool(positive.any()) or bool(positive.all()):
        raise OptionError("A threshold tells two kinds apart. Give examples of both.")
    levels = torch.unique(values)
    # Between two neighbouring scores nothing changes; below all and above all, one kind gets everything
    cuts = torch.cat([levels[:1] - 1, (levels[1:] + levels[:-1]) / 2, levels[-1:] + 1])
    widths = torch.cat([torch.zeros(1), levels[1:] - levels[:-1], torch.zeros(1)])
    right = (values[positive][None] > cuts[:, None]).double().mean(1)
    wrong = (values[~positive][None] > cuts[:, None]).double().mean(1)
    accuracy = (right + 1 - wrong) / 2
    best = torch.nonzero(accuracy >= accuracy.max() - 1e-12)[:, 0]
    place = best[widths[best].argmax()]
    return Threshold(float(cuts[place]), float(accuracy[place]))


def _column(values: Any, what: str, dtype: torch.dtype | None = None) -> Tensor:
    """Real numbers or booleans (n,), of a type from the beginning: float32 is what a list of them would become."""
    try:
        column = torch.as_tensor(values if isinstance(values, Tensor) else np.array(values, order="C"))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ShapeError(f"The {what} must be a list of numbers. Got {type(values).__name__}.") from error
    if column.ndim != 1 or column.is_complex():
        raise ShapeError(f"The {what} must be real numbers of shape (n,). Got {column.dtype} of {tuple(column.shape)}.")
    return column if dtype is None else column.to(dtype)


@dataclass(frozen=True)
class AtomGate:
    """Open where the code of an activation has more of an atom than a threshold."""

    dictionary: Dictionary
    atom: int
    threshold: float = 0.0
    """In the units of the activations."""

    def __post_init__(self) -> None:
        checked_dictionary(self.dictionary)
        finite_number("threshold", self.threshold)
        if not is_whole(self.atom) or not 0 <= self.atom < len(self.dictionary):
            raise OptionError(f"Atoms are numbers from 0 to {len(self.dictionary) - 1}. Got {self.atom!r}.")

    def scores(self, rows: Tensor) -> Tensor:
        """How much of the atom each activation (n, D) has, float32 (n,)."""
        return coefficients(self.dictionary, rows.float().cpu(), self.atom).to(rows.device)

    def __call__(self, rows: Tensor) -> Tensor:
        """1 for each activation (n, D) at which it is open, 0 elsewhere."""
        return (self.scores(rows) > self.threshold).float()


@dataclass(frozen=True)
class ProjectionGate:
    """Open where an activation's part along a direction is above a threshold."""

    direction: Tensor
    """float (D,); its length does not matter."""
    threshold: float = 0.0
    """In the units of the activations."""

    def __post_init__(self) -> None:
        finite_number("threshold", self.threshold)
        if not isinstance(self.direction, Tensor) or self.direction.ndim != 1:
            raise ShapeError("A gate's direction must be of shape (D,).")
        if not self.direction.is_floating_point():
            raise ShapeError(f"A gate's direction must be of floating point. Got {self.direction.dtype}.")
        finite(self.direction[None], "The direction of a gate")

    def scores(self, rows: Tensor) -> Tensor:
        """The part of each activation (n, D) along the direction, float32 (n,)."""
        found: Tensor = rows.float() @ unit(self.direction.float()).to(rows.device)
        return found

    def __call__(self, rows: Tensor) -> Tensor:
        """1 for each activation (n, D) at which it is open, 0 elsewhere."""
        return (self.scores(rows) > self.threshold).float()
