"""Experts with a few rows each, whole, on processors that multiply bf16 in vectors.

In a step of up to some dozen tokens an expert has one to six rows: too many for products of single rows, which unpack
its weights anew for every few of them, and too few for tiles of sixteen tokens. Here weight rows are unpacked in
registers and multiplied with up to six rows (`thin_products.py`). Every thread owns some outputs of all experts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import get_num_threads, njit
from torch import Tensor

from kodkod_engine.kernels import expert_mix
from kodkod_engine.kernels.bf16 import FAST_MATH, SERIAL_OPTIONS, bits_of, lock
from kodkod_engine.kernels.expert_rows import Weight, as_rows
from kodkod_engine.kernels.few_rows import COLUMNS, add_outputs
from kodkod_engine.kernels.in_parts import in_parts
from kodkod_engine.kernels.inside import inside
from kodkod_engine.kernels.silu import silu
from kodkod_engine.kernels.thin_products import MAX_THIN_TOKENS, most_tokens, products, takes_thin_products
from kodkod_engine.kernels.tile_products import has_tile_products
from kodkod_engine.kernels.unpack_bf16 import narrow
from kodkod_engine.kernels.weight_rows import num_rows

reference = expert_mix.reference
"""Activations are rounded to bf16 where this kernel multiplies them."""


_group = expert_mix._group


def takes_thin_experts(gate_up: Any, down: Any) -> bool:
    """Whether this kernel has code for the rows of these matrices, packed or bf16 bits, here.

    They are whole: their sizes are multiples of their groups.
    """
    return has_tile_products() and takes_thin_products(gate_up) and takes_thin_products(down)


@njit(fastmath=FAST_MATH, inline="always", cache=True)
def _activate(sums: Any, shares: Any, count: int, first: int, begin: int, inner: Any) -> None:
    """silu(gate) * up * share, bf16, of `COLUMNS` columns and `count` pairs from `first` on."""
    for i in range(count):
        gates, ups = sums[i], sums[MAX_THIN_TOKENS + i]
        out, share = inner[first + i, begin : begin + COLUMNS], shares[first + i]
        for c in range(COLUMNS):
            out[c] = narrow(silu(gates[c]) * ups[c] * share)


@in_parts
def _gate_up(weight: Any, x: Any, groups: Any, shares: Any, inner: Any, parts: int, part: int) -> None:
    """What goes into the down projection: x [tokens, hidden] -> inner [pairs, width], both bf16 bits."""
    hit, starts, tokens = groups
    width = inner.shape[1]
    blocks, most = width // COLUMNS, most_tokens(weight)
    sums = np.empty((2 * MAX_THIN_TOKENS, COLUMNS), np.float32)
    for place in range(len(hit)):
        row, count = hit[place] * 2 * width, starts[place + 1] - starts[place]
        pieces = (count + most - 1) // most
        for begin in range(COLUMNS * (blocks * part // parts), COLUMNS * (blocks * (part + 1) // parts), COLUMNS):
            for piece in range(pieces):
                pair = starts[place] + count * piece // pieces
                num_pairs = starts[place] + count * (piece + 1) // pieces - pair
                rows = row + begin, row + width + begin, 1
                products(weight, rows, x, tokens, pair, num_pairs, sums)
                _activate(sums, shares, num_pairs, pair, begin, inner)


@inside
def mix(x: Any, gate_up: Any, down: Any, chosen: Any, weights: Any, out: Any, parts: int) -> None:
    """Inside a kernel: add the real experts' sum to out.

    Args:
        x: bf16 bits [tokens, hidden].
        gate_up: the rows of all experts [experts * 2 * width, hidden].
        down: the rows of all experts [experts * hidden, width]; both such that `takes_thin_experts`.
        chosen: int64 [tokens, k]; ids from `experts` on are identity experts.
        weights: fp32 [tokens, k].
        out: fp32 [tokens, hidden].
        parts: threads; each owns some outputs.
    """
    k, num_experts = chosen.shape[1], num_rows(down) // x.shape[1]
    hit, starts, pairs = _group(chosen, num_experts)
    shares = np.empty(len(pairs), np.float32)
    for pair in range(len(pairs)):
        shares[pair] = weights[pairs[pair] // k, pairs[pair] % k]
    groups = hit, starts, pairs // k
    inner = np.empty((len(pairs), num_rows(gate_up) // (2 * num_experts)), np.uint16)
    _gate_up(gate_up, x, groups, shares, inner, parts)
    add_outputs(down, inner, groups, np.arange(len(pairs)), out, parts)


@njit(**SERIAL_OPTIONS)
def _kernel(x: Any, gate_up: Any, down: Any, chosen: Any, weights: Any, out: Any, parts: int) -> None:
    mix(x, gate_up, down, chosen, weights, out, parts)


def thin_experts(x: Tensor, gate_up: Weight, down: Weight, chosen: Tensor, weights: Tensor) -> Tensor:
    """See `reference`.

    Args:
        x: fp32 or bf16 [tokens, hidden].
        gate_up: bf16 [experts, 2 * width, hidden], or a packed matrix of all their rows.
        down: bf16 [experts, hidden, width], or a packed matrix of all their rows; both such that `takes_thin_experts`.
        chosen: int64 [tokens, k]; ids from `experts` on are identity experts.
        weights: fp32 [tokens, k].
    """
    up_rows, down_rows = as_rows(gate_up), as_rows(down)
    num_experts = len(down_rows if isinstance(down_rows, np.ndarray) else down_rows.codes) // x.shape[1]
    out = x.float() * (weights * (chosen >= num_experts)).sum(dim=1, keepdim=True)
    with lock:
        parts = min(torch.get_num_threads(), get_num_threads())
        own = bits_of(x.bfloat16().contiguous())
        _kernel(own, up_rows, down_rows, chosen.numpy(), weights.contiguous().numpy(), out.numpy(), parts)
    return out.to(x.dtype)
