"""A linear map for few rows: bound by reading the weight, so each weight row is read once for all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from kodkod_engine.kernels.bf16 import (
    FAST_MATH,
    INSIDE,
    KERNEL_OPTIONS,
    SERIAL_OPTIONS,
    VALUES_PER_LINE,
    bits_of,
    fetch,
    lock,
    widen,
)

AHEAD = 8
"""Weight rows by which memory is asked beforehand."""


def reference(x: Tensor, weight: Tensor) -> Tensor:
    """x times weight transposed, summed in fp32: [rows, in] x [out, in] -> [rows, out], x's dtype."""
    return (x.float() @ weight.float().t()).to(x.dtype)


@njit(fastmath=FAST_MATH, inline="always", cache=True)
def _four_by_four(weight: Any, o: int, x: Any, row: int, out: Any) -> None:
    """Weight rows o to o + 3 with rows row to row + 3 of x: sixteen sums from eight readings."""
    a = b = c = d = e = f = g = h = i = j = m = n = p = q = r = s = np.float32(0)
    for k in range(weight.shape[1]):
        first, second, third, fourth = x[row, k], x[row + 1, k], x[row + 2, k], x[row + 3, k]
        value = widen(weight[o, k])
        a, b, c, d = a + value * first, b + value * second, c + value * third, d + value * fourth
        value = widen(weight[o + 1, k])
        e, f, g, h = e + value * first, f + value * second, g + value * third, h + value * fourth
        value = widen(weight[o + 2, k])
        i, j, m, n = i + value * first, j + value * second, m + value * third, n + value * fourth
        value = widen(weight[o + 3, k])
        p, q, r, s = p + value * first, q + value * second, r + value * third, s + value * fourth
    out[row, o], out[row + 1, o], out[row + 2, o], out[row + 3, o] = a, b, c, d
    out[row, o + 1], out[row + 1, o + 1], out[row + 2, o + 1], out[row + 3, o + 1] = e, f, g, h
    out[row, o + 2], out[row + 1, o + 2], out[row + 2, o + 2], out[row + 3, o + 2] = i, j, m, n
    out[row, o + 3], out[row + 1, o + 3], out[row + 2, o + 3], out[row + 3, o + 3] = p, q, r, s


@njit(fastmath=FAST_MATH, inline="always", cache=True)
def _four_by_one(weight: Any, o: int, x: Any, row: int, out: Any) -> None:
    """Weight rows o to o + 3 with one row of x: four streams of memory at a time."""
    a = b = c = d = np.float32(0)
    for k in range(weight.shape[1]):
        value = x[row, k]
        a += widen(weight[o, k]) * value
        b += widen(weight[o + 1, k]) * value
        c += widen(weight[o + 2, k]) * value
        d += widen(weight[o + 3, k]) * value
    out[row, o], out[row, o + 1], out[row, o + 2], out[row, o + 3] = a, b, c, d


@njit(fastmath=FAST_MATH, inline="always", cache=True)
def one_by_one(weight: Any, x: Any) -> Any:
    """Inside a kernel: one weight row [in] with one row [in]."""
    total = np.float32(0)
    for k in range(weight.shape[0]):
        total += widen(weight[k]) * x[k]
    return total


@njit(**KERNEL_OPTIONS, **INSIDE)
def _by_fours(weight: Any, x: Any, out: Any) -> None:
    """Four weight rows at a time, those of the next job but one asked for beforehand."""
    rows, outputs = x.shape[0], weight.shape[0]
    fours = outputs // 4
    for four in prange(fours):
        o = 4 * four
        ahead = min(o + AHEAD, outputs - 4)
        for r in range(4):
            for k in range(0, weight.shape[1], VALUES_PER_LINE):
                fetch(weight, (ahead + r, k))
        row = 0
        while rows - row >= 4:
            _four_by_four(weight, o, x, row, out)
            row += 4
        while row < rows:
            _four_by_one(weight, o, x, row, out)
            row += 1
    for o in range(4 * fours, outputs):
        for row in range(rows):
            out[row, o] = one_by_one(weight[o], x[row])


@njit(**KERNEL_OPTIONS, **INSIDE)
def _by_ones(weight: Any, x: Any, out: Any) -> None:
    """Each weight row with each row."""
    for o in prange(weight.shape[0]):
        for row in range(x.shape[0]):
            out[row, o] = one_by_one(weight[o], x[row])


@njit(**SERIAL_OPTIONS)
def _kernel(weight: Any, x: Any, out: Any) -> None:
    # While a weight row meets its second and third row, memory brings the next one unasked.
    if x.shape[0] == 2 or x.shape[0] == 3:
        _by_ones(weight, x, out)
    else:
        _by_fours(weight, x, out)


def thin_linear(x: Tensor, weight: Tensor) -> Tensor:
    """See `reference`.

    Args:
        x: bf16 [rows, in].
        weight: bf16 [out, in], contiguous, on the host.
    """
    wide = x.float().contiguous()
    out = torch.empty(x.shape[0], weight.shape[0])
    with lock:
        _kernel(bits_of(weight), wide.numpy(), out.numpy())
    return out.to(x.dtype)
