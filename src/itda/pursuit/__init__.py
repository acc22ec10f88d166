"""Sparse codes of activations on a dictionary of unit atoms: arrays in, codes out.

`prepare` computes once what all pursuits need; `pursue` is the one door to every backend. Everything that
comes from outside is checked here, so that the kernels check nothing.
"""

from typing import Any

import torch
from torch import Tensor

from itda.errors import ActivationError, OptionError, ShapeError
from itda.pursuit import backends, blocks, torch_batched
from itda.pursuit.blocks import Block
from itda.pursuit.codes import Codes, Coding, default_coding, default_steps
from itda.pursuit.precision import plain_float32
from itda.pursuit.prepared import Prepared
from itda.shapes import as_matrix, finite, unit_rows

__all__ = [
    "Block",
    "Codes",
    "Coding",
    "Prepared",
    "checked_coding",
    "chosen_coding",
    "default_coding",
    "default_steps",
    "prepare",
    "pursue",
    "rebuild",
]


def prepare(atoms: Any, *, memory: Any = None, products: str = "float32") -> Prepared:
    """Check the atoms and compute their inner products once, for many pursuits.

    Args:
        atoms: torch or numpy matrix (A, D), every row of norm 1.
        memory: what the inner products may take, in bytes or as "2GiB"; None for half of what is free. Too
            little for the whole matrix keeps the rows of the atoms in use, or none; `.kind` and the
            `.route` of codes say which.
        products: precision of the products of rows and atoms on a GPU: `float32`, or, faster and less
            exact, `tf32`, `bfloat16` or `float16`. On a CPU codes are those of float32 at full speed.
    Returns: what `pursue` takes in place of atoms; it can grow.
    Raises: ShapeError, ActivationError, OptionError, BackendError.
    """
    backends.check_threads()
    matrix = unit_rows(as_matrix(atoms, "atoms", "A, D"))
    with plain_float32(matrix.device):
        prepared = Prepared(matrix, memory=memory, products=products)
        prepared.halves()
    return prepared


def pursue(
    rows: Any,
    atoms: Any,
    coding: Coding | None = None,
    *,
    steps: int | None = None,
    backend: str = "auto",
    mean: Tensor | None = None,
) -> Codes:
    """Write each row as a sparse sum of atoms.

    Args:
        rows: torch or numpy matrix (N, D).
        atoms: matrix (A, D) of unit rows, or what `prepare` made of it.
        coding: how the code is made; or give only `steps`.
        steps: pursuit steps K, with the other options at their defaults.
        backend: `auto`, `reference`, `torch`, `numba` or `triton`; one that is named is used or refused.
        mean: taken off every row first, float32 (D,), a block at a time; None for rows that are centred.
    Returns: Codes with `coding.places` places a row, on the device of `rows`; `.route` says how they were computed.
    Raises: ShapeError, ActivationError, OptionError, BackendError.
    """
    coding = _coding(coding, steps).for_a_row
    rows = as_matrix(rows, "rows", "N, D", look=False)
    prepared = atoms if isinstance(atoms, Prepared) else prepare(atoms)
    if rows.shape[1] != prepared.width:
        raise ShapeError(f"rows must have the width {prepared.width}. Got {rows.shape[1]} instead.")
    if len(prepared) == 0:
        raise ShapeError("A pursuit needs at least one atom. Got none.")
    chosen = backends.choose(backend, prepared, coding)
    if prepared.device != rows.device:
        raise ShapeError(f"The rows are on {rows.device}, the atoms on {prepared.device}. Move one of them.")
    try:
        with plain_float32(rows.device):
            return _in_blocks(rows, prepared, coding, chosen, mean)
    except ActivationError:
        finite(rows.float(), "rows")  # says which of all rows it is
        raise


def _in_blocks(rows: Tensor, prepared: Prepared, coding: Coding, backend: str, mean: Tensor | None) -> Codes:
    at_once = blocks.rows_at_once(prepared, coding.steps)

    def run(part: Tensor) -> Codes:
        part = part.float()
        return blocks.pursue_rows(part if mean is None else part - mean, prepared, coding, backend)

    if len(rows) <= at_once:
        return run(rows)
    codes = _empty_codes(len(rows), coding.steps, rows.device, backends.route(backend, prepared, coding))
    for start in range(0, len(rows), at_once):
        part = slice(start, start + at_once)
        codes.put(part, run(rows[part]))
    return codes


def rebuild(codes: Codes, atoms: Tensor) -> Tensor:
    """The rows float32 (N, D) that codes stand for, without any mean."""
    if len(codes) and int(codes.atoms.max()) >= len(atoms):
        raise ShapeError(f"These codes use atom {int(codes.atoms.max())}; there are only {len(atoms)} atoms.")
    return torch_batched.rebuild(codes.atoms, codes.coefficients.to(atoms.dtype), atoms)


def _coding(coding: Coding | None, steps: int | None) -> Coding:
    if coding is None and steps is None:
        raise OptionError("pursue needs coding= or steps=. Give the number of pursuit steps, as in steps=40.")
    return chosen_coding(Coding(steps=steps or 1), coding, steps)


def chosen_coding(own: Coding, coding: Coding | None, steps: int | None) -> Coding:
    """How codes are made: as asked for, or a dictionary's own way, with so many steps if they are asked for.

    Raises: OptionError for both.
    """
    if coding is not None and steps is not None:
        raise OptionError("Give steps= or coding=, not both: a Coding has its steps.")
    return checked_coding(own if coding is None else coding).with_options(steps=steps)


def checked_coding(coding: Any) -> Coding:
    """The coding itself.

    Raises: OptionError if it is something else.
    """
    if not isinstance(coding, Coding):
        raise OptionError(f"coding must be a Coding. Got {type(coding).__name__}; for a number of steps use steps=.")
    return coding


def _empty_codes(count: int, steps: int, device: torch.device, route: str) -> Codes:
    return Codes(
        torch.empty((count, steps), dtype=torch.int32, device=device),
        torch.empty((count, steps), device=device),
        torch.empty(count, device=device),
        torch.empty(count, device=device),
        route,
    )
