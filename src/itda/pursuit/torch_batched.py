"""Pursuit on blocks of rows with array operations: portable, for any device torch has.

The correlations of all rows with all atoms are computed once; every step updates them with one row
of the Gram matrix instead of computing them again.
"""

import torch
from torch import Tensor

from itda.pursuit.codes import Coding
from itda.pursuit.prepared import Prepared

# float32 correlations carry errors of this order relative to the row; below it a choice is noise
NEGLIGIBLE = 1e-6
# Squared distance of an atom from the span of those already chosen, under which it is one of them
_DEPENDENT = 1e-6


def pursue_block(rows: Tensor, prepared: Prepared, coding: Coding) -> tuple[Tensor, Tensor]:
    """Atoms int64 (n, K) and coefficients float32 (n, K) of one block of rows; unused places are -1 and 0."""
    correlations = rows @ prepared.atoms.T
    floor = negligible(rows)
    search = matching_pursuit if coding.method == "mp" else orthogonal_matching_pursuit
    return search(correlations, prepared.gram, floor, coding.steps)


def negligible(rows: Tensor) -> Tensor:
    """The correlation of each row (n,) that is nothing but rounding; scaled, since squares of 1e20 overflow."""
    scale = rows.abs().amax(1).clamp_min(torch.finfo(rows.dtype).tiny)
    norms: Tensor = scale * torch.linalg.vector_norm(rows / scale[:, None], dim=1)
    return NEGLIGIBLE * norms


def matching_pursuit(correlations: Tensor, gram: Tensor, floor: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Plain signed matching pursuit; overwrites `correlations` (n, A)."""
    chosen = torch.full((len(correlations), steps), -1, dtype=torch.int64, device=correlations.device)
    coefficients = correlations.new_zeros((len(correlations), steps))
    for step in range(steps):
        best = correlations.abs().argmax(1, keepdim=True)
        value = correlations.gather(1, best)
        live = value.abs() > floor[:, None]
        if not bool(live.any()):
            break
        value = torch.where(live, value, 0.0)
        chosen[:, step : step + 1] = torch.where(live, best, -1)
        coefficients[:, step : step + 1] = value
        correlations.sub_(gram[best[:, 0]].mul_(value))
    return merge_repeats(chosen, coefficients)


def orthogonal_matching_pursuit(correlations: Tensor, gram: Tensor, floor: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Orthogonal matching pursuit by a progressive Cholesky factorisation of the chosen atoms' Gram matrix.

    Source: Rubinstein, Zibulevsky & Elad 2008.
    """
    rows, size = correlations.shape
    steps_possible = min(steps, size)
    initial = correlations
    residual = correlations.clone()
    chosen = torch.full((rows, steps), -1, dtype=torch.int64, device=initial.device)
    coefficients = initial.new_zeros((rows, steps))
    factor = torch.eye(steps_possible, device=initial.device).repeat(rows, 1, 1)
    live = torch.ones(rows, dtype=torch.bool, device=initial.device)
    for step in range(steps_possible):
        best = residual.abs().argmax(1, keepdim=True)
        live &= (residual.gather(1, best).abs() > floor[:, None])[:, 0]
        if not bool(live.any()):
            break
        support = chosen[:, :step].clamp_min(0)
        used = (chosen[:, :step] >= 0).float()
        cross = gram[best, support] * used
        row = torch.linalg.solve_triangular(factor[:, :step, :step], cross[:, :, None], upper=False)[:, :, 0]
        remainder = 1 - row.square().sum(1)
        live &= remainder > _DEPENDENT
        chosen[:, step] = torch.where(live, best[:, 0], -1)
        factor[:, step, :step] = torch.where(live[:, None], row, 0.0)
        factor[:, step, step] = torch.where(live, remainder.clamp_min(_DEPENDENT).sqrt(), 1.0)
        support = chosen[:, : step + 1].clamp_min(0)
        used = (chosen[:, : step + 1] >= 0).float()
        target = (initial.gather(1, support) * used)[:, :, None]
        solution = torch.cholesky_solve(target, factor[:, : step + 1, : step + 1])[:, :, 0] * used
        coefficients[:, : step + 1] = solution
        residual.copy_(initial)
        for place in range(step + 1):
            residual.sub_(gram[support[:, place]].mul_(solution[:, place, None]))
        residual.scatter_(1, support, residual.gather(1, support) * (1 - used))  # never chosen again
    return chosen, coefficients


def merge_repeats(chosen: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """List each atom once per row, in order of first choice, with its summed coefficient; places (n, K)."""
    same = (chosen[:, :, None] == chosen[:, None, :]) & (chosen >= 0)[:, :, None]
    first = same.float().argmax(2)  # where this atom was chosen first
    summed = torch.zeros_like(coefficients).scatter_add_(1, first, coefficients)
    places = torch.arange(chosen.shape[1], device=chosen.device)
    keep = (chosen >= 0) & (first == places)
    order = torch.argsort((~keep).byte(), dim=1, stable=True)
    kept = keep.gather(1, order)
    atoms = torch.where(kept, chosen.gather(1, order), -1)
    return atoms, torch.where(kept, summed.gather(1, order), 0.0)


def refit(rows: Tensor, atoms: Tensor, chosen: Tensor) -> Tensor:
    """Least-squares coefficients (n, K) of rows (n, D) on their chosen atoms (n, K), -1 where unused.

    Solved in float64 with a ridge of 1e-9 on unit atoms: without it two copies of one atom in a code
    have no single answer; with it they share the coefficient.
    """
    used = chosen >= 0
    basis = atoms[chosen.clamp_min(0)].double() * used[:, :, None]  # (n, K, D)
    gram = basis @ basis.transpose(1, 2)
    gram.diagonal(dim1=1, dim2=2).add_(1e-9 + (~used).double())
    target = basis @ rows.double()[:, :, None]
    return torch.cholesky_solve(target, torch.linalg.cholesky(gram))[:, :, 0].float() * used


def rebuild(chosen: Tensor, coefficients: Tensor, atoms: Tensor) -> Tensor:
    """The rows (n, D) that codes stand for."""
    weights = torch.where(chosen >= 0, coefficients, 0.0)
    return torch.nn.functional.embedding_bag(
        chosen.clamp_min(0).long(), atoms, per_sample_weights=weights.to(atoms.dtype), mode="sum"
    )
