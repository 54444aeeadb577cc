"""The experts of a few tokens as two output-centric kernels: every program owns outputs and streams what they need.

The first makes weight * silu(gate) * up of each pair of token and expert, the second the down projection, the sum over
experts, the identity experts' term and the residual. Router ids are read as they are: nothing is sorted, padded or
aligned. Pairs are the fastest dimension of the grid, so what several tokens chose is read from the cache.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.kernels.gpu.tiles import inner_of, row_of, rows_for, tiles_of, times

DOWN_ROWS = 4
"""Outputs of a program of the second kernel; it reads them of all a token's experts."""


def reference(
    x: Tensor, residual: Tensor, gate_up: Tensor, down: Tensor, chosen: Tensor, weights: Tensor, identity: Tensor
) -> Tensor:
    """residual + identity * x + the weighted sum of the real experts.

    Args:
        x: [tokens, hidden].
        residual: fp32 or x's dtype, [tokens, hidden].
        gate_up: [experts, 2 * width, hidden].
        down: [experts, hidden, width].
        chosen: int32 [tokens, k]; ids from `experts` on are identity experts and skipped here.
        weights: fp32 [tokens, k].
        identity: fp32 [tokens]: the identity experts' weights, summed.

    Returns:
        [tokens, hidden], residual's dtype; summed in fp32.
    """
    out = residual.float() + identity[:, None] * x.float()
    for token in range(len(x)):
        for expert, weight in zip(chosen[token].tolist(), weights[token].tolist(), strict=True):
            if expert < len(down):
                gate, up = (gate_up[expert].float() @ x[token].float()).chunk(2)
                inner = (weight * F.silu(gate) * up).to(x.dtype).float()
                out[token] += down[expert].float() @ inner
    return out.to(residual.dtype)


@triton.jit
def _gate_up(
    x,
    gate_up,
    chosen,
    weights,
    inner,
    num_experts,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    INNER: tl.constexpr,
):
    pair = tl.program_id(0)
    expert = tl.load(chosen + pair).to(tl.int64)
    if expert < num_experts:
        rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
        inside = rows < WIDTH
        base = gate_up + expert * (2 * WIDTH * SIZE)
        gates = tiles_of(base, rows, inside, SIZE, INNER)
        ups = tiles_of(base + WIDTH * SIZE, rows, inside, SIZE, INNER)
        values = row_of(x + pair // K * SIZE, SIZE, INNER)
        gate = times(gates, values)
        result = gate / (1.0 + tl.exp(-gate)) * times(ups, values) * tl.load(weights + pair)
        tl.store(inner + pair * WIDTH + rows, result, mask=inside)


@triton.jit
def _down(
    x,
    residual,
    down,
    chosen,
    identity,
    inner,
    out,
    num_experts,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    INNER: tl.constexpr,
):
    token = tl.program_id(0)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    whole = rows < SIZE
    columns = tl.arange(0, INNER)
    total = tl.zeros([ROWS, INNER], dtype=tl.float32)
    for place in tl.static_range(K):
        # No branch: of identity experts nothing is loaded, and the loads of all others are on their way together.
        pair = token * K + place
        expert = tl.load(chosen + pair).to(tl.int64)
        is_real = expert < num_experts
        for start in tl.static_range(0, WIDTH, INNER):
            there = (start + columns < WIDTH) & is_real
            values = tl.load(inner + pair * WIDTH + start + columns, mask=there, other=0.0).to(tl.float32)
            at = down + (expert * SIZE + rows[:, None]) * WIDTH + (start + columns)[None, :]
            tile = tl.load(at, mask=whole[:, None] & there[None, :], other=0.0)
            total += tile.to(tl.float32) * values[None, :]
    result = tl.sum(total, axis=1)
    own = tl.load(x + token * SIZE + rows, mask=whole, other=0.0).to(tl.float32)
    result += tl.load(residual + token * SIZE + rows, mask=whole, other=0.0).to(tl.float32)
    result += tl.load(identity + token) * own
    tl.store(out + token * SIZE + rows, result, mask=whole)


def expert_decode(
    x: Tensor,
    residual: Tensor,
    gate_up: Tensor,
    down: Tensor,
    chosen: Tensor,
    weights: Tensor,
    identity: Tensor,
    inner: Tensor,
    out: Tensor,
) -> Tensor:
    """See `reference`; everything contiguous, `inner` scratch [tokens * k, width], result in `out`."""
    start_experts(x, gate_up, chosen, weights, inner)
    return finish_experts(x, residual, down, chosen, identity, inner, out)


def start_experts(x: Tensor, gate_up: Tensor, chosen: Tensor, weights: Tensor, inner: Tensor) -> None:
    """weight * silu(gate) * up of each pair of token and real expert, into `inner` [tokens * k, width]."""
    tokens, hidden = x.shape
    experts, width, k = len(gate_up), gate_up.shape[1] // 2, chosen.shape[1]
    rows = max(1, rows_for(hidden) // 2)
    grid: Any = (tokens * k, triton.cdiv(width, rows))
    _gate_up[grid](
        x,
        gate_up,
        chosen,
        weights,
        inner,
        experts,
        SIZE=hidden,
        WIDTH=width,
        K=k,
        ROWS=rows,
        INNER=inner_of(hidden),
    )


def finish_experts(
    x: Tensor, residual: Tensor, down: Tensor, chosen: Tensor, identity: Tensor, inner: Tensor, out: Tensor
) -> Tensor:
    """The rest, into `out`, which may be the residual."""
    tokens, hidden = x.shape
    experts, _, width = down.shape
    grid: Any = (tokens, triton.cdiv(hidden, DOWN_ROWS))
    _down[grid](
        x,
        residual,
        down,
        chosen,
        identity,
        inner,
        out,
        experts,
        SIZE=hidden,
        WIDTH=width,
        K=chosen.shape[1],
        ROWS=DOWN_ROWS,
        INNER=inner_of(width),
    )
    return out


def scratch(max_tokens: int, k: int, width: int, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """What `expert_decode` wants as `inner`; `dtype` of the hidden states."""
    return torch.empty(max_tokens * k, width, dtype=dtype, device=device)
