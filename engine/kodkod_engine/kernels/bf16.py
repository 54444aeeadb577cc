"""bf16 numbers inside numba kernels, which know no such type: 16 bits, widened to fp32 where they are read."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.cpu_options import ParallelOptions
from numba.extending import intrinsic, overload
from torch import Tensor

from kodkod_engine.kernels.kept_code import stamp_by_all_sources

stamp_by_all_sources()

FAST_MATH = {"reassoc", "contract", "nsz", "arcp"}
"""Sums may be reordered, so that they vectorise; infinities and NaN keep their meaning."""

# Sums, copies and fills of arrays in a parallel kernel would be loops on threads of their own, compiled one by one.
_NOT_PARALLEL = ("comprehension", "reduction", "inplace_binop", "setitem", "numpy", "stencil", "fusion")
_PRANGE_ALONE = ParallelOptions(dict.fromkeys(_NOT_PARALLEL, False))

KERNEL_OPTIONS: dict[str, Any] = {
    "parallel": _PRANGE_ALONE,
    "nogil": True,
    "fastmath": FAST_MATH,
    "cache": True,
    "boundscheck": False,
    "no_cfunc_wrapper": True,
}
SERIAL_OPTIONS: Any = {name: value for name, value in KERNEL_OPTIONS.items() if name != "parallel"}
"""Of what kernels call. One of both is stated for every function: what it left open numba would take from whoever calls
it first, and keep on disk for all others."""

INSIDE: Any = {"no_cpython_wrapper": True}
"""Beside either, of what other kernels call alone: without code for calls from Python it is compiled sooner."""

MAGNITUDE, INFINITY = np.uint32(0x7FFFFFFF), np.uint32(0x7F800000)
"""Bits of a fp32 number without its sign, and those of an infinity: what is larger is no number. Kernels tell it so,
for what x - x makes of NaN is lost where sums may be reordered."""

_TO_L2 = (0, 1, 1)
"""Arguments of LLVM's prefetch: for reading, wanted in the second level cache, data."""

VALUES_PER_LINE = 32
"""bf16 values in a cache line of 64 bytes."""

lock = threading.Lock()
"""Held while a kernel runs: one of numba's thread pools must not be entered twice."""


def _widen(_context: Any, bits: Any) -> Any:
    def generate(_target: Any, builder: Any, _signature: Any, values: Any) -> Any:
        word = ir.IntType(32)
        shifted = builder.shl(builder.zext(values[0], word), ir.Constant(word, 16))
        return builder.bitcast(shifted, ir.FloatType())

    return types.float32(bits), generate


widen: Any = intrinsic(_widen)
"""Inside a kernel: the fp32 value whose upper half is these 16 bits, uint16 -> float32."""


def _fetch(_context: Any, array: Any, place: Any) -> Any:
    def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind, places = signature.args[0], cgutils.unpack_tuple(builder, values[1])
        structure = target.make_array(kind)(target, builder, values[0])
        pointer = cgutils.get_item_pointer(target, builder, kind, structure, places)
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        declared = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, declared, "llvm.prefetch.p0")
        builder.call(function, [builder.bitcast(pointer, byte), *(ir.Constant(word, number) for number in _TO_L2)])
        return target.get_dummy_value()

    return types.void(array, place), generate


fetch: Any = intrinsic(_fetch)
"""Inside a kernel: ask memory for the cache line with array[place], a tuple of integers, while other lines are used."""


def as_float(value: Any) -> Any:
    """Inside a kernel: a weight as fp32, whether it is kept as fp32 or as bf16 bits."""
    raise NotImplementedError("for compiled code alone")


@overload(as_float, inline="always")
def _as_float(value):  # type: ignore[no-untyped-def]  # numba compares signatures
    if isinstance(value, types.Integer):
        return lambda value: widen(value)  # noqa: PLW0108  # numba compiles functions of its own, no intrinsics
    return lambda value: value


def float_or_bits(tensor: Tensor) -> Any:
    """A weight for `as_float`: bf16 as bits, anything else as fp32."""
    return bits_of(tensor) if tensor.dtype == torch.bfloat16 else tensor.detach().float().numpy()


def bits_of(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """A contiguous bf16 tensor as numpy bits, without a copy."""
    bits: np.ndarray[Any, np.dtype[np.uint16]] = tensor.detach().view(torch.uint16).numpy()
    return bits
