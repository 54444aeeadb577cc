"""Dot products of one FP8 weight row with a few rows of 16-bit activations, for use inside numba kernels.

An e4m3 number whose bits are put into a half-precision number's place is 256 times too small, the subnormal ones
included: two operations on 32 codes, and the processor's own conversion to fp32. Activations are those of
`packed_dot.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from kodkod_engine.kernels.bf16 import INSIDE, SERIAL_OPTIONS
from kodkod_engine.kernels.vector_code import (
    CODES,
    F32,
    I32,
    I64,
    LANES,
    MAX_TOKENS,
    VECTOR_GROUP,
    WIDE,
    Row,
    load,
    splat,
    sum_lanes,
)

HALF_IS_SMALLER_BY = 256.0
_HALVES, _FLOATS = ir.VectorType(ir.HalfType(), LANES), ir.VectorType(F32, LANES)
_NOT_BIT_14 = -0x4001

E4M3 = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
"""Every code's number."""


def converts_halves() -> bool:
    """Whether this processor turns half-precision vectors into fp32; elsewhere each number would be a call."""
    return binding.get_process_triple().startswith(("aarch64", "arm64")) or bool(
        binding.get_host_cpu_features().get("f16c")
    )


def _unpack(builder: Any, base: Any) -> list[Any]:
    """A group of codes as vectors of fp32 values, 256 times too small."""
    parts = []
    for start in range(0, VECTOR_GROUP, LANES):
        codes = builder.sext(load(builder, builder.gep(base, [I64(start)]), CODES, 1), WIDE)
        # The sign lies in bits 15 and 14 after the shift, and is wanted in bit 15 alone.
        bits = builder.and_(builder.shl(codes, splat(WIDE, 7)), splat(WIDE, _NOT_BIT_14))
        parts.append(builder.fpext(builder.bitcast(bits, _HALVES), _FLOATS))
    return parts


def _broadcast_scale(builder: Any, pointer: Any) -> Any:
    """An fp32 scale in every lane, with what the halves lack."""
    undefined = ir.Constant(_FLOATS, ir.Undefined)
    value = builder.fmul(builder.load(pointer), F32(HALF_IS_SMALLER_BY))
    one = builder.insert_element(undefined, value, I32(0))
    return builder.shuffle_vector(one, undefined, splat(ir.VectorType(I32, LANES), 0))


def _add_group(builder: Any, parts: list[Any], scale: Any, at: Any, place: Any) -> None:
    """Add one group's products with the activations at a pointer to the fp32 sums in a place."""
    flags, total = ("contract",), splat(_FLOATS, 0.0)
    for number, part in enumerate(parts):
        values = builder.sitofp(load(builder, builder.gep(at, [I64(2 * LANES * number)]), WIDE, 2), _FLOATS)
        total = builder.fadd(builder.fmul(part, values, flags=flags), total, flags=flags)
    term = builder.fmul(total, scale, flags=flags)
    builder.store(builder.fadd(builder.load(place), term, flags=flags), place)


def _make(num_tokens: int) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        codes, scales, o, block, x, token = values
        kinds = signature.args
        weight = Row(context, builder, kinds[0], codes, o)
        factors = Row(context, builder, kinds[1], scales, block)
        first = Row(context, builder, kinds[4], x, token)
        rows = [builder.gep(first.at, [builder.mul(first.stride, I64(t))]) for t in range(num_tokens)]
        places = [cgutils.alloca_once_value(builder, splat(_FLOATS, 0.0)) for _ in range(num_tokens)]
        for place in places:
            builder.store(splat(_FLOATS, 0.0), place)
        scale_at = builder.bitcast(factors.at, F32.as_pointer())
        with cgutils.for_range(builder, factors.width) as loop:
            parts = _unpack(builder, builder.gep(weight.at, [builder.mul(loop.index, I64(VECTOR_GROUP))]))
            scale = _broadcast_scale(builder, builder.gep(scale_at, [loop.index]))
            shift = builder.mul(loop.index, I64(2 * VECTOR_GROUP))
            for row, place in zip(rows, places, strict=True):
                _add_group(builder, parts, scale, builder.gep(row, [shift]), place)
        sums = [sum_lanes(builder, builder.load(place)) for place in places]
        return sums[0] if num_tokens == 1 else context.make_tuple(builder, signature.return_type, sums)

    def row_dot(_context: Any, codes: Any, scales: Any, o: Any, block: Any, x: Any, token: Any) -> Any:
        result = types.float32 if num_tokens == 1 else types.UniTuple(types.float32, num_tokens)
        return result(codes, scales, types.int64, types.int64, x, types.int64), generate

    return intrinsic(row_dot)


fp8_dots: dict[int, Any] = {num_tokens: _make(num_tokens) for num_tokens in range(1, MAX_TOKENS + 1)}
"""By rows of activations: inside a kernel, `dot(codes, scales, o, block, x, token)` sums weight row o (codes uint8
[out, in]) with rows token, token + 1, ... of x int16 [tokens, in]; its scales are row `block` of scales fp32 [blocks,
groups]. All contiguous; groups of 128. Returns a float32, or a tuple of them for several rows; the activations' own
scales are left to the caller."""


@njit(**SERIAL_OPTIONS, **INSIDE)
def plain_fp8_dot(codes: Any, scales: Any, o: Any, block: Any, x: Any, token: Any) -> Any:
    """One row, groups of any size; for small models."""
    group = x.shape[1] // scales.shape[1]
    total = E4M3[0]
    for g in range(scales.shape[1]):
        part = E4M3[0]
        for i in range(g * group, (g + 1) * group):
            part += E4M3[codes[o, i]] * x[token, i]
        total += part * scales[block, g]
    return total
