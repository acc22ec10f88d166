"""Sparse codes of activations on a dictionary of unit atoms: arrays in, codes out.

`prepare` makes the Gram matrix once; `pursue` is the one door to every backend. Everything that
comes from outside is checked here, so that the kernels check nothing.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from itda.errors import OptionError, ShapeError
from itda.pursuit import backends, torch_batched
from itda.pursuit.codes import Codes, Coding, default_steps
from itda.pursuit.prepared import Prepared
from itda.shapes import as_matrix, unit_rows

__all__ = [
    "Codes",
    "Coding",
    "Prepared",
    "checked_coding",
    "default_steps",
    "prepare",
    "pursue",
    "rebuild",
    "unexplained_share",
]

_BLOCK_BYTES = 128 * 2**20  # correlations (n, A) of one block; larger blocks were not faster on two cores
_REFIT_BYTES = 64 * 2**20  # chosen atoms (n, K, D) in float64


def prepare(atoms: Any) -> Prepared:
    """Check the atoms and compute their Gram matrix once, for many pursuits.

    Args:
        atoms: torch or numpy matrix (A, D), every row of norm 1.
    Returns: what `pursue` takes in place of atoms; it can grow.
    Raises: ShapeError, ActivationError.
    """
    return Prepared(unit_rows(as_matrix(atoms, "atoms", "A, D")))


def pursue(
    rows: Any,
    atoms: Any,
    coding: Coding | None = None,
    *,
    steps: int | None = None,
    backend: str = "auto",
) -> Codes:
    """Write each row as a sparse sum of atoms.

    Args:
        rows: torch or numpy matrix (N, D), already centred if the dictionary is.
        atoms: matrix (A, D) of unit rows, or what `prepare` made of it.
        coding: how the code is made; or give only `steps`.
        steps: pursuit steps K, with the other options at their defaults.
        backend: `auto`, `reference`, `torch` or `numba`; a backend that is named is used or refused.
    Returns: Codes with K places a row, on the device of `rows`.
    Raises: ShapeError, ActivationError, OptionError, BackendError.
    """
    coding = _coding(coding, steps)
    prepared = atoms if isinstance(atoms, Prepared) else prepare(atoms)
    rows = as_matrix(rows, "rows", "N, D", width=prepared.width)
    if len(prepared) == 0:
        raise ShapeError("A pursuit needs at least one atom. Got none.")
    device = rows.device
    chosen_backend = backends.choose(backend, device, coding.method)
    if chosen_backend == "reference":
        return _reference(rows, prepared, coding)
    if prepared.device != device:
        raise ShapeError(f"The rows are on {device}, the atoms on {prepared.device}. Move one of them.")
    atoms_NK = torch.empty((len(rows), coding.steps), dtype=torch.int32, device=device)
    coefficients = torch.empty((len(rows), coding.steps), device=device)
    unexplained = torch.empty(len(rows), device=device)
    block = max(1, _BLOCK_BYTES // (4 * max(len(prepared), coding.steps**2)))
    run = _numba_block if chosen_backend == "numba" else torch_batched.pursue_block
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        chosen, values = run(rows[part], prepared, coding)
        if coding.refit and coding.method == "mp":
            values = _refit(rows[part], prepared.atoms, chosen)
        atoms_NK[part], coefficients[part] = chosen, values
        unexplained[part] = unexplained_share(rows[part], torch_batched.rebuild(chosen, values, prepared.atoms))
    return Codes(atoms_NK, coefficients, unexplained)


def rebuild(codes: Codes, atoms: Tensor) -> Tensor:
    """The rows float32 (N, D) that codes stand for, without any mean."""
    if len(codes) and int(codes.atoms.max()) >= len(atoms):
        raise ShapeError(f"These codes use atom {int(codes.atoms.max())}; there are only {len(atoms)} atoms.")
    return torch_batched.rebuild(codes.atoms, codes.coefficients.to(atoms.dtype), atoms)


def unexplained_share(rows: Tensor, rebuilt: Tensor) -> Tensor:
    """Share of each centred row's energy that its reconstruction misses, float32 (N,); 0 for a zero row.

    The residual is subtracted, not inferred from ||x||^2 - sum v^2: in float32 that difference is
    noise once little is left. Rows are scaled first, since squares of norms above 1e19 overflow.
    """
    scale = rows.abs().amax(1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    energy = (rows / scale).square().sum(1)
    missed = ((rows - rebuilt) / scale).square().sum(1)
    return torch.where(energy > 0, missed / energy.clamp_min(torch.finfo(rows.dtype).tiny), 0.0)


def _coding(coding: Coding | None, steps: int | None) -> Coding:
    if coding is None and steps is None:
        raise OptionError("pursue needs coding= or steps=. Give the number of pursuit steps, as in steps=40.")
    if coding is None:
        assert steps is not None
        return Coding(steps=steps)
    return checked_coding(coding).with_options(steps=steps)


def checked_coding(coding: Any) -> Coding:
    """The coding itself.

    Raises: OptionError if it is something else.
    """
    if not isinstance(coding, Coding):
        raise OptionError(f"coding must be a Coding. Got {type(coding).__name__}; for a number of steps use steps=.")
    return coding


def _reference(rows: Tensor, prepared: Prepared, coding: Coding) -> Codes:
    from itda.pursuit import reference

    arrays = reference.pursue(rows.cpu().double().numpy(), prepared.atoms.cpu().double().numpy(), coding)
    chosen, coefficients, unexplained = (torch.from_numpy(array).to(rows.device) for array in arrays)
    return Codes(chosen, coefficients, unexplained)


def _numba_block(rows: Tensor, prepared: Prepared, coding: Coding) -> tuple[Tensor, Tensor]:
    from itda.pursuit import numba_cpu  # half a second to import

    correlations = (rows @ prepared.atoms.T).numpy()
    floor = torch_batched.negligible(rows).numpy()
    chosen = np.empty((len(rows), coding.steps), np.int64)
    coefficients = np.empty((len(rows), coding.steps), np.float32)
    numba_cpu.matching_pursuit(correlations, prepared.gram.numpy(), floor, chosen, coefficients)
    return torch.from_numpy(chosen), torch.from_numpy(coefficients)


def _refit(rows: Tensor, atoms: Tensor, chosen: Tensor) -> Tensor:
    block = max(1, _REFIT_BYTES // (8 * chosen.shape[1] * atoms.shape[1]))
    parts = [
        torch_batched.refit(rows[start : start + block], atoms, chosen[start : start + block])
        for start in range(0, len(rows), block)
    ]
    return torch.cat(parts) if parts else rows.new_zeros((0, chosen.shape[1]))
