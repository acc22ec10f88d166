"""Pursuit fused per row in a compiled CPU kernel: the update of the correlations finds the next maximum.

A row's correlations stay in cache for all of its steps; a step reads one row of the Gram matrix, which
is stored in 16 bits because that reading is what a step costs. What this rounds away is bounded, and
so is the error of first correlations that were computed from bfloat16. Every atom that could be the
best within those bounds is looked at again in float32 before one is chosen, so the choice is that of
float32 (docs/performance.md).
"""

import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import Lock
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from itda.pursuit import limits
from itda.pursuit.codes import BlockCodes, Coding
from itda.pursuit.gram import ROUNDING, SCALE, WholeGram
from itda.pursuit.halves import HIGH_PARTS
from itda.pursuit.numba_loops import (
    FAST,
    MAGNITUDE,
    SIGNED,
    STRIP,
    Bytes,
    Doubles,
    Floats,
    Halves,
    Integers,
    ask_for,
    dot,
    float_of,
    largest_of,
    start,
    subtract,
    subtract_four,
    subtract_scaled,
)
from itda.pursuit.numba_search import NEGLIGIBLE, ROUNDED_OFF, best_of, break_ties, leave, stands_out, verify_first
from itda.pursuit.numba_solvers import (
    errors_of,
    extend_factor,
    gradient_step,
    keep_positive,
    least_squares,
    nonnegative_from,
    nonnegative_least_squares,
    solve,
    take_in,
)
from itda.pursuit.prepared import Prepared

_LOG = logging.getLogger("itda")

_SHARED_LAYERS = ("omp", "tbb")  # in which several threads of a process may run kernels
_ONE = Lock()
_METHODS = {"mp": 0, "omp": 1, "gp": 2}
_MATCHING, _ORTHOGONAL, _GRADIENT = _METHODS.values()
# Updated correlations in a call, under which waking the other threads costs more than they save: a
# builder asks for 8 rows at a time, and two such processes on two cores took 30 times as long.
_WORTH_THREADS = 2**20
_NEAR = 64 * 2**20  # bytes of a Gram matrix that the processor's own prefetching keeps up with, from a shared cache
_CHUNK = 4  # rows that share one set of buffers
_ROUNDING, _SCALE, _HIGH_PARTS = np.float32(ROUNDING), np.float32(SCALE), np.float32(HIGH_PARTS)


@numba.njit
def _fit(
    method: int,
    nonnegative: bool,
    place: int,
    fresh: bool,
    used: int,
    products: Doubles,
    target: Doubles,
    order: Integers,
    free: int,
    factor: Doubles,
    forward: Doubles,
    solution: Doubles,
) -> int:
    """New coefficients of all atoms once that at `place` is chosen; -1 if it adds nothing that can be told.

    Otherwise how many atoms the factor holds, `free` before.
    """
    if method == _GRADIENT:
        gradient_step(products, target, used, nonnegative, solution)
        return free
    if nonnegative:
        return nonnegative_least_squares(products, target, used, order, free, factor, forward, solution)
    order[place] = place
    if not fresh or extend_factor(factor, products, order, place, 0.0, target, forward) <= limits.DEPENDENT:
        return -1
    solve(factor, forward, used, solution)
    return used


@numba.njit(fastmath=FAST)
def _apply(
    correlations: Floats,
    gram: Halves,
    places: Integers,
    solution: Doubles,
    applied: Doubles,
    used: int,
    mask: np.int32,
    tops: Integers,
    four: Integers,
    changes: Floats,
) -> np.float32:
    """Bring the correlations from the coefficients `applied` to `solution`; returns the most that rounding may do.

    It counts for the coefficients as they are now, however often they have changed, and for those of the step in
    which a correlation was last computed anew.
    """
    total, waiting = 0.0, 0
    for place in range(used):
        total += abs(solution[place])
        change = np.float32(solution[place] - applied[place])
        applied[place] = solution[place]
        if change != 0:
            four[waiting], changes[waiting] = places[place], change * _SCALE
            waiting += 1
        if waiting == 4 or (waiting and place == used - 1):
            for spare in range(waiting, 4):
                four[spare], changes[spare] = four[0], np.float32(0)
            subtract_four(correlations, gram, four, changes, mask, tops)
            waiting = 0
    return 2 * np.float32(total) * _ROUNDING


@numba.njit(fastmath=FAST)
def _begin(
    correlations: Floats, first: Halves, slack: np.float32, mask: np.int32, tops: Integers, errors: Floats
) -> None:
    """Take the first correlations of a row, float32 or bfloat16 bits, with their largest error in every strip."""
    size = correlations.shape[0]
    for strip in range(tops.shape[0]):
        part = slice(strip * STRIP, min((strip + 1) * STRIP, size))
        largest = start(correlations[part], first[part], MAGNITUDE)
        tops[strip] = largest_of(correlations[part], mask) if mask == SIGNED else largest
        errors[strip] = slack + ROUNDED_OFF * float_of(largest) + _HIGH_PARTS


@numba.njit(fastmath=FAST)
def _pursue(
    start_row: int,
    end_row: int,
    rows: Floats,
    first: Halves,
    slack: Floats,
    spread: Floats,
    atoms: Floats,
    gram: Halves,
    method: int,
    nonnegative: bool,
    refit: bool,
    stops: Floats,
    chosen: Integers,
    coefficients: Floats,
    unexplained: Floats,
    cosine: Floats,
    hard: Bytes,
) -> None:
    """Codes of some unit rows (n, D) from their first correlations (n, A), float32 or bfloat16 bits.

    With `slack` (n) above zero these are rounded, see HalfProducts. A row is `hard`, and its code not to
    be used, if too many of its atoms would have to be looked at again.
    """
    size, steps = first.shape[1], chosen.shape[1]
    strips = (size + STRIP - 1) // STRIP
    mask = SIGNED if nonnegative else MAGNITUDE
    fitted = refit or method != _MATCHING
    far = 2 * gram.shape[0] * gram.shape[1] > _NEAR
    widest = np.float32(0)
    for atom in range(spread.shape[0]):
        widest = max(widest, spread[atom])
    correlations = np.empty(size, np.float32)
    verified = np.empty(size, np.uint8)
    tops, errors = np.empty(strips, np.int32), np.empty(strips, np.float32)
    pending, looks = np.empty(STRIP, np.int32), np.empty(1, np.int64)
    residual = np.empty(rows.shape[1], np.float32)
    products = np.empty((steps, steps)) if fitted else np.empty((1, 1))
    factor = np.empty((steps, steps)) if fitted else np.empty((1, 1))
    forward, order = np.empty(steps), np.empty(steps, np.int32)
    target = np.empty(steps)
    solution, applied = np.empty(steps), np.empty(steps)
    four, changes = np.empty(4, np.int32), np.empty(4, np.float32)
    for index in range(start_row, end_row):
        row, places = rows[index], chosen[index]
        own_slack, stop_at = slack[index], stops[index]
        _begin(correlations, first[index], own_slack * widest, mask, tops, errors)
        if own_slack > 0:
            verified[:] = 0
        looks[0] = 64 + size // 8
        solution[:] = 0.0
        applied[:] = 0.0
        residual[:] = row
        used, free, drift = 0, 0, np.float32(0)
        for step in range(steps):
            # Where all coefficients change at every step, the residual is made anew, and only if something reads it
            stale = method != _MATCHING and used > 0
            if stale and (own_slack > 0 or stop_at > 0):
                leave(residual, row, atoms, places, solution, used)
                stale = False
            if stop_at > 0 and used and dot(residual, residual) <= stop_at:
                break
            if own_slack > 0:
                atom = verify_first(
                    correlations, tops, verified, residual, first[index], atoms, spread, own_slack, errors, drift,
                    mask, pending, looks, gram,
                )  # fmt: skip
            else:
                atom = best_of(correlations, tops, mask)
                if atom >= 0:
                    ask_for(gram[atom], atoms[atom])
            if atom < 0 or looks[0] < 0:
                break
            value = correlations[atom]
            if drift > 0 and not stands_out(atom, correlations, tops, drift, mask):
                if stale:
                    leave(residual, row, atoms, places, solution, used)
                    stale = False
                atom = break_ties(atom, correlations, tops, residual, atoms, drift, mask, looks)
                if atom < 0 or looks[0] < 0:
                    break
            if stale and abs(value) <= drift + NEGLIGIBLE:
                leave(residual, row, atoms, places, solution, used)
                stale = False
            if not stale:
                value = dot(residual, atoms[atom])
            if not (value if nonnegative else abs(value)) > NEGLIGIBLE:
                break
            place = 0
            while place < used and places[place] != atom:
                place += 1
            fresh = place == used
            if fresh:
                places[place] = atom
                if fitted:
                    take_in(products, target, place, places, atoms, row)
            used = max(used, place + 1)
            if method == _MATCHING:
                solution[place] += value
                subtract_scaled(residual, atoms[atom], value)
                if step + 1 < steps:
                    drift += abs(value) * _ROUNDING
                    subtract(correlations, gram[atom], value * _SCALE, mask, tops, far)
                continue
            free = _fit(
                method, nonnegative, place, fresh, used, products, target, order, free, factor, forward, solution
            )
            if free < 0:
                used -= fresh
                break
            if step + 1 < steps:
                rounded = _apply(correlations, gram, places, solution, applied, used, mask, tops, four, changes)
                drift = max(drift, rounded)
        if refit and method != _ORTHOGONAL:
            if nonnegative:
                nonnegative_from(products, target, used, order, factor, forward, solution)
            else:
                least_squares(products, target, used, order, factor, forward, solution)
        if nonnegative:
            used = keep_positive(places, solution, used)
        if fitted:
            leave(residual, row, atoms, places, solution, used)
        unexplained[index], cosine[index] = errors_of(row, residual)
        hard[index] = looks[0] < 0
        for place in range(steps):
            if place < used:
                coefficients[index, place] = np.float32(solution[place])
            else:
                places[place] = -1
                coefficients[index, place] = np.float32(0)


COMPILED = ("numba_cpu", "numba_loops", "numba_search", "numba_solvers", "limits", "gram", "halves")


def _hash_of_sources() -> int:
    """Of the files that the kernel is compiled from, and those whose numbers are frozen into it."""
    hasher = hashlib.blake2b(digest_size=7)
    for module in COMPILED:
        hasher.update((Path(__file__).parent / f"{module}.py").read_bytes())
    return int.from_bytes(hasher.digest(), "big")


def _compiled(sources: int) -> Any:
    """The loop over rows. What is closed over is part of the key under which numba keeps machine code on
    disk; without `sources`, a change in another file of this package would go unnoticed."""

    @numba.njit(parallel=True, fastmath=FAST, cache=True)
    def kernel(
        rows: Floats,
        first: Halves,
        slack: Floats,
        spread: Floats,
        atoms: Floats,
        gram: Halves,
        method: int,
        nonnegative: bool,
        refit: bool,
        stops: Floats,
        chosen: Integers,
        coefficients: Floats,
        unexplained: Floats,
        cosine: Floats,
        hard: Bytes,
    ) -> None:
        count = len(rows) if sources else 0
        for chunk in numba.prange((count + _CHUNK - 1) // _CHUNK):
            _pursue(
                chunk * _CHUNK, min(count, (chunk + 1) * _CHUNK), rows, first, slack, spread, atoms, gram, method,
                nonnegative, refit, stops, chosen, coefficients, unexplained, cosine, hard,
            )  # fmt: skip

    return kernel


_kernel = _compiled(_hash_of_sources())


def pursue_block(
    rows: Tensor, first: Tensor, slack: Tensor, spread: Tensor, stops: Tensor | None, prepared: Prepared, coding: Coding
) -> tuple[BlockCodes, Tensor]:
    """Codes of unit rows (n, D), and which of them could not be told with what is rounded here, bool (n,).

    Args:
        rows: float32 (n, D), of norm 1 or zero.
        first: their correlations with all atoms, float32 or bfloat16 (n, A).
        slack, spread: what bounds their error, see `HalfProducts.correlations`; zeros for float32.
        stops: the unexplained share at which each row is done, float32 (n,); None to take all steps.
    """
    assert isinstance(prepared.gram, WholeGram)
    codes = BlockCodes(
        torch.empty((len(rows), coding.steps), dtype=torch.int32),
        torch.empty((len(rows), coding.steps)),
        torch.empty(len(rows)),
        torch.empty(len(rows)),
    )
    hard = torch.zeros(len(rows), dtype=torch.uint8)
    few = first.numel() * coding.steps < _WORTH_THREADS
    threads = 1 if few else min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
    with _turn(), _reported(), _on(threads):
        _kernel(
            rows.numpy(),
            (first.view(torch.int16) if first.dtype == torch.bfloat16 else first).numpy(),
            slack.numpy(),
            spread.numpy(),
            prepared.atoms.numpy(),
            prepared.gram.buffer.numpy(),
            _METHODS[coding.method],
            coding.nonnegative,
            coding.refit,
            (torch.zeros(len(rows)) if stops is None else stops).numpy(),
            *(part.numpy() for part in codes),
            hard.numpy(),
        )
    return codes, hard.bool()


def _turn() -> AbstractContextManager[Any]:
    """A lock where one caller at a time may run: with two, numba's own threads (macOS) end the process."""
    try:
        layer = numba.threading_layer()
    except ValueError:  # chosen when the first kernel runs
        layer = ""
    return nullcontext() if layer in _SHARED_LAYERS else _ONE


@contextmanager
def _on(threads: int) -> Iterator[None]:
    """Run on so many threads."""
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        yield
    finally:
        numba.set_num_threads(before)


@contextmanager
def _reported() -> Iterator[None]:
    """Log how long it took if this call compiled the kernel, which happens once a machine and kind of input."""
    known = len(_kernel.overloads)
    started = time.perf_counter()
    yield
    if len(_kernel.overloads) > known and not all(_kernel.stats.cache_hits.get(kind) for kind in _kernel.overloads):
        seconds = time.perf_counter() - started
        _LOG.info("Compiled the pursuit kernel in %.0f s; it is kept on disk for the next time.", seconds)
