"""The axis letters, and the one place where arrays that come from outside are checked.

N activations (rows), D width of the activation, A atoms, K pursuit steps,
B sequences in a batch, T tokens in a sequence.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from itda.errors import ActivationError, ShapeError

_UNIT_NORM_TOLERANCE = 1e-3  # atoms stored in bfloat16 still pass, rows that were never normalised do not


def as_matrix(
    array: Any, what: str, axes: str, *, width: int | None = None, advice: str = "", look: bool = True
) -> Tensor:
    """A floating-point matrix from a torch tensor, a NumPy array or nested lists, as float32.

    Args:
        array: anything with two axes and real numbers.
        what: what it is, for the message ("rows", "atoms").
        axes: its axis letters, for the message ("N, D").
        width: the second axis that is needed, if any.
        advice: what to do about a wrong width.
        look: make it float32 and look for NaN and infinity; only where whoever goes through the values next does so.
    Returns: float32 tensor on the device of `array`; the same memory where nothing had to change.
    Raises: ShapeError for other shapes or types; ActivationError for NaN or infinity.
    """
    try:
        matrix = array if isinstance(array, Tensor) else torch.as_tensor(np.ascontiguousarray(array))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ShapeError(f"{what} must be a matrix ({axes}) of numbers. Got {type(array).__name__} instead.") from error
    if matrix.layout != torch.strided or matrix.is_quantized or matrix.is_meta or matrix.is_nested:
        raise ShapeError(f"{what} must be a plain dense tensor ({axes}) in memory. Make it one (.to_dense()) first.")
    if np.ma.is_masked(array):
        raise ShapeError(f"{what} must be a matrix ({axes}) of numbers. Got a masked array: fill its gaps first.")
    if matrix.is_complex() or matrix.dtype == torch.bool:
        raise ShapeError(f"{what} must be a matrix ({axes}) of real numbers. Got {matrix.dtype} instead.")
    if matrix.ndim != 2:
        raise ShapeError(f"{what} must be a matrix ({axes}). Got the shape {tuple(matrix.shape)} instead.")
    if width is not None and matrix.shape[1] != width:
        raise ShapeError(f"{what} must have the width {width}. Got {matrix.shape[1]} instead. {advice}".strip())
    if matrix.shape[1] == 0:
        raise ShapeError(f"{what} must have a width of at least 1. Got the shape {tuple(matrix.shape)} instead.")
    return finite(matrix.detach().to(torch.float32), what) if look else matrix.detach()


def finite(matrix: Tensor, what: str) -> Tensor:
    """The matrix itself, if every value is a number.

    Raises: ActivationError that counts and names the rows that hold NaN or infinity.
    """
    if bool(torch.isfinite(matrix.sum())):  # one pass without a mask; a sum that overflows is looked at again
        return matrix
    bad = (~torch.isfinite(matrix)).any(1)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise ActivationError(
            f"{what} must be finite. Got NaN or infinity in {int(bad.sum())} of {len(matrix)} rows, "
            f"first in row {first}. Load the model in float32 or bfloat16, or leave these rows out."
        )
    return matrix


def unit_rows(atoms: Tensor) -> Tensor:
    """The atoms themselves, if every one has norm 1.

    Raises: ShapeError that names the first row of another norm.
    """
    norms = torch.linalg.vector_norm(atoms, dim=1)
    wrong = (norms - 1).abs() > _UNIT_NORM_TOLERANCE
    if bool(wrong.any()):
        first = int(wrong.nonzero()[0])
        raise ShapeError(
            f"atoms must have norm 1. Row {first} has norm {float(norms[first]):.4g}. "
            "Divide every row by its norm first."
        )
    return atoms
