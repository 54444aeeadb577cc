"""A linear map for few rows and some dozen, on processors that multiply bf16 in vectors.

Products of single rows unpack a packed weight anew for every one of them, or every few; torch wants it unpacked in
memory. Here a weight row is read once, made bf16 in registers if it is not, and multiplied with up to six rows of
activations (`thin_products.py`). A row's result is the same in any company.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import get_num_threads, njit
from torch import Tensor

from kodkod_engine.kernels import tiled_linear
from kodkod_engine.kernels.bf16 import INSIDE, SERIAL_OPTIONS, bits_of, lock
from kodkod_engine.kernels.expert_rows import Weight
from kodkod_engine.kernels.in_parts import in_parts
from kodkod_engine.kernels.inside import inside
from kodkod_engine.kernels.thin_products import MAX_THIN_TOKENS, most_tokens, products, takes_thin_products
from kodkod_engine.kernels.tile_products import has_tile_products
from kodkod_engine.kernels.unpack_bf16 import narrow

COLUMNS = 16
"""Outputs at a time: their weights stay in the second level cache while all rows meet them."""

MIN_PLAIN_VALUES = 1 << 20
"""Of a bf16 matrix: smaller ones lie in cache, where products in fp32 of what is not rounded first cost nothing."""

reference = tiled_linear.reference
"""Of the unpacked weight."""


def takes_few_rows(weight: Any) -> bool:
    """Whether this kernel has code for a packed matrix, or bf16 bits, here."""
    is_small = isinstance(weight, np.ndarray) and weight.size < MIN_PLAIN_VALUES
    return has_tile_products() and takes_thin_products(weight) and not is_small


@inside
def _add_last_outputs(weight: Any, x: Any, groups: Any, order: Any, out: Any) -> None:
    """`add_outputs` of those that fill no block, one by one."""
    hit, starts, rows = groups
    outputs = out.shape[1]
    sums = np.empty((2 * MAX_THIN_TOKENS, 1), np.float32)
    for place in range(len(hit)):
        for output in range(outputs - outputs % COLUMNS, outputs):
            row = hit[place] * outputs + output
            for pair in range(starts[place], starts[place + 1]):
                products(weight, (row, row, 0), x, order, pair, 1, sums)
                out[rows[pair], output] += sums[0, 0]


@in_parts
def add_outputs(weight: Any, x: Any, groups: Any, order: Any, out: Any, parts: int, part: int) -> None:
    """Add products with some matrices of a stack to rows of out.

    Args:
        weight: the rows of all matrices, [matrices * outputs, in].
        x: bf16 bits [pairs, in].
        groups: which matrices are taken [n], the first pair of each [n + 1], and each pair's row of out [pairs].
        order: the numbers of all pairs.
        out: fp32 [rows, outputs].
        parts: threads; each owns some outputs.
    """
    hit, starts, rows = groups
    outputs, most = out.shape[1], most_tokens(weight)
    blocks = outputs // COLUMNS
    sums = np.empty((2 * MAX_THIN_TOKENS, COLUMNS // 2), np.float32)
    for place in range(len(hit)):
        row, count = hit[place] * outputs, starts[place + 1] - starts[place]
        pieces = (count + most - 1) // most
        for begin in range(COLUMNS * (blocks * part // parts), COLUMNS * (blocks * (part + 1) // parts), COLUMNS):
            for piece in range(pieces):
                pair = starts[place] + count * piece // pieces
                num_pairs = starts[place] + count * (piece + 1) // pieces - pair
                products(weight, (row + begin, row + begin + 1, 2), x, order, pair, num_pairs, sums)
                for i in range(num_pairs):
                    target = out[rows[pair + i], begin : begin + COLUMNS]
                    for c in range(COLUMNS // 2):
                        target[2 * c] += sums[i, c]
                        target[2 * c + 1] += sums[MAX_THIN_TOKENS + i, c]
    if part == parts - 1:
        _add_last_outputs(weight, x, groups, order, out)


@njit(**SERIAL_OPTIONS, **INSIDE)
def narrowed(x: Any) -> Any:
    """Inside a kernel: rows of fp32, contiguous, as bf16 bits."""
    bits = np.empty(x.shape, np.uint16)
    for row in range(x.shape[0]):
        source, target = x[row], bits[row]
        for i in range(len(source)):
            target[i] = narrow(source[i])
    return bits


@inside
def multiply(weight: Any, x: Any, out: Any, parts: int) -> None:
    """Inside a kernel, of a weight that `takes_few_rows`: x fp32 [rows, in] -> out fp32 [rows, outputs]."""
    out[:] = np.float32(0)
    groups = np.zeros(1, np.int64), np.array([0, len(x)]), np.arange(len(x))
    add_outputs(weight, narrowed(x), groups, np.arange(len(x)), out, parts)


@njit(**SERIAL_OPTIONS)
def _kernel(weight: Any, x: Any, out: Any, parts: int) -> None:
    multiply(weight, x, out, parts)


def few_rows(x: Tensor, weight: Weight, outputs: int) -> Tensor:
    """See `reference`: fp32 or bf16 [rows, in] -> [rows, outputs]; a weight that `takes_few_rows`."""
    # Nothing of it is torch's to fill or convert: its threads would then wait for more on the cores that ours need.
    wide, out = x.float().contiguous(), torch.empty(len(x), outputs)
    own = bits_of(weight) if isinstance(weight, Tensor) else weight
    with lock:
        _kernel(own, wide.numpy(), out.numpy(), min(torch.get_num_threads(), get_num_threads()))
    return out.to(x.dtype)
