"""Coefficients of many codes on the atoms they have chosen, with array operations in float64.

`products` (n, K, K) are the inner products of the chosen atoms, `target` (n, K) theirs with the row, and
`used` (n, K) says which places count.
"""

import torch
from torch import Tensor

from itda.pursuit import limits
from itda.pursuit.codes import Coding

_STIFF = 1e-9  # added where many copies of an atom leave a matrix that rounding makes indefinite


def inner_products(rows: Tensor, atoms: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """`products` and `target` of rows (n, D) and their chosen atoms (n, K), -1 where unused."""
    basis = atoms[chosen.clamp_min(0)].double() * (chosen >= 0)[:, :, None]
    return basis @ basis.transpose(1, 2), (basis @ rows.double()[:, :, None])[:, :, 0]


class Fit:
    """Coefficients while atoms are chosen: only the inner products of the new ones are computed at each step."""

    def __init__(self, rows: Tensor, coding: Coding) -> None:
        """Take unit rows (n, D)."""
        self._rows, self._coding = rows.double(), coding
        shape = (len(rows), coding.steps, coding.steps)
        self._products = torch.zeros(shape, dtype=torch.float64, device=rows.device)
        self._target = torch.zeros(shape[:2], dtype=torch.float64, device=rows.device)

    def __call__(self, chosen: Tensor, place: Tensor, values: Tensor, atoms: Tensor) -> Tensor:
        """Coefficients (n, m) of the chosen atoms (n, m), -1 where unused, of which that at `place` (n, 1) is new;
        `values` (n, m) are those before."""
        used = chosen >= 0
        new = atoms[chosen.gather(1, place).clamp_min(0)[:, 0]].double()
        inner = (atoms[chosen.clamp_min(0)].double() @ new[:, :, None])[:, :, 0] * used
        products, target = self._products[:, : used.shape[1], : used.shape[1]], self._target[:, : used.shape[1]]
        row = place[:, :, None].expand(-1, 1, used.shape[1])
        products.scatter_(1, row, inner[:, None, :])
        products.scatter_(2, row.transpose(1, 2), inner[:, :, None])
        target.scatter_(1, place, (new * self._rows).sum(1, keepdim=True))
        if self._coding.method == "gp":
            return gradient_step(products, target, used, values, self._coding.nonnegative)
        if self._coding.nonnegative:
            return nonnegative_least_squares(products, target, used, values)
        return least_squares(products, target, used)


def least_squares(products: Tensor, target: Tensor, used: Tensor) -> Tensor:
    """The coefficients (n, K) that leave the least, 0 where unused."""
    both = used[:, :, None] & used[:, None, :]
    matrix = torch.where(both, products, 0.0)
    matrix.diagonal(dim1=1, dim2=2).add_(limits.RIDGE + (~used).double())
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if bool(failed.any()):
        matrix.diagonal(dim1=1, dim2=2).add_(_STIFF * (failed > 0)[:, None])
        factor = torch.linalg.cholesky(matrix)
    solution = torch.cholesky_solve((target * used)[:, :, None], factor)
    return solution[:, :, 0] * used


def nonnegative_least_squares(products: Tensor, target: Tensor, used: Tensor, solution: Tensor) -> Tensor:
    """The coefficients (n, K) of at least 0 that leave the least, found from `solution` on.

    Source: Lawson & Hanson 1974, chapter 23, on the normal equations of all rows at once.
    """
    free = used & (solution > 0)
    solution = torch.where(free, solution, 0.0)
    for _ in range(3 * target.shape[1]):
        for _ in range(target.shape[1]):
            wanted = least_squares(products, target, free)
            blocked = free & (wanted <= 0)
            reach = torch.where(blocked, solution / (solution - wanted).clamp_min(1e-300), 1.0).amin(1, keepdim=True)
            solution = solution + reach * (wanted - solution)
            hit = blocked.any(1, keepdim=True)
            free = free & ~(hit & (solution <= limits.FEASIBLE))
            solution = torch.where(free, solution, 0.0)
            if not bool(hit.any()):
                break
        gradient = target - (products @ solution[:, :, None])[:, :, 0]
        gradient = torch.where(used & ~free, gradient, 0.0)
        steepest = gradient.max(1, keepdim=True)
        if not bool((steepest.values > limits.OPTIMAL).any()):
            break
        free = free.scatter(1, steepest.indices, free.gather(1, steepest.indices) | (steepest.values > limits.OPTIMAL))
    return solution


def gradient_step(products: Tensor, target: Tensor, used: Tensor, solution: Tensor, nonnegative: bool) -> Tensor:
    """One step of steepest descent over the chosen atoms, as long as is best, or as stays feasible.

    Source: Blumensath & Davies 2008.
    """
    gradient = torch.where(used, target - (products @ solution[:, :, None])[:, :, 0], 0.0)
    if nonnegative:
        gradient = torch.where((solution <= 0) & (gradient < 0), 0.0, gradient)
    curvature = (gradient * (products @ gradient[:, :, None])[:, :, 0]).sum(1, keepdim=True)
    length = gradient.square().sum(1, keepdim=True) / curvature.clamp_min(1e-300)
    if nonnegative:
        reach = torch.where(gradient < 0, solution / -gradient.clamp_max(-1e-300), float("inf"))
        length = torch.minimum(length, reach.amin(1, keepdim=True))
    stepped = solution + torch.where(curvature > 0, length, 0.0) * gradient
    return stepped.clamp_min(0) if nonnegative else stepped
