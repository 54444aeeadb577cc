"""Dot products of one packed weight row with a few rows of 16-bit activations, for use inside numba kernels.

Activations are 16-bit integers with one scale per row, which is at least as fine as bf16: the largest of n values is at
most sqrt(n) times their root mean square. Products of 16-bit integers added in pairs are one instruction on every
processor since 2013, twice as many values as fp32 products take, and nothing is rounded until a group is summed.

The instructions are written as vector code by hand: the compiler does not find them in a plain loop over nibbles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kodkod_engine.kernels.vector_code import (
    CODES,
    F32,
    I16,
    I32,
    I64,
    LANES,
    MAX_TOKENS,
    PRODUCTS,
    VECTOR_GROUP,
    WIDE,
    Row,
    fetch_ahead,
    load,
    splat,
    sum_lanes,
)

_SUMS, _FLOATS = ir.VectorType(I32, LANES // 2), ir.VectorType(F32, LANES // 2)


def _pairs(builder: Any, left: Any, right: Any) -> Any:
    """Products of 16-bit values, neighbours added: the pattern of one multiply-add instruction."""
    products = builder.mul(builder.sext(left, PRODUCTS), builder.sext(right, PRODUCTS))
    undefined = ir.Constant(PRODUCTS, ir.Undefined)
    even, odd = (
        builder.shuffle_vector(products, undefined, ir.Constant(_SUMS, list(range(first, LANES, 2))))
        for first in (0, 1)
    )
    return builder.add(even, odd)


def _unpack_bytes(builder: Any, base: Any, num_bytes: int = VECTOR_GROUP) -> list[Any]:
    """A group of 8-bit codes as vectors of 16-bit values."""
    places = (builder.gep(base, [I64(start)]) for start in range(0, num_bytes, LANES))
    return [builder.sext(load(builder, place, CODES, 1), WIDE) for place in places]


def _unpack_nibbles(builder: Any, base: Any) -> list[Any]:
    """A group of 4-bit codes: the low halves come first."""
    pairs = _unpack_bytes(builder, base, VECTOR_GROUP // 2)
    low = [builder.ashr(builder.shl(pair, splat(WIDE, 12)), splat(WIDE, 12)) for pair in pairs]
    return low + [builder.ashr(pair, splat(WIDE, 4)) for pair in pairs]


def _broadcast_scale(builder: Any, pointer: Any) -> Any:
    """A bf16 scale in every lane."""
    bits = builder.shl(builder.zext(builder.load(pointer), I32), I32(16))
    undefined = ir.Constant(_FLOATS, ir.Undefined)
    one = builder.insert_element(undefined, builder.bitcast(bits, F32), I32(0))
    return builder.shuffle_vector(one, undefined, splat(_SUMS, 0))


def _add_group(builder: Any, parts: list[Any], scale: Any, at: Any, place: Any) -> None:
    """Add one group's products with the activations at a pointer to the fp32 sums in a place."""
    total = None
    for number, part in enumerate(parts):
        values = load(builder, builder.gep(at, [I64(2 * LANES * number)]), WIDE, 2)
        products = _pairs(builder, part, values)
        total = products if total is None else builder.add(total, products)
    term = builder.fmul(builder.sitofp(total, _FLOATS), scale, flags=("contract",))
    builder.store(builder.fadd(builder.load(place), term, flags=("contract",)), place)


def _make(num_tokens: int, bits: int) -> Any:
    unpack: Callable[..., list[Any]] = _unpack_nibbles if bits == 4 else _unpack_bytes
    group_bytes = VECTOR_GROUP * bits // 8

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        codes, scales, o, x, token = values
        kinds = signature.args
        weight = Row(context, builder, kinds[0], codes, o)
        factors = Row(context, builder, kinds[1], scales, o)
        first = Row(context, builder, kinds[3], x, token)
        rows = [builder.gep(first.at, [builder.mul(first.stride, I64(t))]) for t in range(num_tokens)]
        places = [cgutils.alloca_once_value(builder, splat(_FLOATS, 0.0)) for _ in range(num_tokens)]
        for place in places:
            builder.store(splat(_FLOATS, 0.0), place)
        scale_at = builder.bitcast(factors.at, I16.as_pointer())
        with cgutils.for_range(builder, factors.width) as loop:
            base = builder.gep(weight.at, [builder.mul(loop.index, I64(group_bytes))])
            fetch_ahead(builder, base, group_bytes)
            parts = unpack(builder, base)
            scale = _broadcast_scale(builder, builder.gep(scale_at, [loop.index]))
            shift = builder.mul(loop.index, I64(2 * VECTOR_GROUP))
            for row, place in zip(rows, places, strict=True):
                _add_group(builder, parts, scale, builder.gep(row, [shift]), place)
        sums = [sum_lanes(builder, builder.load(place)) for place in places]
        return sums[0] if num_tokens == 1 else context.make_tuple(builder, signature.return_type, sums)

    def row_dot(_context: Any, codes: Any, scales: Any, o: Any, x: Any, token: Any) -> Any:
        result = types.float32 if num_tokens == 1 else types.UniTuple(types.float32, num_tokens)
        return result(codes, scales, types.int64, x, types.int64), generate

    return intrinsic(row_dot)


row_dots: dict[tuple[int, int], Any] = {
    (num_tokens, bits): _make(num_tokens, bits) for num_tokens in range(1, MAX_TOKENS + 1) for bits in (4, 8)
}
"""By (rows of activations, bits): inside a kernel, `dot(codes, scales, o, x, token)` sums weight row o (codes [out,
bytes], scales uint16 [out, groups]) with rows token, token + 1, ... of x int16 [tokens, in]; all contiguous. Returns a
float32, or a tuple of them for several rows; the rows' own scales are left to the caller."""
