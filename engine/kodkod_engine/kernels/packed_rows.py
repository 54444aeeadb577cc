"""A linear map with packed weights for some dozen rows, on processors that multiply bf16 in vectors.

Products of single rows unpack a weight anew for every few of them; torch wants it unpacked in memory. Here two weight
rows at a time are unpacked in registers and multiplied with up to six rows of activations (`thin_products.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numba import get_num_threads, njit, prange
from torch import Tensor

from kodkod_engine.kernels import tiled_linear
from kodkod_engine.kernels.bf16 import KERNEL_OPTIONS, bits_of, lock
from kodkod_engine.kernels.bf16_tiles import has_tile_products
from kodkod_engine.kernels.packed_linear import Packed
from kodkod_engine.kernels.thin_products import MAX_THIN_TOKENS, products, takes_thin_products

COLUMNS = 16
"""Outputs at a time: their weights stay in the second level cache while all rows meet them."""

reference = tiled_linear.reference
"""Of the unpacked weight."""


def takes_packed_rows(weight: Packed, shape: Sequence[int]) -> bool:
    """Whether this kernel has code for a matrix [out, in], here."""
    return has_tile_products() and takes_thin_products(weight) and shape[0] % COLUMNS == 0


@njit(**KERNEL_OPTIONS)
def add_outputs(weight: Any, x: Any, groups: Any, order: Any, out: Any, parts: int) -> None:
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
    outputs = out.shape[1]
    blocks = outputs // COLUMNS
    for part in prange(parts):
        sums = np.empty((2 * MAX_THIN_TOKENS, COLUMNS // 2), np.float32)
        for place in range(len(hit)):
            row, count = hit[place] * outputs, starts[place + 1] - starts[place]
            pieces = (count + MAX_THIN_TOKENS - 1) // MAX_THIN_TOKENS
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


def packed_rows(x: Tensor, weight: Packed, outputs: int) -> Tensor:
    """See `reference`: fp32 or bf16 [rows, in] -> [rows, outputs]; a weight that `takes_packed_rows`."""
    out, order = torch.zeros(len(x), outputs), np.arange(len(x))
    groups = np.zeros(1, np.int64), np.array([0, len(x)]), order
    with lock:
        parts = min(torch.get_num_threads(), get_num_threads())
        add_outputs(weight, bits_of(x.bfloat16().contiguous()), groups, order, out.numpy(), parts)
    return out.to(x.dtype)
