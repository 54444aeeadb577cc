"""Pieces of LLVM vector code that the dot products with packed weights share."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

LANES = 32
"""16-bit values multiplied at a time; narrower processors split the vector."""

VECTOR_GROUP = 128
"""The group size the vector code is made for."""

MAX_TOKENS = 4
"""Rows of activations that share one unpacking of a weight."""

BYTES_AHEAD = 8192
"""How far ahead of its use a weight is asked for. Processors fetch ahead by themselves, but not across the end of a
page of 4 KiB, where they wait anew: one thread reads 4-bit weights at 36.9 GB/s with it, 31.4 without (Zen 5)."""

_LINE_BYTES = 64
_TO_L1 = (0, 3, 1)
"""Arguments of LLVM's prefetch: for reading, wanted close, data."""

I8, I16, I32, I64, F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
CODES, WIDE, PRODUCTS = (ir.VectorType(element, LANES) for element in (I8, I16, I32))


class _BFloat(ir.Type):  # type: ignore[misc]  # llvmlite is untyped, and has no bf16
    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash("bfloat")


BF16S, SUMS = ir.VectorType(_BFloat(), LANES), ir.VectorType(F32, LANES // 2)
"""What the instruction for bf16 products takes, and where it adds the products of neighbours."""


def declared(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """LLVM's function of that name, to be called."""
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def multiply_add(builder: Any) -> Any:
    """The instruction for bf16 products: (sums, numbers, numbers) -> sums."""
    return declared(builder, "llvm.x86.avx512bf16.dpbf16ps.512", SUMS, SUMS, BF16S, BF16S)


def splat(kind: Any, value: float) -> Any:
    """A constant in every lane of a vector type."""
    return ir.Constant(kind, [value] * kind.count)


def load(builder: Any, pointer: Any, kind: Any, align: int) -> Any:
    """A vector from a byte pointer, aligned to so many bytes."""
    return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=align)


def fetch_ahead(builder: Any, pointer: Any, num_bytes: int) -> None:
    """Ask memory for what lies `BYTES_AHEAD` of some bytes at a byte pointer; past a matrix's end that does nothing."""
    prefetch = declared(builder, "llvm.prefetch.p0", ir.VoidType(), I8.as_pointer(), I32, I32, I32)
    for start in range(0, num_bytes, _LINE_BYTES):
        line = builder.gep(pointer, [I64(start + BYTES_AHEAD)])
        builder.call(prefetch, [line, *(I32(number) for number in _TO_L1)])


def carry(builder: Any, before: Any, values: list[tuple[Any, Any, Any]]) -> None:
    """What each value of a loop is when it comes from the block before, and when from here: (phi, first, following)."""
    for own, first, following in values:
        own.add_incoming(first, before)
        own.add_incoming(following, builder.block)


def sum_lanes(builder: Any, vector: Any) -> Any:
    """All lanes of a vector of floats added."""
    total = builder.extract_element(vector, I32(0))
    for lane in range(1, vector.type.count):
        total = builder.fadd(total, builder.extract_element(vector, I32(lane)), flags=("reassoc",))
    return total


class Row:
    """A row of a contiguous matrix that a kernel was given, as a byte pointer."""

    def __init__(self, context: Any, builder: Any, kind: Any, value: Any, row: Any) -> None:
        array = context.make_array(kind)(context, builder, value)
        self.width = cgutils.unpack_tuple(builder, array.shape, kind.ndim)[1]
        self.stride, self.step = cgutils.unpack_tuple(builder, array.strides, kind.ndim)[:2]
        start = builder.bitcast(array.data, I8.as_pointer())
        self.at = builder.gep(start, [builder.mul(row, self.stride)])
