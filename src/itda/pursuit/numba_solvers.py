"""Coefficients of one code on the atoms it has chosen so far, compiled: small dense problems in float64.

`products` (K, K) are the inner products of the chosen atoms and `target` (K) theirs with the row; only
the first `used` of each count.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from itda.pursuit import limits
from itda.pursuit.numba_loops import Doubles, Floats, Integers, dot64

Flags = NDArray[np.bool_]


@numba.njit
def take_in(products: Doubles, target: Doubles, place: int, chosen: Integers, atoms: Floats, row: Floats) -> None:
    """Fill in the inner products of the atom at `place` with the row and with those before it."""
    atom = atoms[chosen[place]]
    target[place] = dot64(row, atom)
    for other in range(place + 1):
        value = dot64(atom, atoms[chosen[other]])
        products[place, other] = value
        products[other, place] = value


@numba.njit
def extend_factor(factor: Doubles, products: Doubles, place: int, ridge: float) -> float:
    """Row `place` of the Cholesky factor; returns its squared pivot, the part that is new in this atom."""
    pivot = products[place, place] + ridge
    for column in range(place):
        value = products[place, column]
        for inner in range(column):
            value -= factor[place, inner] * factor[column, inner]
        factor[place, column] = value / factor[column, column]
        pivot -= factor[place, column] ** 2
    factor[place, place] = np.sqrt(max(pivot, limits.RIDGE))
    return pivot


@numba.njit
def solve(factor: Doubles, target: Doubles, used: int, solution: Doubles) -> None:
    """The solution of factor factor^T solution = target."""
    for row in range(used):
        value = target[row]
        for column in range(row):
            value -= factor[row, column] * solution[column]
        solution[row] = value / factor[row, row]
    for row in range(used - 1, -1, -1):
        value = solution[row]
        for column in range(row + 1, used):
            value -= factor[column, row] * solution[column]
        solution[row] = value / factor[row, row]


@numba.njit
def least_squares(products: Doubles, target: Doubles, used: int, factor: Doubles, solution: Doubles) -> None:
    """The coefficients that leave the least."""
    for place in range(used):
        extend_factor(factor, products, place, limits.RIDGE)
    solve(factor, target, used, solution)


@numba.njit
def nonnegative_least_squares(products: Doubles, target: Doubles, used: int, solution: Doubles) -> None:
    """The coefficients of at least 0 that leave the least, found from `solution` on.

    Source: Lawson & Hanson 1974, chapter 23, on the normal equations.
    """
    free = np.zeros(used, np.bool_)
    for place in range(used):
        free[place] = solution[place] > 0
    part, factor = np.empty((used, used)), np.empty((used, used))
    wanted, found = np.empty(used), np.empty(used)
    for _ in range(3 * used):
        while _solve_free(products, target, free, part, factor, wanted, found, solution):
            pass
        freed, steepest = -1, limits.OPTIMAL
        for place in range(used):
            gradient = target[place]
            for other in range(used):
                gradient -= products[place, other] * solution[other]
            if not free[place] and gradient > steepest:
                freed, steepest = place, gradient
        if freed < 0:
            break
        free[freed] = True


@numba.njit
def _solve_free(
    products: Doubles,
    target: Doubles,
    free: Flags,
    part: Doubles,
    factor: Doubles,
    wanted: Doubles,
    found: Doubles,
    solution: Doubles,
) -> bool:
    """Go towards the least-squares solution on the free places; True if one hit zero and the rest must go on."""
    places = np.nonzero(free)[0]
    count = len(places)
    for i in range(count):
        wanted[i] = target[places[i]]
        for j in range(count):
            part[i, j] = products[places[i], places[j]]
    least_squares(part, wanted, count, factor, found)
    share, blocked = 1.0, -1
    for i in range(count):
        if found[i] <= 0:
            here = solution[places[i]]
            reach = here / (here - found[i]) if here > 0 else 0.0
            if reach < share:
                share, blocked = reach, i
    for i in range(count):
        place = places[i]
        solution[place] += share * (found[i] - solution[place])
        if blocked >= 0 and (i == blocked or solution[place] <= limits.FEASIBLE):
            solution[place] = 0.0
            free[place] = False
    return blocked >= 0


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
