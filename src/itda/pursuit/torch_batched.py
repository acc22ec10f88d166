"""Pursuit on blocks of rows with array operations: portable, for any device torch has.

Plain pursuit with a Gram matrix computes the correlations of all rows with all atoms once, and updates
them with one row of the matrix a step. Everything else computes them from the residual at every step,
which needs no Gram matrix.
"""

import torch
from torch import Tensor

from itda.pursuit import limits, torch_solvers
from itda.pursuit.codes import BlockCodes, Coding
from itda.pursuit.prepared import Prepared

_LOOKED_AT_AGAIN = 4  # best atoms that are compared in float32 where the Gram matrix is rounded
# Chosen atoms (n, K, D) in float64, and correlations (n, A) of one product, where they are computed anew at every step:
# what stays near a CPU's caches; a GPU must not wait for the host
_FIT_BYTES = {"cpu": 64 * 2**20, "cuda": 4 * 2**30}
_PRODUCT_BYTES = {"cpu": 32 * 2**20, "cuda": 2 * 2**30}


def pursue_block(
    rows: Tensor, first: Tensor | None, stops: Tensor | None, prepared: Prepared, coding: Coding
) -> BlockCodes:
    """Codes of unit rows (n, D); `first` is None or their float32 correlations (n, A), which are overwritten;
    `stops` the unexplained share at which each row is done (n,), or None."""
    if coding.method == "mp" and prepared.gram is not None:
        first = prepared.first_correlations(rows).float() if first is None else first
        chosen, values = _by_gram(rows, first, stops, prepared, coding)
        return finish(rows, prepared.atoms, chosen, values, coding)
    return pursue_by_products(rows, stops, prepared.atoms, coding)


def pursue_by_products(rows: Tensor, stops: Tensor | None, atoms: Tensor, coding: Coding) -> BlockCodes:
    """Codes of unit rows (n, D) without a Gram matrix, by the plain method."""
    # Fitting coefficients takes the chosen atoms of all rows, and choosing some copies of the correlations
    at_once = max(1, _bytes(_PRODUCT_BYTES, rows) // (4 * len(atoms)))
    if coding.method != "mp":
        at_once = min(at_once, _fitted_at_once(rows, coding.steps))
    split = torch.split(rows, at_once)
    shares = [None] * len(split) if stops is None else torch.split(stops, at_once)
    parts = [
        finish(part, atoms, *_by_products(part, own, atoms, coding), coding)
        for part, own in zip(split, shares, strict=True)
    ]
    return BlockCodes(*map(torch.cat, zip(*parts, strict=True)))


def _fitted_at_once(rows: Tensor, steps: int) -> int:
    return max(1, _bytes(_FIT_BYTES, rows) // (8 * steps * rows.shape[1]))


def _bytes(of_devices: dict[str, int], rows: Tensor) -> int:
    return of_devices.get(rows.device.type, of_devices["cpu"])


def finish(rows: Tensor, atoms: Tensor, chosen: Tensor, values: Tensor, coding: Coding) -> BlockCodes:
    """Codes of unit rows (n, D) with their errors, from what each chose (n, K), each atom once."""
    if coding.refit and coding.method != "omp":
        values = refit(rows, atoms, chosen, values, nonnegative=coding.nonnegative)
    if coding.nonnegative:
        chosen, values = _compact(torch.where(values > 0, chosen, -1), values)
    rebuilt = rebuild(chosen, values, atoms)
    # The residual is subtracted, not inferred from 1 - sum v^2: in float32 that is noise once little is left
    unexplained = (rows - rebuilt).square().sum(1)
    cosine = (rows * rebuilt).sum(1) / rebuilt.norm(dim=1).clamp_min(torch.finfo(rows.dtype).tiny)
    return BlockCodes(chosen.int(), values, unexplained, cosine)


def _by_gram(
    rows: Tensor, correlations: Tensor, stops: Tensor | None, prepared: Prepared, coding: Coding
) -> tuple[Tensor, Tensor]:
    """Plain pursuit; overwrites `correlations` (n, A)."""
    gram = prepared.gram
    assert gram is not None
    chosen = torch.full((len(rows), coding.steps), -1, dtype=torch.int64, device=rows.device)
    values = correlations.new_zeros((len(rows), coding.steps))
    residual = rows.clone() if gram.rounding or stops is not None else None
    live = torch.ones((len(rows), 1), dtype=torch.bool, device=rows.device)
    drift = torch.zeros((len(rows), 1), device=rows.device)  # what rounding has done to any correlation at most
    for step in range(coding.steps):
        if gram.rounding:
            assert residual is not None
            best, value = _best_of_rounded(correlations, drift, residual, prepared.atoms, coding)
        else:
            best, value = _best(correlations, coding)
        live &= (value if coding.nonnegative else value.abs()) > limits.NEGLIGIBLE
        if residual is not None and stops is not None:
            live &= residual.square().sum(1, keepdim=True) > stops[:, None]
        if not bool(live.any()):
            break
        value = torch.where(live, value, 0.0)
        chosen[:, step : step + 1] = torch.where(live, best, -1)
        values[:, step : step + 1] = value
        if residual is not None:
            residual -= value * prepared.atoms[best[:, 0]]
        if step + 1 < coding.steps:
            correlations -= gram.rows(best[:, 0]) * value
            drift += value.abs() * gram.rounding
    return merge_repeats(chosen, values)


def _best(correlations: Tensor, coding: Coding) -> tuple[Tensor, Tensor]:
    """The best atom (n, 1) and its correlation."""
    best = (correlations if coding.nonnegative else correlations.abs()).argmax(1, keepdim=True)
    return best, correlations.gather(1, best)


def _best_of_rounded(
    correlations: Tensor, drift: Tensor, residual: Tensor, atoms: Tensor, coding: Coding
) -> tuple[Tensor, Tensor]:
    """The best atom (n, 1) by the residual itself: of several, or of all where these may not hold it.

    `correlations` (n, A) are off by at most `drift` (n, 1); rows of which all are looked at get exact ones.
    """
    sizes = correlations if coding.nonnegative else correlations.abs()
    largest = sizes.topk(min(_LOOKED_AT_AGAIN, sizes.shape[1]), dim=1)
    exact = (atoms[largest.indices] @ residual[:, :, None])[:, :, 0]
    size, winner = (exact if coding.nonnegative else exact.abs()).max(1, keepdim=True)
    best, value = largest.indices.gather(1, winner), exact.gather(1, winner)
    open_ = (drift > 0) & (largest.values[:, -1:] + drift >= size) & (size.clamp_min(0) + drift > limits.NEGLIGIBLE)
    rows = torch.nonzero(open_[:, 0] & (sizes.shape[1] > _LOOKED_AT_AGAIN))[:, 0]
    if len(rows):
        anew = residual[rows] @ atoms.T
        correlations[rows], drift[rows] = anew, 0.0
        best[rows], value[rows] = _best(anew, coding)
    return best, value


def _by_products(rows: Tensor, stops: Tensor | None, atoms: Tensor, coding: Coding) -> tuple[Tensor, Tensor]:
    """Any method, with the correlations of the residual computed anew at every step."""
    count, steps = len(rows), min(coding.steps, len(atoms)) if coding.method == "omp" else coding.steps
    chosen = torch.full((count, coding.steps), -1, dtype=torch.int64, device=rows.device)
    values = torch.zeros(chosen.shape, dtype=torch.float64, device=rows.device)
    used = torch.zeros((count, 1), dtype=torch.int64, device=rows.device)
    live = torch.ones((count, 1), dtype=torch.bool, device=rows.device)
    fit = None if coding.method == "mp" else torch_solvers.Fit(rows, coding)
    residual = rows
    for step in range(steps):
        correlations = residual @ atoms.T
        if coding.method == "omp":  # never chosen again
            taken = torch.where(chosen >= 0, chosen, chosen[:, :1].clamp_min(0))
            correlations.scatter_(1, taken, torch.where(used > 0, 0.0, correlations.gather(1, taken)))
        best, value = _best(correlations, coding)
        live &= (value if coding.nonnegative else value.abs()) > limits.NEGLIGIBLE
        if stops is not None:
            live &= residual.square().sum(1, keepdim=True) > stops[:, None]
        if not bool(live.any()):
            break
        same = chosen == best
        place = torch.where(same.any(1, keepdim=True), same.byte().argmax(1, keepdim=True), used)
        at = place.clamp_max(coding.steps - 1)
        chosen.scatter_(1, at, torch.where(live, best, chosen.gather(1, at)))
        used += live & (place == used)
        filled = slice(step + 1)  # a step fills one place at most
        known = values[:, filled]
        new = known.scatter_add(1, at, value.double()) if fit is None else fit(chosen[:, filled], at, known, atoms)
        values[:, filled] = torch.where(live, new, known)
        residual = rows - rebuild(chosen[:, filled], values[:, filled].float(), atoms)
    return chosen, values.float()


def merge_repeats(chosen: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """List each atom once per row, in order of first choice, with its summed coefficient; places (n, K)."""
    same = (chosen[:, :, None] == chosen[:, None, :]) & (chosen >= 0)[:, :, None]
    first = same.float().argmax(2)  # where this atom was chosen first
    summed = torch.zeros_like(coefficients).scatter_add_(1, first, coefficients)
    places = torch.arange(chosen.shape[1], device=chosen.device)
    return _compact(torch.where(first == places, chosen, -1), summed)


def _compact(chosen: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Used places first, in their order."""
    order = torch.argsort((chosen < 0).byte(), dim=1, stable=True)
    atoms = chosen.gather(1, order)
    return atoms, torch.where(atoms >= 0, values.gather(1, order), 0.0)


def refit(rows: Tensor, atoms: Tensor, chosen: Tensor, values: Tensor, *, nonnegative: bool = False) -> Tensor:
    """Least-squares coefficients float32 (n, K) of rows (n, D) on their chosen atoms (n, K), -1 where unused."""
    block = _fitted_at_once(rows, chosen.shape[1])
    fitted = torch.empty_like(values)
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        used = chosen[part] >= 0
        products, target = torch_solvers.inner_products(rows[part], atoms, chosen[part])
        if nonnegative:
            solution = torch_solvers.nonnegative_least_squares(products, target, used, values[part].double())
        else:
            solution = torch_solvers.least_squares(products, target, used)
        fitted[part] = solution.float()
    return fitted


def rebuild(chosen: Tensor, coefficients: Tensor, atoms: Tensor) -> Tensor:
    """The rows (n, D) that codes stand for."""
    weights = torch.where(chosen >= 0, coefficients, 0.0)
    return torch.nn.functional.embedding_bag(
        chosen.clamp_min(0).long(), atoms, per_sample_weights=weights.to(atoms.dtype), mode="sum"
    )
