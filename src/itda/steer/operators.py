"""What is done to an activation: each operator with its formula, and the unit of its strength."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from itda.plugins import Registry


class Operator(NamedTuple):
    """A way to change activations along a direction."""

    apply: Callable[[Tensor, Tensor, Tensor], Tensor]
    """(values (n, D), direction (D,), strength (n, 1) or ()) -> values; all float32."""
    scaled: bool
    """Whether the strength is times the median norm of the site's activations."""
    unit: str
    """What a strength of 1 is."""


def unit(values: Tensor) -> Tensor:
    """Rows, or one direction, at length 1; zero stays zero."""
    found: Tensor = torch.nn.functional.normalize(values, dim=-1)
    return found


def add(values: Tensor, direction: Tensor, strength: Tensor) -> Tensor:
    """x + s v."""
    return values + strength * direction


def add_keeping_norm(values: Tensor, direction: Tensor, strength: Tensor) -> Tensor:
    """|x| unit(x + s v): as `add`, and as long as before."""
    return unit(values + strength * direction) * _norms(values)


def rotate(values: Tensor, direction: Tensor, strength: Tensor) -> Tensor:
    """|x| unit(unit x + s (1 + max(0, cos(x, -v))) unit v): the farther from the direction, the stronger.

    Source: VISTA, Li et al. 2025.
    """
    along = unit(direction)
    against = cosine_similarity(values, -along, dim=-1).clamp_min(0)[..., None]
    turned = unit(unit(values) + strength * (1 + against) * along)
    return turned * _norms(values)


def ablate(values: Tensor, direction: Tensor, strength: Tensor) -> Tensor:
    """x - s (x . unit v) unit v: with s = 1 nothing is left along the direction, with s = 2 it is mirrored.

    Source: Arditi et al. 2024.
    """
    along = unit(direction)
    part: Tensor = (values @ along)[..., None] * along
    return values - strength * part


def _norms(values: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    return found


def _accepted(name: str, added: Any) -> Operator:
    if not isinstance(added, Operator):
        raise TypeError("it must be an itda.steer.operators.Operator")
    return added


_OWN = {
    "add": Operator(add, True, "the median norm of activations at the site, times the vector's own length"),
    "add_norm": Operator(add_keeping_norm, True, "the same as of add, after which the old norm is restored"),
    "rotate": Operator(rotate, False, "the length of the activation, before its old norm is restored"),
    "ablate": Operator(ablate, False, "all of the activation's part along the direction"),
}
OPERATORS: Registry[Operator] = Registry("itda.operators", _OWN, _accepted)
"""By name; other packages may add to it, see `itda.plugins`."""
