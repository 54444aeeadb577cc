"""Packed weights as bf16, for products of many rows that a processor's library does: bound by writing them."""

from __future__ import annotations

from typing import Any

import torch
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic, overload
from torch import Tensor

from kodkod_engine.kernels.bf16 import INSIDE, KERNEL_OPTIONS, SERIAL_OPTIONS, bits_of, lock, widen
from kodkod_engine.kernels.nibble_table import has_lookup, look_up_row
from kodkod_engine.kernels.packed_linear import Fp8Blocks128, Fp8BlocksAny, Nibbles128, NibblesAny, packed_arrays
from kodkod_engine.kernels.packing import unpack, unpack_fp8


def _narrow(_context: Any, value: Any) -> Any:
    def generate(_target: Any, builder: Any, _signature: Any, values: Any) -> Any:
        word, half = ir.IntType(32), ir.IntType(16)
        bits = builder.bitcast(values[0], word)
        upper = builder.lshr(bits, ir.Constant(word, 16))
        is_odd = builder.and_(upper, ir.Constant(word, 1))
        rounded = builder.lshr(builder.add(builder.add(bits, is_odd), ir.Constant(word, 0x7FFF)), ir.Constant(word, 16))
        is_number = builder.fcmp_ordered("ord", values[0], values[0])
        return builder.trunc(builder.select(is_number, rounded, ir.Constant(word, 0x7FC0)), half)

    return types.uint16(types.float32), generate


narrow: Any = intrinsic(_narrow)
"""Inside a kernel: the nearest bf16 number's bits, float32 -> uint16; of two as near the even one."""


def _widen_e4m3(_context: Any, code: Any) -> Any:
    def generate(_target: Any, builder: Any, _signature: Any, values: Any) -> Any:
        word, number = ir.IntType(32), ir.FloatType()
        bits = builder.zext(values[0], word)
        sign = builder.shl(builder.and_(bits, ir.Constant(word, 0x80)), ir.Constant(word, 24))
        rest = builder.and_(bits, ir.Constant(word, 0x7F))
        normal = builder.add(builder.shl(rest, ir.Constant(word, 20)), ir.Constant(word, 120 << 23))
        tiny = builder.bitcast(builder.fmul(builder.uitofp(rest, number), ir.Constant(number, 2.0**-9)), word)
        is_tiny = builder.icmp_unsigned("<", rest, ir.Constant(word, 8))
        return builder.bitcast(builder.or_(sign, builder.select(is_tiny, tiny, normal)), number)

    return types.float32(types.uint8), generate


widen_e4m3: Any = intrinsic(_widen_e4m3)
"""Inside a kernel: an e4m3 number, uint8 -> float32, as `packing.widen_fp8` reads it. No large factor leads to it:
products may be reordered here, and a factor of 2 to the 120 times a great scale is no number any more."""


def reference(codes: Tensor, scales: Tensor, bits: int, row_block: int = 1) -> Tensor:
    """`packing.unpack`, or `unpack_fp8` for codes that are e4m3, rounded: bf16 [out, in]."""
    is_fp8 = codes.dtype == torch.float8_e4m3fn
    return (unpack_fp8(codes, scales, row_block) if is_fp8 else unpack(codes, scales, bits)).bfloat16()


@njit(**SERIAL_OPTIONS, **INSIDE)
def _nibbles(codes: Any, scales: Any, out: Any) -> None:
    half = len(out) // len(scales) // 2
    for group in range(len(scales)):
        scale, start = widen(scales[group]), 2 * group * half
        source = codes[group * half : (group + 1) * half]
        low, high = out[start : start + half], out[start + half : start + 2 * half]
        for i in range(half):
            low[i] = narrow(types.float32(types.int8(source[i] << 4) >> 4) * scale)
        for i in range(half):
            high[i] = narrow(types.float32(types.int8(source[i]) >> 4) * scale)


@njit(**SERIAL_OPTIONS, **INSIDE)
def _bytes(codes: Any, scales: Any, out: Any) -> None:
    size = len(out) // len(scales)
    for group in range(len(scales)):
        scale, start = widen(scales[group]), group * size
        source, target = codes[start : start + size], out[start : start + size]
        for i in range(size):
            target[i] = narrow(types.float32(types.int8(source[i])) * scale)


@njit(**SERIAL_OPTIONS, **INSIDE)
def _fp8(codes: Any, scales: Any, out: Any) -> None:
    size = len(out) // len(scales)
    for group in range(len(scales)):
        scale, start = scales[group], group * size
        source, target = codes[start : start + size], out[start : start + size]
        for i in range(size):
            target[i] = narrow(widen_e4m3(source[i]) * scale)


def unpack_row(weight: Any, row: Any, out: Any, target: Any) -> None:
    """Inside a kernel: a row of a packed matrix (see `packed_arrays`) to a row of bf16 bits, uint16 [rows, in]."""
    raise NotImplementedError("for compiled code alone")


@overload(unpack_row, inline="never", jit_options=SERIAL_OPTIONS)
def _unpack_row(weight, row, out, target):  # type: ignore[no-untyped-def]  # numba compares signatures
    kind = getattr(weight, "instance_class", None)
    if kind is Nibbles128 and has_lookup():

        def look_up(weight, row, out, target):  # type: ignore[no-untyped-def]
            look_up_row(weight.codes, weight.scales, row, out, target)

        return look_up
    if kind in (Fp8Blocks128, Fp8BlocksAny):

        def unpack_fp8_row(weight, row, out, target):  # type: ignore[no-untyped-def]
            _fp8(weight.codes[row], weight.scales[row // weight.row_block], out[target])

        return unpack_fp8_row
    unpacked = _nibbles if kind in (Nibbles128, NibblesAny) else _bytes

    def unpack_integers(weight, row, out, target):  # type: ignore[no-untyped-def]
        unpacked(weight.codes[row], weight.scales[row], out[target])

    return unpack_integers


@njit(**KERNEL_OPTIONS)
def _kernel(weight: Any, out: Any) -> None:
    for row in prange(out.shape[0]):
        unpack_row(weight, row, out, row)


def unpack_bf16(codes: Tensor, scales: Tensor, bits: int, row_block: int, out: Tensor) -> None:
    """See `reference`; on the host, codes and scales contiguous.

    Args:
        codes, scales, bits, row_block: of one matrix; see `packing.pack` and `packing.pack_fp8`.
        out: bf16 [out, in], filled.
    """
    with lock:
        _kernel(packed_arrays(codes, scales, bits, row_block), bits_of(out))
