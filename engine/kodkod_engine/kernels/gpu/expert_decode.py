"""The experts of a few tokens as two output-centric kernels: every program owns outputs and streams what they need.

The first makes silu(gate) * up of each pair of token and expert, the second the down projection, the weighted sum, the
identity experts' term and the residual. Router ids are read as they are: nothing is sorted, padded or aligned.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

BLOCK_OUT = 8
BLOCK_IN = 512


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
                out[token] += weight * (down[expert].float() @ (F.silu(gate) * up))
    return out.to(residual.dtype)


@triton.jit
def _gate_up(
    x,
    gate_up,
    chosen,
    inner,
    num_experts,
    hidden: tl.constexpr,
    width: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    INNER: tl.constexpr,
):
    pair = tl.program_id(0)
    expert = tl.load(chosen + pair).to(tl.int64)
    if expert < num_experts:
        rows = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        base = gate_up + expert * 2 * width * hidden
        gate = tl.zeros([BLOCK], dtype=tl.float32)
        up = tl.zeros([BLOCK], dtype=tl.float32)
        for start in range(0, hidden, INNER):
            columns = start + tl.arange(0, INNER)
            values = tl.load(x + pair // K * hidden + columns, mask=columns < hidden, other=0.0).to(tl.float32)
            inside = (rows[:, None] < width) & (columns[None, :] < hidden)
            at = base + rows[:, None] * hidden + columns[None, :]
            gate += tl.sum(tl.load(at, mask=inside, other=0.0).to(tl.float32) * values[None, :], axis=1)
            above = tl.load(at + width * hidden, mask=inside, other=0.0).to(tl.float32)
            up += tl.sum(above * values[None, :], axis=1)
        tl.store(inner + pair * width + rows, gate / (1.0 + tl.exp(-gate)) * up, mask=rows < width)


@triton.jit
def _down(
    x,
    residual,
    down,
    chosen,
    weights,
    identity,
    inner,
    out,
    num_experts,
    hidden: tl.constexpr,
    width: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    INNER: tl.constexpr,
):
    token = tl.program_id(0)
    rows = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    whole = rows < hidden
    own = tl.load(x + token * hidden + rows, mask=whole, other=0.0).to(tl.float32)
    total = tl.load(residual + token * hidden + rows, mask=whole, other=0.0).to(tl.float32)
    total += tl.load(identity + token) * own
    for place in range(K):
        pair = token * K + place
        expert = tl.load(chosen + pair).to(tl.int64)
        if expert < num_experts:
            part = tl.zeros([BLOCK], dtype=tl.float32)
            for start in range(0, width, INNER):
                columns = start + tl.arange(0, INNER)
                values = tl.load(inner + pair * width + columns, mask=columns < width, other=0.0)
                inside = whole[:, None] & (columns[None, :] < width)
                at = down + (expert * hidden + rows[:, None]) * width + columns[None, :]
                part += tl.sum(tl.load(at, mask=inside, other=0.0).to(tl.float32) * values[None, :], axis=1)
            total += tl.load(weights + pair) * part
    tl.store(out + token * hidden + rows, total, mask=whole)


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
    """See `reference`; everything contiguous, `inner` fp32 scratch [tokens * k, width], result in `out`."""
    tokens, hidden = x.shape
    experts, _, width = down.shape
    k = chosen.shape[1]
    first: Any = (tokens * k, triton.cdiv(width, BLOCK_OUT))
    _gate_up[first](
        x,
        gate_up,
        chosen,
        inner,
        experts,
        hidden=hidden,
        width=width,
        K=k,
        BLOCK=BLOCK_OUT,
        INNER=min(BLOCK_IN, _power(hidden)),
    )
    second: Any = (tokens, triton.cdiv(hidden, BLOCK_OUT))
    _down[second](
        x,
        residual,
        down,
        chosen,
        weights,
        identity,
        inner,
        out,
        experts,
        hidden=hidden,
        width=width,
        K=k,
        BLOCK=BLOCK_OUT,
        INNER=min(BLOCK_IN, _power(width)),
    )
    return out


def _power(size: int) -> int:
    return int(triton.next_power_of_2(size))


def scratch(max_tokens: int, k: int, width: int, device: torch.device) -> Tensor:
    """What `expert_decode` wants as `inner`."""
    return torch.empty(max_tokens * k, width, device=device)
