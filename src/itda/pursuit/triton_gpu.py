"""Plain pursuit fused per row in a GPU kernel: c -= v G[j], and the next j, without leaving the chip.

One program has one row. As long as its correlations fit into registers they stay there for all steps,
and only rows of the Gram matrix are read; beyond that they lie in the block's own memory and are gone
through tile by tile, each tile updated and searched in one pass. Tested under Triton's interpreter.
"""

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from itda.pursuit import limits, torch_batched
from itda.pursuit.codes import BlockCodes, Coding
from itda.pursuit.gram import WholeGram
from itda.pursuit.prepared import Prepared

_ON_CHIP = 16384  # correlations of one row that 16 warps hold in 32 registers each
_TILE = 4096
_NEVER = -1.0  # 1 less the energy that was taken is rounding once little is left, and may then fall below zero


@triton.jit
def _size(correlations, nonnegative: tl.constexpr):  # type: ignore[no-untyped-def]
    """What an atom is chosen by."""
    return correlations if nonnegative else tl.abs(correlations)


@triton.jit
def _pursue_on_chip(  # type: ignore[no-untyped-def]
    correlations, gram, chosen, values, atoms, gram_stride, steps, floor, stops,
    width: tl.constexpr, nonnegative: tl.constexpr,
):  # fmt: skip
    """All steps of one row whose correlations fit into registers; `width` is a power of two of at least A."""
    row = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, width)
    inside = places < atoms
    current = tl.load(correlations + row * atoms + places, mask=inside, other=0.0).to(tl.float32)
    stop_at = tl.load(stops + row)
    energy = 1.0
    step = 0
    while step < steps:
        sizes = tl.where(inside, _size(current, nonnegative), -1.0)
        best = tl.argmax(sizes, axis=0)
        value = tl.sum(tl.where(places == best, current, 0.0), axis=0)
        if (tl.max(sizes, axis=0) > floor) & (energy > stop_at):
            tl.store(chosen + row * steps + step, best)
            tl.store(values + row * steps + step, value)
            entries = tl.load(gram + tl.cast(best, tl.int64) * gram_stride + places, mask=inside, other=0.0)
            current -= value * entries
            energy -= value * value
            step += 1
        else:
            step = steps


@triton.jit
def _pursue_in_tiles(  # type: ignore[no-untyped-def]
    correlations, gram, chosen, values, atoms, gram_stride, steps, floor, stops,
    width: tl.constexpr, nonnegative: tl.constexpr,
):  # fmt: skip
    """All steps of one row whose float32 correlations lie in memory; a tile of `width` is handled at a time."""
    row = tl.program_id(0).to(tl.int64)
    mine = correlations + row * atoms
    places = tl.arange(0, width)
    stop_at = tl.load(stops + row)
    energy = 1.0
    value = 0.0
    last = tl.full((), 0, tl.int64)
    step = 0
    while step <= steps:
        largest = -1.0
        best = 0
        found = 0.0
        for start in range(0, atoms, width):
            here = start + places
            inside = here < atoms
            current = tl.load(mine + here, mask=inside, other=0.0)
            if step > 0:
                entries = tl.load(gram + last * gram_stride + here, mask=inside, other=0.0)
                current -= value * entries
                tl.store(mine + here, current, mask=inside)
            sizes = tl.where(inside, _size(current, nonnegative), -1.0)
            top = tl.max(sizes, axis=0)
            if top > largest:
                winner = tl.argmax(sizes, axis=0)
                best = start + winner
                found = tl.sum(tl.where(places == winner, current, 0.0), axis=0)
                largest = top
        if (largest > floor) & (energy > stop_at) & (step < steps):
            tl.store(chosen + row * steps + step, best)
            tl.store(values + row * steps + step, found)
            energy -= found * found
            value = found
            last = tl.cast(best, tl.int64)
            step += 1
        else:
            step = steps + 1


def pursue_block(
    rows: Tensor,
    first: Tensor | None,
    stops: Tensor | None,
    prepared: Prepared,
    coding: Coding,
    *,
    on_chip: int = _ON_CHIP,
) -> BlockCodes:
    """Codes of unit rows (n, D) by plain pursuit.

    Args:
        rows: float32 (n, D), of norm 1 or zero.
        first: their correlations (n, A), which may be overwritten; None to compute them.
        stops: the unexplained share at which each row is done (n,); None to take all steps.
        on_chip: the most atoms whose correlations are held in registers.
    """
    gram = prepared.gram
    assert isinstance(gram, WholeGram)
    if first is None:
        first = prepared.first_correlations(rows)
    chosen = torch.full((len(rows), coding.steps), -1, dtype=torch.int32, device=rows.device)
    values = torch.zeros((len(rows), coding.steps), device=rows.device)
    stops = torch.full((len(rows),), _NEVER, device=rows.device) if stops is None else stops
    size = len(prepared)
    fits = size <= on_chip
    kernel = _pursue_on_chip if fits else _pursue_in_tiles
    width = triton.next_power_of_2(size) if fits else min(_TILE, triton.next_power_of_2(size))
    if len(rows):
        with torch.cuda.device(rows.device) if rows.is_cuda else nullcontext():
            kernel[(len(rows),)](
                first if fits else first.float(), gram.buffer, chosen, values, size, gram.buffer.stride(0),
                coding.steps, limits.NEGLIGIBLE, stops,
                width=width, nonnegative=coding.nonnegative, num_warps=max(4, min(16, width // 1024)),
            )  # fmt: skip
    merged, summed = torch_batched.merge_repeats(chosen.long(), values)
    return torch_batched.finish(rows, prepared.atoms, merged, summed, coding)
