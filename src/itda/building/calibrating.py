"""The threshold at which codes have as many atoms in the mean as were asked for."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from itda.pursuit import Coding, Prepared, pursue

_ROWS, _ENOUGH = 4096, 64  # that are tried, and fewer than which say nothing
_ITSELF = 1e-6  # unexplained by one atom
_RANGE = math.log(100)  # how many times what is usually missed the threshold may be, either way
_TRIES, _CLOSE = 8, 0.005  # the mean over so many rows is no surer than that


def calibrated(coding: Coding, rows: Tensor, prepared: Prepared, backend: str = "auto") -> Coding:
    """The coding with the `stop_below` at which rows have `steps` atoms in the mean; as it is where that is not asked.

    Exactly `steps` for every row where too few rows, or none that misses anything, can say what threshold that is.

    Args:
        coding: how codes are made.
        rows: centred rows (N, D), like those that will be encoded.
        prepared: the atoms.
        backend: of the pursuit.
    """
    coding = coding.asked
    if coding.most is None or not len(rows):
        return coding
    some = rows[:: math.ceil(len(rows) / _ROWS)]
    exact = pursue(some, prepared, coding, backend=backend)
    # Of squares: the first square root that torch takes in a process has, now and then, other last bits than the next
    missed = torch.linalg.vector_norm(some, dim=1).double().square() * exact.unexplained
    # Rows that are atoms themselves say nothing of those that will be encoded
    others = (exact.l0 > 1) | (exact.unexplained > _ITSELF)
    if int((others & (missed > 0)).sum()) < _ENOUGH:
        return coding.with_options(steps=coding.steps)
    some, usual = some[others], math.log(float(missed[others & (missed > 0)].median())) / 2
    # Regula falsi over the logarithm of the threshold, in which the number of atoms is nearly straight
    low, high, middle = usual - _RANGE, usual + _RANGE, usual
    more, fewer = float(coding.most), 1.0
    found: dict[float, float] = {}  # threshold -> how far from `steps` the mean is
    for _ in range(_TRIES):
        tried = float(f"{math.exp(middle):.4g}")
        codes = pursue(some, prepared, replace(coding, stop_below=tried), backend=backend)
        mean = float(codes.l0.double().mean())
        found[tried] = abs(mean - coding.steps)
        if found[tried] <= _CLOSE * coding.steps:
            break
        if mean > coding.steps:
            low, more = middle, mean
        else:
            high, fewer = middle, mean
        part = (more - coding.steps) / (more - fewer) if more > fewer else 0.5
        middle = low + (high - low) * min(max(part, 0.05), 0.95)
    return replace(coding, stop_below=min(found, key=lambda tried: found[tried]))
