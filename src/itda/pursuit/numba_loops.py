"""The innermost loops of the compiled CPU kernel, written so that LLVM turns each into vector code.

A largest magnitude is found on the bits of the floats: without its sign bit a float orders as an
integer, and an integer maximum is the one reduction that is vectorised next to a floating update.
Values are those of unit rows, so they are finite, and the no-NaN flag is honest.
"""

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np import arrayobj
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Halves = NDArray[np.int16]
Integers = NDArray[np.int32]
Bytes = NDArray[np.uint8]

FAST = {"reassoc", "contract", "arcp", "nsz", "nnan"}
MAGNITUDE = np.int32(0x7FFFFFFF)  # all bits but the sign: the largest magnitude wins
SIGNED = np.int32(-1)  # all bits: negative values lose to every positive one
_INT32, _FLOAT = ir.IntType(32), ir.FloatType()
_AHEAD = 1024  # elements of a Gram row that are asked of memory before they are needed: 2 KB
LINE = 32  # int16 elements in a cache line
PAGE = 2048  # int16 elements in a page, at whose end the processor's own prefetching stops
PART = 32  # atoms that are looked at one by one where a strip holds a candidate
STRIP = 128  # atoms whose largest correlation is known, and elements between two looks ahead


@intrinsic
def float_of(_: Any, bits: Any) -> Any:
    """The float32 of its bits, int32."""
    return types.float32(types.int32), lambda _, builder, __, args: builder.bitcast(args[0], _FLOAT)


@intrinsic
def masked(_: Any, value: Any, mask: Any) -> Any:
    """The bits of a float32 under a mask, int32."""

    def generate(_: Any, builder: Any, __: Any, args: Any) -> Any:
        return builder.and_(builder.bitcast(args[0], _INT32), args[1])

    return types.int32(types.float32, types.int32), generate


@intrinsic
def widened(_: Any, bits: Any) -> Any:
    """The float32 of a bfloat16's bits, int16; a float32 is itself."""
    if isinstance(bits, types.Float):
        return types.float32(types.float32), lambda _, __, ___, args: args[0]

    def generate(_: Any, builder: Any, __: Any, args: Any) -> Any:
        return builder.bitcast(builder.shl(builder.zext(args[0], _INT32), ir.Constant(_INT32, 16)), _FLOAT)

    return types.float32(types.int16), generate


@intrinsic
def larger_bits(_: Any, left: Any, right: Any) -> Any:
    """The larger of two int32, in 32 bits; numba's own max widens to 64, at half the speed."""

    def generate(_: Any, builder: Any, __: Any, args: Any) -> Any:
        kind = ir.FunctionType(_INT32, [_INT32, _INT32])
        return builder.call(builder.module.declare_intrinsic("llvm.smax", [_INT32], kind), args)

    return types.int32(types.int32, types.int32), generate


@intrinsic
def earlier_if_equal(_: Any, so_far: Any, bits: Any, wanted: Any, place: Any) -> Any:
    """min(so_far, place) if bits == wanted, else so_far; in 32 bits: a search that is vector code has no branch."""

    def generate(_: Any, builder: Any, __: Any, args: Any) -> Any:
        kind = ir.FunctionType(_INT32, [_INT32, _INT32])
        place = builder.trunc(args[3], _INT32)
        place = builder.select(builder.icmp_signed("==", args[1], args[2]), place, ir.Constant(_INT32, 2**31 - 1))
        return builder.call(builder.module.declare_intrinsic("llvm.smin", [_INT32], kind), [args[0], place])

    return types.int32(types.int32, types.int32, types.int32, types.int64), generate


@intrinsic
def larger(_: Any, so_far: Any, value: Any, mask: Any) -> Any:
    """max(so_far, bits of value under mask), in 32 bits as above."""

    def generate(_: Any, builder: Any, __: Any, args: Any) -> Any:
        bits = builder.and_(builder.bitcast(args[1], _INT32), args[2])
        kind = ir.FunctionType(_INT32, [_INT32, _INT32])
        return builder.call(builder.module.declare_intrinsic("llvm.smax", [_INT32], kind), [args[0], bits])

    return types.int32(types.int32, types.float32, types.int32), generate


@intrinsic
def at_least(_: Any, value: Any, lowest: Any, mask: Any) -> Any:
    """1 if the size of value, which is the float of its bits under mask, is at least `lowest`, else 0; in 32 bits."""

    def generate(_: Any, builder: Any, __: Any, args: Any) -> Any:
        size = builder.bitcast(builder.and_(builder.bitcast(args[0], _INT32), args[2]), _FLOAT)
        return builder.zext(builder.fcmp_ordered(">=", size, args[1]), _INT32)

    return types.int32(types.float32, types.float32, types.int32), generate


@intrinsic
def prefetch(_: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of array[index], which may lie outside the array, without waiting for it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = arrayobj.make_array(signature.args[0])(context, builder, args[0]).data
        pointer = ir.IntType(8).as_pointer()
        name = "llvm.prefetch.p0"
        module = builder.module
        kind = ir.FunctionType(ir.VoidType(), [pointer, _INT32, _INT32, _INT32])
        function = module.globals.get(name) or ir.Function(module, kind, name)
        address = builder.bitcast(builder.gep(data, [args[1]]), pointer)
        # read (0), into the second-level cache (locality 1), data (1)
        builder.call(function, [address, *(ir.Constant(_INT32, flag) for flag in (0, 1, 1))])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@numba.njit(fastmath=FAST)
def ask_for(gram_row: Halves, atom: Floats) -> None:
    """Prefetch an atom, and the first lines of every page of its Gram row: the processor goes on from there."""
    for line in range(0, atom.shape[0], LINE // 2):
        prefetch(atom, line)
    for page in range(0, gram_row.shape[0], PAGE):
        prefetch(gram_row, page)
        prefetch(gram_row, page + LINE)


@numba.njit(fastmath=FAST)
def start(correlations: Floats, first: Any, mask: np.int32) -> np.int32:
    """Copy the first correlations, float32 or bfloat16 bits; the bits of the largest."""
    largest = np.int32(0)
    for atom in range(correlations.shape[0]):
        value = widened(first[atom])
        correlations[atom] = value
        largest = larger(largest, value, mask)
    return largest


@numba.njit(fastmath=FAST)
def largest_of(correlations: Floats, mask: np.int32) -> np.int32:
    """The bits of the largest value."""
    largest = np.int32(0)
    for atom in range(correlations.shape[0]):
        largest = larger(largest, correlations[atom], mask)
    return largest


@numba.njit(fastmath=FAST)
def size_of(value: np.float32, mask: np.int32) -> np.float32:
    """What an atom is chosen by: the magnitude of its correlation, or the correlation itself."""
    return float_of(masked(value, mask))


@numba.njit(fastmath=FAST)
def count_from(correlations: Floats, lowest: np.float32, mask: np.int32) -> np.int32:
    """How many values have at least the size `lowest`, which may be negative."""
    count = np.int32(0)
    for atom in range(correlations.shape[0]):
        count += at_least(correlations[atom], lowest, mask)
    return count


@numba.njit(fastmath=FAST)
def place_of(bits: Integers, wanted: np.int32) -> int:
    """The first place of a value that is there."""
    place = np.int32(2**31 - 1)
    for index in range(bits.shape[0]):
        place = earlier_if_equal(place, bits[index], wanted, index)
    return int(place)


@numba.njit(fastmath=FAST)
def place_of_size(correlations: Floats, wanted: np.int32, mask: np.int32) -> int:
    """The first place of a correlation with these bits, which is there."""
    place = np.int32(2**31 - 1)
    for index in range(correlations.shape[0]):
        place = earlier_if_equal(place, masked(correlations[index], mask), wanted, index)
    return int(place)


@numba.njit(fastmath=FAST)
def subtract(
    correlations: Floats, gram_row: Halves, weight: np.float32, mask: np.int32, tops: Integers, far: bool
) -> None:
    """correlations -= weight * gram_row; `tops` gets the bits of the largest of every strip."""
    size = correlations.shape[0]
    whole = size // STRIP
    for strip in range(whole):
        first = strip * STRIP
        if far:
            for line in range(0, STRIP, LINE):
                prefetch(gram_row, first + _AHEAD + line)
        values, gram = correlations[first : first + STRIP], gram_row[first : first + STRIP]
        largest = np.int32(0)
        for atom in range(STRIP):  # a length known to the compiler: no loop around the vector code
            value = values[atom] - weight * np.float32(gram[atom])
            values[atom] = value
            largest = larger(largest, value, mask)
        tops[strip] = largest
    if whole < tops.shape[0]:
        largest = np.int32(0)
        for atom in range(whole * STRIP, size):
            value = correlations[atom] - weight * np.float32(gram_row[atom])
            correlations[atom] = value
            largest = larger(largest, value, mask)
        tops[whole] = largest


@numba.njit(fastmath=FAST)
def subtract_four(
    correlations: Floats, gram: Halves, atoms: Integers, weights: Floats, mask: np.int32, tops: Integers
) -> None:
    """`subtract` for four atoms in one pass, in which the correlations are read and written once."""
    size = correlations.shape[0]
    first_row, second_row, third_row, fourth_row = gram[atoms[0]], gram[atoms[1]], gram[atoms[2]], gram[atoms[3]]
    weight, second_weight, third_weight, fourth_weight = weights[0], weights[1], weights[2], weights[3]
    for strip in range(tops.shape[0]):
        part = slice(strip * STRIP, min((strip + 1) * STRIP, size))
        values = correlations[part]
        first, second, third, fourth = first_row[part], second_row[part], third_row[part], fourth_row[part]
        largest = np.int32(0)
        for atom in range(values.shape[0]):
            value = values[atom] - (
                (weight * np.float32(first[atom]) + second_weight * np.float32(second[atom]))
                + (third_weight * np.float32(third[atom]) + fourth_weight * np.float32(fourth[atom]))
            )
            values[atom] = value
            largest = larger(largest, value, mask)
        tops[strip] = largest


@numba.njit(fastmath=FAST)
def subtract_scaled(values: Floats, row: Floats, weight: np.float32) -> None:
    """values -= weight * row."""
    for index in range(values.shape[0]):
        values[index] -= weight * row[index]


@numba.njit(fastmath=FAST)
def dot(left: Floats, right: Floats) -> np.float32:
    """Inner product in float32, in many partial sums."""
    total = np.float32(0)
    for index in range(left.shape[0]):
        total += left[index] * right[index]
    return total


@numba.njit(fastmath=FAST)
def dot64(left: Floats, right: Floats) -> float:
    """Inner product in float64: near-copies of an atom leave pivots that float32 cannot tell from zero."""
    total = 0.0
    for index in range(left.shape[0]):
        total += np.float64(left[index]) * np.float64(right[index])
    return total
