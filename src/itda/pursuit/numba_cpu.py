"""Pursuit fused per row in a compiled CPU kernel: the update of the correlations finds the next maximum.

One pass over the row of correlations a step, rows in parallel, no allocation inside the loop over
steps. The machine code is cached on disk at the first call.
"""

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


# Updated correlations in a call, under which waking the other threads costs more than they save: a
# builder asks for 8 rows at a time, and two such processes on two cores took 30 times as long.
_WORTH_THREADS = 2**20
_FAST = {"reassoc", "contract", "arcp", "nsz"}  # but not "nnan": a comparison with NaN must stay false


def _matching_pursuit(
    correlations: Floats, gram: Floats, floor: Floats, chosen: Integers, coefficients: Floats
) -> None:
    """Plain signed matching pursuit of all rows; overwrites `correlations` (n, A).

    Fills `chosen` (n, K) with atoms, each once and in order of first choice, -1 where unused, and
    `coefficients` (n, K).
    """
    rows, size = correlations.shape
    steps = chosen.shape[1]
    for row in numba.prange(rows):
        correlation = correlations[row]
        places = chosen[row]
        sums = coefficients[row]
        used = 0
        best = 0
        largest = np.float32(-1.0)
        for atom in range(size):
            value = abs(correlation[atom])
            if value > largest:
                largest = value
                best = atom
        for step in range(steps):
            if not largest > floor[row]:
                break
            value = correlation[best]
            place = 0
            while place < used and places[place] != best:
                place += 1
            if place == used:
                places[used] = best
                sums[used] = np.float32(0.0)
                used += 1
            sums[place] += value
            if step + 1 == steps:
                break
            # Two passes over a row that stays in cache: the update vectorises, and so does the search
            # for the largest value; a fused loop that also tracks the index does neither.
            gram_row = gram[best]
            largest = np.float32(-1.0)
            for atom in range(size):
                correlation[atom] -= value * gram_row[atom]
            for atom in range(size):
                largest = max(largest, abs(correlation[atom]))
            best = 0
            while abs(correlation[best]) != largest and best < size - 1:
                best += 1
        for place in range(used, steps):
            places[place] = -1
            sums[place] = np.float32(0.0)


_parallel = numba.njit(parallel=True, fastmath=_FAST, cache=True)(_matching_pursuit)
_serial = numba.njit(fastmath=_FAST, cache=True)(_matching_pursuit)


def matching_pursuit(correlations: Floats, gram: Floats, floor: Floats, chosen: Integers, coefficients: Floats) -> None:
    """Plain signed matching pursuit; fills `chosen` and `coefficients` (n, K) and overwrites `correlations` (n, A)."""
    few = correlations.size * chosen.shape[1] < _WORTH_THREADS
    (_serial if few else _parallel)(correlations, gram, floor, chosen, coefficients)
