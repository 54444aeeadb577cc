"""Packed experts with a few rows each, whole, on processors that multiply bf16 in vectors.

In a step of some dozen tokens an expert has two to six rows: too many for products of single rows, which unpack its
weights anew for every few of them, and too few for tiles of sixteen tokens. Here two weight rows at a time are unpacked
in registers and multiplied with up to six rows (`thin_products.py`). Every thread owns some outputs of all experts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import get_num_threads, njit, prange
from torch import Tensor

from kodkod_engine.kernels import expert_mix
from kodkod_engine.kernels.bf16 import FAST_MATH, KERNEL_OPTIONS, bits_of, lock
from kodkod_engine.kernels.bf16_tiles import has_tile_products
from kodkod_engine.kernels.packed_linear import Packed
from kodkod_engine.kernels.packed_rows import COLUMNS, add_outputs
from kodkod_engine.kernels.silu import silu
from kodkod_engine.kernels.thin_products import MAX_THIN_TOKENS, products, takes_thin_products
from kodkod_engine.kernels.unpack_bf16 import narrow

reference = expert_mix.reference
"""Activations are rounded to bf16 where this kernel multiplies them."""


def takes_thin_experts(gate_up: Packed, down: Packed) -> bool:
    """Whether this kernel has code for these matrices, here. They are whole: sizes are multiples of their groups."""
    return has_tile_products() and takes_thin_products(gate_up) and takes_thin_products(down)


@njit(fastmath=FAST_MATH, inline="always", cache=True)
def _activate(sums: Any, shares: Any, count: int, first: int, begin: int, inner: Any) -> None:
    """silu(gate) * up * share, bf16, of `COLUMNS` columns and `count` pairs from `first` on."""
    for i in range(count):
        gates, ups = sums[i], sums[MAX_THIN_TOKENS + i]
        out, share = inner[first + i, begin : begin + COLUMNS], shares[first + i]
        for c in range(COLUMNS):
            out[c] = narrow(silu(gates[c]) * ups[c] * share)


@njit(**KERNEL_OPTIONS)
def _gate_up(weight: Any, x: Any, groups: Any, shares: Any, inner: Any, parts: int) -> None:
    """What goes into the down projection: x [tokens, hidden] -> inner [pairs, width], both bf16 bits."""
    hit, starts, tokens = groups
    width = inner.shape[1]
    blocks = width // COLUMNS
    for part in prange(parts):
        sums = np.empty((2 * MAX_THIN_TOKENS, COLUMNS), np.float32)
        for place in range(len(hit)):
            row, count = hit[place] * 2 * width, starts[place + 1] - starts[place]
            pieces = (count + MAX_THIN_TOKENS - 1) // MAX_THIN_TOKENS
            for begin in range(COLUMNS * (blocks * part // parts), COLUMNS * (blocks * (part + 1) // parts), COLUMNS):
                for piece in range(pieces):
                    pair = starts[place] + count * piece // pieces
                    num_pairs = starts[place] + count * (piece + 1) // pieces - pair
                    rows = row + begin, row + width + begin, 1
                    products(weight, rows, x, tokens, pair, num_pairs, sums)
                    _activate(sums, shares, num_pairs, pair, begin, inner)


def thin_experts(x: Tensor, gate_up: Packed, down: Packed, chosen: Tensor, weights: Tensor) -> Tensor:
    """See `reference`.

    Args:
        x: fp32 or bf16 [tokens, hidden].
        gate_up: packed, the rows of all experts [experts * 2 * width, hidden].
        down: packed, the rows of all experts [experts * hidden, width]; both such that `takes_thin_experts`.
        chosen: int64 [tokens, k]; ids from `experts` on are identity experts.
        weights: fp32 [tokens, k].
    """
    num_experts = len(down.codes) // x.shape[1]
    width = len(gate_up.codes) // (2 * num_experts)
    out = x.float() * (weights * (chosen >= num_experts)).sum(dim=1, keepdim=True)
    hit, starts, pairs = expert_mix._group(chosen.numpy(), num_experts)
    groups, shares = (hit, starts, pairs // chosen.shape[1]), weights.contiguous().numpy().ravel()[pairs]
    inner = torch.empty(len(pairs), width, dtype=torch.bfloat16)
    with lock:
        parts = min(torch.get_num_threads(), get_num_threads())
        _gate_up(gate_up, bits_of(x.bfloat16().contiguous()), groups, shares, bits_of(inner), parts)
        add_outputs(down, bits_of(inner), groups, np.arange(len(pairs)), out.numpy(), parts)
    return out.to(x.dtype)
