"""A group of packed codes as bf16 numbers in registers, for use inside numba kernels; its scale is left to the caller.

All codes of 4 and 8 bits are bf16 numbers exactly, so nothing is rounded. Codes of 4 bits and e4m3 ones are looked up,
32 and 64 at a time; those of 8-bit integers are converted, which is as quick.
"""

from __future__ import annotations

from typing import Any

import torch
from llvmlite import binding, ir

from kodkod_engine.kernels.packing import widen_fp8
from kodkod_engine.kernels.vector_code import (
    BF16S,
    CODES,
    I8,
    I32,
    I64,
    LANES,
    SUMS,
    VECTOR_GROUP,
    WIDE,
    declared,
    load,
    splat,
)

_BYTES = ir.VectorType(I8, 2 * LANES)
_EIGHTHS = ir.VectorType(I64, 8)
_SIGN = -0x80


def has_byte_lookup() -> bool:
    """Whether this processor looks up 64 bytes at once, among 128."""
    return bool(binding.get_host_cpu_features().get("avx512vbmi"))


def _bf16_bits(values: torch.Tensor) -> list[int]:
    return [bits & 0xFFFF for bits in values.bfloat16().view(torch.int16).tolist()]


_NIBBLES = _bf16_bits(torch.tensor([*range(8), *range(-8, 0)]))
_E4M3 = _bf16_bits(widen_fp8(torch.arange(128, dtype=torch.uint8).view(torch.float8_e4m3fn)))


def nibbles(builder: Any, base: Any) -> list[Any]:
    """Of 64 bytes at a pointer, as `packing.pack` lays them: the low halves come first."""
    look_up = declared(builder, "llvm.x86.avx512.permvar.hi.512", WIDE, WIDE, WIDE)
    # Twice: the fifth bit of an index, which belongs to the other half of its byte, does not matter then.
    table = ir.Constant(WIDE, _NIBBLES + _NIBBLES)
    pairs = [builder.zext(load(builder, builder.gep(base, [I64(at)]), CODES, 1), WIDE) for at in (0, LANES)]
    places = pairs + [builder.lshr(pair, splat(WIDE, 4)) for pair in pairs]
    return [builder.bitcast(builder.call(look_up, [table, place]), BF16S) for place in places]


def integers(builder: Any, base: Any) -> list[Any]:
    """Of 128 signed bytes at a pointer."""
    narrow = declared(builder, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", BF16S, SUMS, SUMS)
    half, words = ir.VectorType(I8, LANES // 2), ir.VectorType(I32, LANES // 2)
    floats = [
        builder.sitofp(builder.sext(load(builder, builder.gep(base, [I64(at)]), half, 1), words), SUMS)
        for at in range(0, VECTOR_GROUP, LANES // 2)
    ]
    return [builder.call(narrow, [high, low]) for low, high in zip(floats[::2], floats[1::2], strict=True)]


def e4m3(builder: Any, base: Any) -> list[Any]:
    """Of 128 e4m3 codes at a pointer, where `has_byte_lookup`; the two codes for NaN are +-480."""
    return [part for at in (0, 2 * LANES) for part in _e4m3(builder, builder.gep(base, [I64(at)]))]


def _e4m3(builder: Any, base: Any) -> list[Any]:
    """Of 64 codes: their bytes are looked up by all but the sign, and interleaved, which is done sixteen by sixteen."""
    eighths = load(builder, base, _EIGHTHS, 1)
    order = ir.Constant(ir.VectorType(I32, 8), [part for lane in range(4) for part in (lane, lane + 4)])
    codes = builder.bitcast(builder.shuffle_vector(eighths, eighths, order), _BYTES)
    signs = builder.and_(codes, splat(_BYTES, _SIGN))
    low, high = _looked_up(builder, codes, 0), builder.or_(_looked_up(builder, codes, 8), signs)
    return [builder.bitcast(_interleaved(builder, low, high, first), BF16S) for first in (0, 8)]


def _looked_up(builder: Any, codes: Any, shift: int) -> Any:
    """The low or high byte of each code's magnitude."""
    look_up = declared(builder, "llvm.x86.avx512.vpermi2var.qi.512", _BYTES, _BYTES, _BYTES, _BYTES)
    parts = [bits >> shift & 0xFF for bits in _E4M3]
    first, second = (ir.Constant(_BYTES, parts[at : at + 2 * LANES]) for at in (0, 2 * LANES))
    return builder.call(look_up, [first, codes, second])


def _interleaved(builder: Any, low: Any, high: Any, first: int) -> Any:
    """Eight bytes of either from place `first` of every sixteen, in turns."""
    places = [
        at for lane in range(0, 2 * LANES, 16) for i in range(lane + first, lane + first + 8) for at in (i, i + 64)
    ]
    return builder.shuffle_vector(low, high, ir.Constant(ir.VectorType(I32, 2 * LANES), places))
