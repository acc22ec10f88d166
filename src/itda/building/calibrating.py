"""The threshold at which codes have as many atoms in the mean as were asked for."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from itda.pursuit import Coding, Prepared, pursue

_ROWS = 4096
_LEAST = 1e-3  # of the length of the longest row: no code goes below that
_ITSELF = 1e-6  # unexplained by one atom
_TRIES, _CLOSE = 8, 0.005  # the mean over so many rows is no surer than that


def calibrated(coding: Coding, rows: Tensor, prepared: Prepared, backend: str = "auto") -> Coding:
    """The coding with the `stop_below` at which rows have `steps` atoms in the mean; as it is where that is not asked.

    Args:
        coding: how codes are made.
        rows: centred rows (N, D), like those that will be encoded.
        prepared: the atoms.
        backend: of the pursuit.
    """
    if coding.most is None or coding.stops or not len(rows):
        return coding
    some = rows[:: math.ceil(len(rows) / _ROWS)]
    exact = pursue(some, prepared, coding, backend=backend)
    # Rows that are atoms themselves say nothing of those that will be encoded
    others = (exact.l0 > 1) | (exact.unexplained > _ITSELF)
    some, exact = (some[others], exact[others]) if bool(others.any()) else (some, exact)
    lengths = torch.linalg.vector_norm(some, dim=1)
    longest, missed = float(lengths.max()), float((lengths * exact.unexplained.sqrt()).median())
    if not longest:
        return coding
    # Regula falsi over the logarithm of the threshold, in which the number of atoms is nearly straight
    low, high = math.log(_LEAST * longest), math.log(longest)
    more, fewer = float(coding.most), 1.0
    middle = math.log(min(max(missed, 2 * _LEAST * longest), longest))
    for _ in range(_TRIES):
        tried = replace(coding, stop_below=math.exp(middle))
        mean = float(pursue(some, prepared, tried, backend=backend).l0.double().mean())
        if abs(mean - coding.steps) <= _CLOSE * coding.steps:
            high = middle
            break
        if mean > coding.steps:
            low, more = middle, mean
        else:
            high, fewer = middle, mean
        part = (more - coding.steps) / (more - fewer) if more > fewer else 0.5
        middle = low + (high - low) * min(max(part, 0.05), 0.95)
    return replace(coding, stop_below=float(f"{math.exp(high):.4g}"))
