"""Coefficients of one code on the atoms it has chosen so far, compiled: small dense problems in float64.

`products` (K, K) are the inner products of the chosen atoms and `target` (K) theirs with the row; only
the first `used` of each count. `factor` is the Cholesky factor of the products of some of them, in an
`order` in which they came, and `forward` the half of the solution that grows with it.
"""

import numba
import numpy as np

from itda.pursuit import limits
from itda.pursuit.numba_loops import FAST, Doubles, Floats, Integers, dot64


@numba.njit
def take_in(products: Doubles, target: Doubles, place: int, chosen: Integers, atoms: Floats, row: Floats) -> None:
    """Fill in the inner products of the atom at `place` with the row and with those before it."""
    atom = atoms[chosen[place]]
    target[place] = dot64(row, atom)
    for other in range(place + 1):
        value = dot64(atom, atoms[chosen[other]])
        products[place, other] = value
        products[other, place] = value


@numba.njit(fastmath=FAST)
def extend_factor(
    factor: Doubles, products: Doubles, order: Integers, place: int, ridge: float, target: Doubles, forward: Doubles
) -> float:
    """Row `place` of the Cholesky factor, and of the solution of factor forward = target, in an order of the atoms.

    Returns the squared pivot, the part that is new in this atom.
    """
    atom = order[place]
    pivot, ahead = products[atom, atom] + ridge, target[atom]
    row = factor[place]
    for column in range(place):
        value, above = products[atom, order[column]], factor[column]
        for inner in range(column):
            value -= row[inner] * above[inner]
        value /= above[column]
        row[column] = value
        pivot -= value * value
        ahead -= value * forward[column]
    row[place] = np.sqrt(max(pivot, limits.RIDGE))
    forward[place] = ahead / row[place]
    return pivot


@numba.njit(fastmath=FAST)
def solve(factor: Doubles, forward: Doubles, used: int, found: Doubles) -> None:
    """The solution of factor^T found = forward."""
    found[:used] = forward[:used]
    for place in range(used - 1, -1, -1):
        row = factor[place]
        value = found[place] / row[place]
        found[place] = value
        for other in range(place):
            found[other] -= value * row[other]


@numba.njit
def least_squares(
    products: Doubles,
    target: Doubles,
    used: int,
    order: Integers,
    factor: Doubles,
    forward: Doubles,
    solution: Doubles,
) -> None:
    """The coefficients that leave the least."""
    for place in range(used):
        order[place] = place
        extend_factor(factor, products, order, place, limits.RIDGE, target, forward)
    solve(factor, forward, used, solution)


@numba.njit
def nonnegative_least_squares(
    products: Doubles,
    target: Doubles,
    used: int,
    order: Integers,
    count: int,
    factor: Doubles,
    forward: Doubles,
    solution: Doubles,
) -> int:
    """The coefficients of at least 0 that leave the least, found from `solution` on.

    `order` lists the `count` places that are above zero, whose factor is kept from step to step; `solution` is the best
    for them. Returns how many there are then.

    Source: Lawson & Hanson 1974, chapter 23, on the normal equations.
    """
    found = np.empty(used)
    for _ in range(3 * used):
        freed, steepest = -1, limits.OPTIMAL
        for place in range(used):
            if solution[place] > 0:
                continue
            gradient = target[place]
            for other in range(count):
                gradient -= products[place, order[other]] * solution[order[other]]
            if gradient > steepest:
                freed, steepest = place, gradient
        if freed < 0:
            break
        order[count] = freed
        extend_factor(factor, products, order, count, limits.RIDGE, target, forward)
        count = go_to_best(products, target, order, count + 1, factor, forward, found, solution)
    return count


@numba.njit
def go_to_best(
    products: Doubles,
    target: Doubles,
    order: Integers,
    count: int,
    factor: Doubles,
    forward: Doubles,
    found: Doubles,
    solution: Doubles,
) -> int:
    """Go towards the least-squares solution on the free places, whose factor is there; what hits zero is let go.

    Returns how many are left.
    """
    while True:
        solve(factor, forward, count, found)
        share, blocked = 1.0, -1
        for i in range(count):
            if found[i] <= 0:
                here = solution[order[i]]
                reach = here / (here - found[i]) if here > 0 else 0.0
                if reach < share:
                    share, blocked = reach, i
        kept, first = 0, count
        for i in range(count):
            place = order[i]
            solution[place] += share * (found[i] - solution[place])
            if blocked >= 0 and (i == blocked or solution[place] <= limits.FEASIBLE):
                solution[place] = 0.0
                first = min(first, kept)
            else:
                order[kept] = place
                kept += 1
        count = kept
        if blocked < 0:
            return count
        for place in range(first, count):  # rows before the first that was let go are as they were
            extend_factor(factor, products, order, place, limits.RIDGE, target, forward)


@numba.njit
def nonnegative_from(
    products: Doubles,
    target: Doubles,
    used: int,
    order: Integers,
    factor: Doubles,
    forward: Doubles,
    solution: Doubles,
) -> None:
    """`nonnegative_least_squares` from any coefficients of at least 0, which need not be the best for their atoms."""
    count = 0
    for place in range(used):
        if solution[place] > 0:
            order[count] = place
            extend_factor(factor, products, order, count, limits.RIDGE, target, forward)
            count += 1
    count = go_to_best(products, target, order, count, factor, forward, np.empty(used), solution)
    nonnegative_least_squares(products, target, used, order, count, factor, forward, solution)


@numba.njit
def gradient_step(products: Doubles, target: Doubles, used: int, nonnegative: bool, solution: Doubles) -> None:
    """One step of steepest descent over the chosen atoms, as long as is best, or as stays feasible.

    Source: Blumensath & Davies 2008.
    """
    gradient = np.empty(used)
    for place in range(used):
        value = target[place]
        for other in range(used):
            value -= products[place, other] * solution[other]
        gradient[place] = 0.0 if nonnegative and solution[place] <= 0 and value < 0 else value
    squared, curvature = 0.0, 0.0
    for place in range(used):
        squared += gradient[place] ** 2
        for other in range(used):
            curvature += gradient[place] * products[place, other] * gradient[other]
    if curvature <= 0:
        return
    length = squared / curvature
    if nonnegative:
        for place in range(used):
            if gradient[place] < 0:
                length = min(length, solution[place] / -gradient[place])
    for place in range(used):
        value = solution[place] + length * gradient[place]
        solution[place] = max(value, 0.0) if nonnegative else value


@numba.njit
def keep_positive(places: Integers, solution: Doubles, used: int) -> int:
    """Drop the atoms whose coefficient is zero; how many are left."""
    kept = 0
    for place in range(used):
        if np.float32(solution[place]) > 0:
            places[kept], solution[kept] = places[place], solution[place]
            kept += 1
    return kept


@numba.njit(fastmath=FAST)
def errors_of(row: Floats, residual: Floats) -> tuple[np.float32, np.float32]:
    """Energy of the residual of a unit row, and the cosine of the row and its reconstruction."""
    energy, along, length = np.float32(0), np.float32(0), np.float32(0)
    for axis in range(row.shape[0]):
        rebuilt = row[axis] - residual[axis]
        energy += residual[axis] * residual[axis]
        along += row[axis] * rebuilt
        length += rebuilt * rebuilt
    return energy, along / np.sqrt(length) if length > 0 else np.float32(0)
