"""4-bit codes to bf16 by looking them up, for use inside numba kernels: a group has sixteen values, made once.

One instruction looks up 32 values of 16 bits; the compiler does not find it in a plain loop.
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kodkod_engine.kernels.vector_code import CODES, F32, I16, I32, I64, LANES, VECTOR_GROUP, WIDE, Row, load, splat

_NUM_CODES = 16
_VALUES = [float(code - _NUM_CODES if code >= _NUM_CODES // 2 else code) for code in range(_NUM_CODES)]
_FLOATS, _WORDS, _HALVES = (ir.VectorType(kind, _NUM_CODES) for kind in (F32, I32, I16))


def has_lookup() -> bool:
    """Whether this processor has the instruction."""
    return bool(binding.get_host_cpu_features().get("avx512bw"))


def _rounded(builder: Any, values: Any) -> Any:
    """The bits of the nearest bf16 numbers, <16 x float> -> <16 x i16>; of two as near the even one. See `narrow`."""
    bits = builder.bitcast(values, _WORDS)
    is_odd = builder.and_(builder.lshr(bits, splat(_WORDS, 16)), splat(_WORDS, 1))
    nearest = builder.lshr(builder.add(builder.add(bits, is_odd), splat(_WORDS, 0x7FFF)), splat(_WORDS, 16))
    is_number = builder.fcmp_ordered("ord", values, values)
    return builder.trunc(builder.select(is_number, nearest, splat(_WORDS, 0x7FC0)), _HALVES)


def _table(builder: Any, scale_at: Any) -> Any:
    """All codes' values times a bf16 scale, twice: the fifth bit of an index does not matter then."""
    bits = builder.shl(builder.zext(builder.load(scale_at), I32), I32(16))
    undefined = ir.Constant(_FLOATS, ir.Undefined)
    one = builder.insert_element(undefined, builder.bitcast(bits, F32), I32(0))
    scale = builder.shuffle_vector(one, undefined, splat(_WORDS, 0))
    values = _rounded(builder, builder.fmul(ir.Constant(_FLOATS, _VALUES), scale))
    twice = ir.Constant(ir.VectorType(I32, LANES), [*range(_NUM_CODES), *range(_NUM_CODES)])
    return builder.shuffle_vector(values, values, twice)


def _generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    codes, scales, row, out, target = values
    kinds = signature.args
    source, factors = Row(context, builder, kinds[0], codes, row), Row(context, builder, kinds[1], scales, row)
    to = Row(context, builder, kinds[3], out, target)
    look_up = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(WIDE, (WIDE, WIDE)), "llvm.x86.avx512.permvar.hi.512"
    )
    scale_at = builder.bitcast(factors.at, I16.as_pointer())
    half = VECTOR_GROUP // 2
    with cgutils.for_range(builder, factors.width) as loop:
        table = _table(builder, builder.gep(scale_at, [loop.index]))
        begin = builder.gep(source.at, [builder.mul(loop.index, I64(half))])
        place = builder.gep(to.at, [builder.mul(loop.index, I64(2 * VECTOR_GROUP))])
        for start in range(0, half, LANES):
            pairs = builder.zext(load(builder, builder.gep(begin, [I64(start)]), CODES, 1), WIDE)
            for first, index in ((start, pairs), (start + half, builder.lshr(pairs, splat(WIDE, 4)))):
                pointer = builder.bitcast(builder.gep(place, [I64(2 * first)]), WIDE.as_pointer())
                builder.store(builder.call(look_up, [table, index]), pointer, align=2)
    return context.get_dummy_value()


def _signature(_context: Any, codes: Any, scales: Any, row: Any, out: Any, target: Any) -> Any:
    return types.void(codes, scales, types.int64, out, types.int64), _generate


look_up_row: Any = intrinsic(_signature)
"""Inside a kernel: `look_up_row(codes, scales, row, out, target)` unpacks a row of 4-bit codes (uint8 [rows, in / 2])
in groups of 128 with bf16 scales (bits uint16 [rows, groups]) to a row of out, bf16 bits (uint16 [rows, in]); all
contiguous. Nothing is checked."""
