"""The experts of a few tokens with packed weights, whole. As `expert_mix`, with 16-bit activations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, prange
from torch import Tensor

from kodkod_engine.kernels import expert_mix
from kodkod_engine.kernels.bf16 import INSIDE, KERNEL_OPTIONS, SERIAL_OPTIONS, lock
from kodkod_engine.kernels.packed_linear import OUTPUTS_PER_JOB, dot_four, dot_one, narrow, packed_arrays
from kodkod_engine.kernels.packing import unpack
from kodkod_engine.kernels.vector_code import MAX_TOKENS

_group = expert_mix._group


PackedTensors = tuple[Tensor, Tensor]
"""Codes and scales, as `packing.pack` returns them."""


def reference(
    x: Tensor, gate_up: PackedTensors, down: PackedTensors, bits: int, chosen: Tensor, weights: Tensor
) -> Tensor:
    """`expert_mix.reference` of the unpacked experts."""
    return expert_mix.reference(x, unpack(*gate_up, bits), unpack(*down, bits), chosen, weights)


@njit(**SERIAL_OPTIONS, **INSIDE)
def _silu(value: Any) -> Any:
    return value / (np.float32(1) + math.exp(-value))


@njit(**KERNEL_OPTIONS, **INSIDE)
def _gate_up(weight: Any, x: Any, factors: Any, hit: Any, starts: Any, inner: Any) -> None:
    """silu(gate) * up of each pair: x int16 [pairs, hidden] -> inner fp32 [pairs, width]."""
    width = inner.shape[1]
    jobs = (width + OUTPUTS_PER_JOB - 1) // OUTPUTS_PER_JOB
    for job in prange(len(hit) * jobs):
        place, first = job // jobs, job % jobs * OUTPUTS_PER_JOB
        for column in range(first, min(width, first + OUTPUTS_PER_JOB)):
            gate_row = hit[place] * 2 * width + column
            pair, last = starts[place], starts[place + 1]
            while last - pair >= MAX_TOKENS:
                gates = dot_four(weight, gate_row, x, pair)
                ups = dot_four(weight, gate_row + width, x, pair)
                for i in range(MAX_TOKENS):
                    factor = factors[pair + i]
                    inner[pair + i, column] = _silu(gates[i] * factor) * ups[i] * factor
                pair += MAX_TOKENS
            while pair < last:
                gate = dot_one(weight, gate_row, x, pair) * factors[pair]
                up = dot_one(weight, gate_row + width, x, pair) * factors[pair]
                inner[pair, column] = _silu(gate) * up
                pair += 1


@njit(**KERNEL_OPTIONS, **INSIDE)
def _down(weight: Any, inner: Any, factors: Any, hit: Any, starts: Any, tokens: Any, out: Any) -> None:
    """Add each pair's share to its token: inner int16 [pairs, width], factors with the router's weights in them."""
    hidden = out.shape[1]
    for job in prange((hidden + OUTPUTS_PER_JOB - 1) // OUTPUTS_PER_JOB):
        first = job * OUTPUTS_PER_JOB
        for place in range(len(hit)):
            for column in range(first, min(hidden, first + OUTPUTS_PER_JOB)):
                row = hit[place] * hidden + column
                pair, last = starts[place], starts[place + 1]
                while last - pair >= MAX_TOKENS:
                    sums = dot_four(weight, row, inner, pair)
                    for i in range(MAX_TOKENS):
                        out[tokens[pair + i], column] += sums[i] * factors[pair + i]
                    pair += MAX_TOKENS
                while pair < last:
                    out[tokens[pair], column] += dot_one(weight, row, inner, pair) * factors[pair]
                    pair += 1


@njit(**SERIAL_OPTIONS)
def mix(x: Any, gate_up: Any, down: Any, chosen: Any, weights: Any, out: Any) -> None:
    """Inside a kernel: add the real experts' sum to out; x fp32 [tokens, hidden]."""
    k, hidden = chosen.shape[1], x.shape[1]
    num_experts = down.codes.shape[0] // hidden
    hit, starts, pairs = _group(chosen, num_experts)
    width = gate_up.codes.shape[0] // (2 * num_experts)
    narrow_x, x_factors = np.empty(x.shape, np.int16), np.empty(len(x), np.float32)
    narrow(x, narrow_x, x_factors)
    tokens = pairs // k
    inner = np.empty((len(pairs), width), np.float32)
    _gate_up(gate_up, narrow_x[tokens], x_factors[tokens], hit, starts, inner)
    codes, factors = np.empty(inner.shape, np.int16), np.empty(len(pairs), np.float32)
    narrow(inner, codes, factors)
    for pair in range(len(pairs)):
        factors[pair] *= weights[tokens[pair], pairs[pair] % k]
    _down(down, codes, factors, hit, starts, tokens, out)


def packed_experts(
    x: Tensor, gate_up: PackedTensors, down: PackedTensors, bits: int, chosen: Tensor, weights: Tensor
) -> Tensor:
    """See `reference`; contiguous, on the host."""
    wide = x.float().contiguous()
    out = wide * (weights * (chosen >= len(down[0]))).sum(dim=1, keepdim=True)
    with lock:
        mix(
            wide.numpy(),
            packed_arrays(*gate_up, bits),
            packed_arrays(*down, bits),
            chosen.numpy(),
            weights.contiguous().numpy(),
            out.numpy(),
        )
    return out.to(x.dtype)
