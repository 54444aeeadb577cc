"""The experts of a few tokens, whole: gate, up, SiLU, down, weighted sum and identity experts.

Output-centric: every job owns outputs and reads the weight rows it needs once for all tokens that chose the expert, so
nothing is permuted, padded or written twice.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit, prange
from torch import Tensor

from kodkod_engine.kernels.bf16 import FAST_MATH, INSIDE, KERNEL_OPTIONS, SERIAL_OPTIONS, bits_of, lock, widen
from kodkod_engine.kernels.thin_linear import one_by_one


def reference(x: Tensor, gate_up: Tensor, down: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of the chosen experts in fp32; ids beyond the real experts return their input.

    Args:
        x: [tokens, hidden].
        gate_up: [experts, 2 * width, hidden].
        down: [experts, hidden, width].
        chosen: int64 [tokens, k].
        weights: fp32 [tokens, k].

    Returns:
        [tokens, hidden], x's dtype.
    """
    out = torch.zeros(x.shape, dtype=torch.float32)
    for token in range(x.shape[0]):
        wide = x[token].float()
        for expert, weight in zip(chosen[token].tolist(), weights[token].tolist(), strict=True):
            out[token] += weight * (wide if expert >= len(down) else _expert(wide, gate_up[expert], down[expert]))
    return out.to(x.dtype)


def _expert(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    gate, up = (gate_up.float() @ x).chunk(2)
    return down.float() @ (F.silu(gate) * up)


@njit(**SERIAL_OPTIONS, **INSIDE)
def _group(chosen: Any, num_experts: int) -> tuple[Any, Any, Any]:
    """Pairs (token, place) of real experts, sorted by expert.

    Returns:
        experts that somebody chose [n], first pair of each [n + 1], pairs as token * k + place.
    """
    tokens, k = chosen.shape
    counts = np.zeros(num_experts + 1, np.int64)
    for token in range(tokens):
        for place in range(k):
            if chosen[token, place] < num_experts:
                counts[chosen[token, place] + 1] += 1
    num_hit = 0
    for expert in range(num_experts):
        if counts[expert + 1] > 0:
            num_hit += 1
        counts[expert + 1] += counts[expert]
    hit, starts = np.empty(num_hit, np.int64), np.empty(num_hit + 1, np.int64)
    pairs = np.empty(counts[num_experts], np.int64)
    starts[num_hit] = len(pairs)
    place = 0
    for expert in range(num_experts):
        if counts[expert + 1] > counts[expert]:
            hit[place], starts[place] = expert, counts[expert]
            place += 1
    for token in range(tokens):
        for place in range(k):
            expert = chosen[token, place]
            if expert < num_experts:
                pairs[counts[expert]] = token * k + place
                counts[expert] += 1
    return hit, starts, pairs


@njit(fastmath=FAST_MATH, inline="always", cache=True)
def _silu(value: Any) -> Any:
    return value / (np.float32(1) + math.exp(-value))


@njit(fastmath=FAST_MATH, inline="always", cache=True)
def _two_by_two(first_row: Any, second_row: Any, x: Any, y: Any) -> tuple[Any, Any, Any, Any]:
    """Two weight rows with x, then with y: four sums from four readings."""
    a = b = c = d = np.float32(0)
    for i in range(len(x)):
        first, second = widen(first_row[i]), widen(second_row[i])
        a += first * x[i]
        b += second * x[i]
        c += first * y[i]
        d += second * y[i]
    return a, b, c, d


@njit(fastmath=FAST_MATH, inline="always", cache=True)
def _two_by_one(first_row: Any, second_row: Any, x: Any) -> tuple[Any, Any]:
    """Two weight rows with x."""
    a = b = np.float32(0)
    for i in range(len(x)):
        a += widen(first_row[i]) * x[i]
        b += widen(second_row[i]) * x[i]
    return a, b


@njit(fastmath=FAST_MATH, inline="always", cache=True)
def _four_by_one(rows: Any, x: Any) -> tuple[Any, Any, Any, Any]:
    """Four weight rows [4, in] with x: short rows that lie side by side are read as one."""
    first, second, third, fourth = rows[0], rows[1], rows[2], rows[3]
    a = b = c = d = np.float32(0)
    for i in range(len(x)):
        a += widen(first[i]) * x[i]
        b += widen(second[i]) * x[i]
        c += widen(third[i]) * x[i]
        d += widen(fourth[i]) * x[i]
    return a, b, c, d


@njit(**KERNEL_OPTIONS, **INSIDE)
def _all_inner(x: Any, gate_up: Any, groups: Any, k: int, inner: Any) -> None:
    """silu(gate) * up of every pair, into [pairs, width]."""
    hit, starts, pairs = groups
    width = inner.shape[1]
    for job in prange(len(hit) * width):
        place, column = job // width, job % width
        gate_row, up_row = gate_up[hit[place], column], gate_up[hit[place], width + column]
        pair, stop = starts[place], starts[place + 1]
        while stop - pair >= 2:
            one, other = x[pairs[pair] // k], x[pairs[pair + 1] // k]
            gate, up, other_gate, other_up = _two_by_two(gate_row, up_row, one, other)
            inner[pair, column], inner[pair + 1, column] = _silu(gate) * up, _silu(other_gate) * other_up
            pair += 2
        if pair < stop:
            gate, up = _two_by_one(gate_row, up_row, x[pairs[pair] // k])
            inner[pair, column] = _silu(gate) * up


@njit(**KERNEL_OPTIONS, **INSIDE)
def _add_down(inner: Any, down: Any, groups: Any, weights: Any, out: Any) -> None:
    """Add the down projection of every pair, weighted; a job owns four outputs of all tokens."""
    hit, starts, pairs = groups
    k, hidden = weights.shape[1], down.shape[1]
    for four in prange((hidden + 3) // 4):
        column = 4 * four
        for place in range(len(hit)):
            rows = down[hit[place], column : column + 4]
            for pair in range(starts[place], starts[place + 1]):
                token, weight = pairs[pair] // k, weights[pairs[pair] // k, pairs[pair] % k]
                if len(rows) == 4:
                    a, b, c, d = _four_by_one(rows, inner[pair])
                    out[token, column] += weight * a
                    out[token, column + 1] += weight * b
                    out[token, column + 2] += weight * c
                    out[token, column + 3] += weight * d
                else:
                    for row in range(len(rows)):
                        out[token, column + row] += weight * one_by_one(rows[row], inner[pair])


@njit(**SERIAL_OPTIONS)
def _kernel(x: Any, gate_up: Any, down: Any, chosen: Any, weights: Any, out: Any) -> None:
    groups = _group(chosen, down.shape[0])
    inner = np.empty((len(groups[2]), down.shape[2]), np.float32)
    _all_inner(x, gate_up, groups, chosen.shape[1], inner)
    _add_down(inner, down, groups, weights, out)


def expert_mix(x: Tensor, gate_up: Tensor, down: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """See `reference`; x and the experts in bf16, contiguous, on the host."""
    wide = x.float().contiguous()
    out = wide * (weights * (chosen >= len(down))).sum(dim=1, keepdim=True)
    with lock:
        _kernel(
            wide.numpy(), bits_of(gate_up), bits_of(down), chosen.numpy(), weights.contiguous().numpy(), out.numpy()
        )
    return out.to(x.dtype)
