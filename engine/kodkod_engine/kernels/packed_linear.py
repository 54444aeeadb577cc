"""A linear map with packed weights for few rows: bound by reading the codes, each read once for all rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit, prange
from numba.extending import overload
from torch import Tensor

from kodkod_engine.kernels.bf16 import INFINITY, INSIDE, KERNEL_OPTIONS, MAGNITUDE, SERIAL_OPTIONS, bits_of, lock, widen
from kodkod_engine.kernels.fp8_dot import converts_halves, fp8_dots, plain_fp8_dot
from kodkod_engine.kernels.packed_dot import row_dots
from kodkod_engine.kernels.packing import unpack, unpack_fp8
from kodkod_engine.kernels.vector_code import MAX_TOKENS, VECTOR_GROUP

OUTPUTS_PER_JOB = 16
HIGHEST = 32767


class Nibbles128(NamedTuple):
    """A 4-bit matrix in groups of 128: the type by which kernels choose their code."""

    codes: Any
    """uint8 [out, in / 2]."""
    scales: Any
    """bf16 bits [out, groups]."""


class NibblesAny(NamedTuple):
    """A 4-bit matrix in groups of any other size."""

    codes: Any
    scales: Any


class Bytes128(NamedTuple):
    """An 8-bit matrix in groups of 128; codes uint8 bits [out, in]."""

    codes: Any
    scales: Any


class BytesAny(NamedTuple):
    """An 8-bit matrix in groups of any other size."""

    codes: Any
    scales: Any


class Fp8Blocks128(NamedTuple):
    """An e4m3 matrix in groups of 128; codes uint8 bits [out, in]."""

    codes: Any
    scales: Any
    """fp32 [blocks of rows, groups]."""
    row_block: Any
    """Rows that share a scale."""


class Fp8BlocksAny(NamedTuple):
    """An e4m3 matrix in groups of any other size."""

    codes: Any
    scales: Any
    row_block: Any


Integers = Nibbles128 | NibblesAny | Bytes128 | BytesAny
Packed = Integers | Fp8Blocks128 | Fp8BlocksAny

KINDS: dict[tuple[int, int], type[Integers]] = {(4, VECTOR_GROUP): Nibbles128, (8, VECTOR_GROUP): Bytes128}
_BY_KIND: dict[Any, tuple[int, int]] = {kind: key for key, kind in KINDS.items()} | {
    NibblesAny: (4, 0),
    BytesAny: (8, 0),
}


def packed_arrays(codes: Tensor, scales: Tensor, bits: int, row_block: int = 1) -> Packed:
    """A packed matrix as a kernel takes it, without a copy; leading dimensions become one with the rows.

    In a stack of FP8 matrices each has whole blocks of rows.
    """
    group = codes.shape[-1] * 8 // bits // scales.shape[-1]
    if codes.dtype == torch.float8_e4m3fn:
        is_vector = group == VECTOR_GROUP and converts_halves()
        fp8 = Fp8Blocks128 if is_vector else Fp8BlocksAny
        return fp8(codes.view(torch.uint8).flatten(0, -2).numpy(), scales.flatten(0, -2).numpy(), np.int64(row_block))
    kind = KINDS.get((bits, group), NibblesAny if bits == 4 else BytesAny)
    return kind(codes.view(torch.uint8).flatten(0, -2).numpy(), bits_of(scales.flatten(0, -2)))


def reference(x: Tensor, codes: Tensor, scales: Tensor, bits: int, row_block: int = 1) -> Tensor:
    """x times the unpacked weight transposed, in fp32: [rows, in] -> [rows, out], x's dtype.

    See `packing.pack`, and `packing.pack_fp8` for codes that are e4m3.
    """
    is_fp8 = codes.dtype == torch.float8_e4m3fn
    weight = unpack_fp8(codes, scales, row_block) if is_fp8 else unpack(codes, scales, bits)
    return (x.float() @ weight.t()).to(x.dtype)


@njit(**SERIAL_OPTIONS, **INSIDE)
def narrow(x: Any, out: Any, factors: Any) -> None:
    """Rows fp32 [rows, in] as int16 and one factor each; a row that is not finite gets the factor NaN."""
    patterns = x.view(np.uint32)
    for row in range(x.shape[0]):
        highest, largest = np.float32(0), np.uint32(0)
        for i in range(x.shape[1]):
            highest = max(highest, abs(x[row, i]))
            largest = max(largest, patterns[row, i] & MAGNITUDE)
        is_finite = largest < INFINITY
        factors[row] = highest / np.float32(HIGHEST) if is_finite else np.float32(np.nan)
        inverse = np.float32(HIGHEST) / highest if highest > 0 else np.float32(0)
        for i in range(x.shape[1]):
            out[row, i] = np.int16(np.rint(x[row, i] * inverse)) if is_finite else np.int16(0)


@njit(**SERIAL_OPTIONS, **INSIDE)
def _nibble(code: Any, is_high: bool) -> Any:
    value = np.int32(code >> 4) if is_high else np.int32(code & 15)
    return value - 16 if value > 7 else value


def _plain_dot(bits: int) -> Any:
    """Any group size, one row; for small models."""

    @njit(**SERIAL_OPTIONS, **INSIDE)
    def dot(codes: Any, scales: Any, o: Any, x: Any, token: Any) -> Any:
        group = x.shape[1] // scales.shape[1]
        total = np.float32(0)
        for g in range(scales.shape[1]):
            whole = np.int32(0)
            if bits == 4:
                for j in range(group // 2):
                    code = codes[o, g * (group // 2) + j]
                    low, high = _nibble(code, False), _nibble(code, True)
                    whole += low * x[token, g * group + j] + high * x[token, g * group + group // 2 + j]
            else:
                for i in range(g * group, (g + 1) * group):
                    whole += np.int32(np.int8(codes[o, i])) * x[token, i]
            total += np.float32(whole) * widen(scales[o, g])
        return total

    return dot


_PLAIN = {bits: _plain_dot(bits) for bits in (4, 8)}


def dot_one(weight: Any, o: Any, x: Any, token: Any) -> Any:
    """Inside a kernel: weight row o with one row of x."""
    raise NotImplementedError("for compiled code alone")


def dot_two(weight: Any, o: Any, x: Any, token: Any) -> Any:
    """Inside a kernel: weight row o with two rows of x."""
    raise NotImplementedError("for compiled code alone")


def dot_three(weight: Any, o: Any, x: Any, token: Any) -> Any:
    """Inside a kernel: weight row o with three rows of x."""
    raise NotImplementedError("for compiled code alone")


def dot_four(weight: Any, o: Any, x: Any, token: Any) -> Any:
    """Inside a kernel: weight row o with four rows of x."""
    raise NotImplementedError("for compiled code alone")


def _key_of(weight: Any) -> tuple[int, int] | None:
    """Bits and group of a kernel argument of integers; None when it is none."""
    return _BY_KIND.get(getattr(weight, "instance_class", None))


def _fp8_kind_of(weight: Any) -> Any:
    kind = getattr(weight, "instance_class", None)
    return kind if kind in (Fp8Blocks128, Fp8BlocksAny) else None


def _dot_of(weight: Any, num_tokens: int) -> Any:
    """The code for a weight's numba type; None for what is none, or has code for single rows alone."""
    key, kind = _key_of(weight), _fp8_kind_of(weight)
    is_vector = kind is Fp8Blocks128 or (key is not None and key[1] == VECTOR_GROUP)
    if kind is not None:
        fp8_dot = fp8_dots[num_tokens] if is_vector else plain_fp8_dot

        def of_fp8(weight, o, x, token):  # type: ignore[no-untyped-def]
            return fp8_dot(weight.codes, weight.scales, o, o // weight.row_block, x, token)

        return of_fp8 if is_vector or num_tokens == 1 else None
    if key is None or not (is_vector or num_tokens == 1):
        return None
    dot = row_dots[num_tokens, key[0]] if is_vector else _PLAIN[key[0]]

    def of_integers(weight, o, x, token):  # type: ignore[no-untyped-def]
        return dot(weight.codes, weight.scales, o, x, token)

    return of_integers


def _is_packed(weight: Any) -> bool:
    return _key_of(weight) is not None or _fp8_kind_of(weight) is not None


@overload(dot_one, inline="never", jit_options=SERIAL_OPTIONS)
def _dot_one(weight, o, x, token):  # type: ignore[no-untyped-def]  # numba compares signatures
    return _dot_of(weight, 1)


@overload(dot_two, inline="never", jit_options=SERIAL_OPTIONS)
def _dot_two(weight, o, x, token):  # type: ignore[no-untyped-def]  # numba compares signatures
    def one_by_one(weight, o, x, token):  # type: ignore[no-untyped-def]
        return dot_one(weight, o, x, token), dot_one(weight, o, x, token + 1)

    return _dot_of(weight, 2) or (one_by_one if _is_packed(weight) else None)


@overload(dot_three, inline="never", jit_options=SERIAL_OPTIONS)
def _dot_three(weight, o, x, token):  # type: ignore[no-untyped-def]  # numba compares signatures
    def one_by_one(weight, o, x, token):  # type: ignore[no-untyped-def]
        return dot_one(weight, o, x, token), dot_one(weight, o, x, token + 1), dot_one(weight, o, x, token + 2)

    return _dot_of(weight, 3) or (one_by_one if _is_packed(weight) else None)


@overload(dot_four, inline="never", jit_options=SERIAL_OPTIONS)
def _dot_four(weight, o, x, token):  # type: ignore[no-untyped-def]  # numba compares signatures
    def one_by_one(weight, o, x, token):  # type: ignore[no-untyped-def]
        return (
            dot_one(weight, o, x, token),
            dot_one(weight, o, x, token + 1),
            dot_one(weight, o, x, token + 2),
            dot_one(weight, o, x, token + 3),
        )

    return _dot_of(weight, MAX_TOKENS) or (one_by_one if _is_packed(weight) else None)


@njit(**KERNEL_OPTIONS, **INSIDE)
def _kernel(weight: Any, x: Any, factors: Any, out: Any) -> None:
    rows, outputs = out.shape
    for job in prange((outputs + OUTPUTS_PER_JOB - 1) // OUTPUTS_PER_JOB):
        for o in range(job * OUTPUTS_PER_JOB, min(outputs, (job + 1) * OUTPUTS_PER_JOB)):
            row = 0
            while rows - row >= MAX_TOKENS:
                a, b, c, d = dot_four(weight, o, x, row)
                out[row, o] = a * factors[row]
                out[row + 1, o] = b * factors[row + 1]
                out[row + 2, o] = c * factors[row + 2]
                out[row + 3, o] = d * factors[row + 3]
                row += MAX_TOKENS
            if rows - row == 3:
                a, b, c = dot_three(weight, o, x, row)
                out[row, o] = a * factors[row]
                out[row + 1, o] = b * factors[row + 1]
                out[row + 2, o] = c * factors[row + 2]
            elif rows - row == 2:
                a, b = dot_two(weight, o, x, row)
                out[row, o] = a * factors[row]
                out[row + 1, o] = b * factors[row + 1]
            elif rows > row:
                out[row, o] = dot_one(weight, o, x, row) * factors[row]


@njit(**SERIAL_OPTIONS)
def multiply(weight: Any, x: Any, out: Any) -> None:
    """Inside a kernel: as `packed_linear` on arrays."""
    codes = np.empty(x.shape, np.int16)
    factors = np.empty(x.shape[0], np.float32)
    narrow(x, codes, factors)
    _kernel(weight, codes, factors, out)


def packed_linear(x: Tensor, codes: Tensor, scales: Tensor, bits: int, row_block: int = 1) -> Tensor:
    """See `reference`; the weight contiguous, on the host. A row with an infinity or NaN comes out as NaN."""
    wide = x.float().contiguous()
    out = torch.empty(x.shape[0], codes.shape[0])
    with lock:
        multiply(packed_arrays(codes, scales, bits, row_block), wide.numpy(), out.numpy())
    return out.to(x.dtype)
