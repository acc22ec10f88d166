"""Which atom a step of the compiled kernel chooses: the best, although its correlations are rounded.

`tops` are the bits of the largest correlation of every strip of atoms, or 0 if none is above zero; `mask`
says which bits count, and `looks` how many atoms may still be looked at again for this row.
"""

import numba
import numpy as np

from itda.pursuit import limits
from itda.pursuit.halves import BFLOAT16, HIGH_PARTS
from itda.pursuit.numba_loops import (
    FAST,
    MAGNITUDE,
    PART,
    SIGNED,
    STRIP,
    Bytes,
    Doubles,
    Floats,
    Halves,
    Integers,
    ask_for,
    at_least,
    count_from,
    dot,
    float_of,
    larger_bits,
    largest_of,
    place_of,
    place_of_size,
    size_of,
    subtract_scaled,
    widened,
)

NEGLIGIBLE = np.float32(limits.NEGLIGIBLE)
ROUNDED_OFF = np.float32(BFLOAT16 * 1.01)  # of a number of bfloat16, what rounding took or gave at most
_HIGH_PARTS = np.float32(HIGH_PARTS)


@numba.njit(fastmath=FAST)
def best_of(correlations: Floats, tops: Integers, mask: np.int32) -> int:
    """The atom of the largest size, the first of equals; -1 if all are zero.

    Of negative correlations, where those are no choice, it is the last to be ruled out: rounding may have made
    it negative.
    """
    wanted = largest_top(tops)
    if wanted > 0:
        strip = place_of(tops, wanted)
        return strip * STRIP + place_of_size(_strip(correlations, strip), wanted, mask)
    return -1 if mask == MAGNITUDE else int(np.argmax(correlations))


@numba.njit(fastmath=FAST)
def largest_top(tops: Integers) -> np.int32:
    """The bits of the largest correlation of all."""
    largest = np.int32(0)
    for strip in range(tops.shape[0]):
        largest = larger_bits(largest, tops[strip])
    return largest


@numba.njit(fastmath=FAST)
def _strip(correlations: Floats, strip: int) -> Floats:
    return correlations[strip * STRIP : (strip + 1) * STRIP]


@numba.njit(fastmath=FAST)
def _count_strips(tops: Integers, lowest: np.float32) -> np.int32:
    """How many strips may hold a correlation of at least the size `lowest`."""
    count = np.int32(0)
    for strip in range(tops.shape[0]):
        count += at_least(float_of(tops[strip]), lowest, SIGNED)
    return count


@numba.njit(fastmath=FAST)
def _refresh(correlations: Floats, tops: Integers, strip: int, mask: np.int32) -> None:
    tops[strip] = largest_of(_strip(correlations, strip), mask)


@numba.njit(fastmath=FAST)
def _correct(
    pending: Integers, correlations: Floats, verified: Bytes, residual: Floats, atoms: Floats, mask: np.int32
) -> np.float32:
    """Compute correlations with the residual itself; the largest size that results."""
    largest = np.float32(-2)
    for atom in pending:
        correlations[atom] = dot(residual, atoms[atom])
        verified[atom] = 1
        largest = max(largest, size_of(correlations[atom], mask))
    return largest


@numba.njit(fastmath=FAST)
def verify_first(
    correlations: Floats,
    tops: Integers,
    verified: Bytes,
    residual: Floats,
    first: Halves,
    atoms: Floats,
    spread: Floats,
    slack: np.float32,
    errors: Floats,
    drift: np.float32,
    mask: np.int32,
    pending: Integers,
    looks: Integers,
    gram: Halves,
) -> int:
    """Compute the correlation of every atom that may be the best anew, unless that was done before; returns the best.

    The error of an atom of which it was not is at most `drift` + `slack` * spread + ROUNDED_OFF |first| +
    HIGH_PARTS, and in a strip at most `drift` + that strip's of `errors`; that of the best itself is at most
    `drift`. The error of the first correlation stays what it is in all later steps, so once is enough.
    """
    atom = best_of(correlations, tops, mask)
    best = np.float32(0)
    if atom >= 0:
        ask_for(gram[atom], atoms[atom])  # on its way while the atom itself is read; nearly always it is the one
        if not verified[atom]:
            pending[0] = atom
            _correct(pending[:1], correlations, verified, residual, atoms, mask)
            _refresh(correlations, tops, atom // STRIP, mask)
        best = max(best, size_of(correlations[atom], mask))
    changed = False
    for strip in range(tops.shape[0]):
        lowest = best - errors[strip] - 2 * drift
        if float_of(tops[strip]) < lowest:
            continue
        count = 0
        last = min((strip + 1) * STRIP, correlations.shape[0])
        for part in range(strip * STRIP, last, PART):
            if not count_from(correlations[part : min(part + PART, last)], lowest, mask):
                continue
            for other in range(part, min(part + PART, last)):
                size = size_of(correlations[other], mask)
                if size < lowest or verified[other]:
                    continue
                error = 2 * drift + slack * spread[other] + ROUNDED_OFF * abs(widened(first[other])) + _HIGH_PARTS
                if size + error >= best:
                    pending[count] = other
                    count += 1
        if count:
            looks[0] -= count
            if looks[0] < 0:
                return -1
            best = max(best, _correct(pending[:count], correlations, verified, residual, atoms, mask))
            _refresh(correlations, tops, strip, mask)
            changed = True
    if not changed and atom >= 0 and float_of(largest_top(tops)) == size_of(correlations[atom], mask):
        return atom
    return best_of(correlations, tops, mask)


@numba.njit(fastmath=FAST)
def stands_out(atom: int, correlations: Floats, tops: Integers, drift: np.float32, mask: np.int32) -> bool:
    """Whether no other atom is within the Gram matrix's rounding of `atom`, and zero is not either."""
    lowest = size_of(correlations[atom], mask) - 2 * drift
    if lowest <= 0 or _count_strips(tops, lowest) > 1:
        return False
    return count_from(_strip(correlations, atom // STRIP), lowest, mask) == 1


@numba.njit(fastmath=FAST)
def break_ties(
    atom: int,
    correlations: Floats,
    tops: Integers,
    residual: Floats,
    atoms: Floats,
    drift: np.float32,
    mask: np.int32,
    looks: Integers,
) -> int:
    """The best of the atoms that are within the Gram matrix's rounding of `atom`, by the residual itself.

    -1 if nothing but rounding is left of the row.
    """
    if dot(residual, residual) <= NEGLIGIBLE * NEGLIGIBLE:
        return -1
    lowest = size_of(correlations[atom], mask) - 2 * drift
    correlations[atom] = dot(residual, atoms[atom])
    best = size_of(correlations[atom], mask)
    first = atom
    _refresh(correlations, tops, atom // STRIP, mask)
    for strip in range(tops.shape[0]):
        if float_of(tops[strip]) < lowest:
            continue
        changed = False
        last = min((strip + 1) * STRIP, correlations.shape[0])
        for other in range(strip * STRIP, last):
            if size_of(correlations[other], mask) < lowest or other == first:
                continue
            looks[0] -= 1
            if looks[0] < 0:
                return -1
            correlations[other] = dot(residual, atoms[other])
            changed = True
            size = size_of(correlations[other], mask)
            if size > best or (size == best and other < atom):
                best, atom = size, other
        if changed:
            _refresh(correlations, tops, strip, mask)
    return atom


@numba.njit(fastmath=FAST)
def leave(residual: Floats, row: Floats, atoms: Floats, chosen: Integers, coefficients: Doubles, used: int) -> None:
    """What the code leaves of the row."""
    residual[:] = row
    for place in range(used):
        subtract_scaled(residual, atoms[chosen[place]], np.float32(coefficients[place]))
