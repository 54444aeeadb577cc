"""The router in one kernel: norm, fp32 logits, softmax over all choices, biased selection, weights, identity weight.

The logits of a token are spread over many programs, for one alone would read 4.7 MB by itself; the program that
finishes a token last chooses its experts.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.kernels.gpu.tiles import inner_of, normed_row, row_of, tiles_of, times

BLOCK_CHOICES = 2
NUM_WARPS = 2
"""Few, for choosing goes through all of a program's threads a dozen times in a row."""


def reference(
    x: Tensor, norm: Tensor, eps: float, weight: Tensor, bias: Tensor, k: int, scale: float, num_experts: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Chosen experts, highest merit first, their weights, the sum of identity experts' weights, and what was routed.

    Args:
        x: [tokens, hidden], not yet normalised.
        norm: [hidden], the norm's factors.
        eps: of the norm.
        weight: fp32 [choices, hidden]; choices from `num_experts` on are identity experts.
        bias: fp32 [choices]; steers the choice alone.
        k: choices per token.
        scale: factor on the weights.

    Returns:
        int32 [tokens, k], fp32 [tokens, k] (0 for identity experts), fp32 [tokens], and x normalised.
    """
    wide = x.float()
    x = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * norm
    probabilities = (x.float() @ weight.t()).softmax(dim=-1)
    chosen = torch.topk(probabilities + bias, k, dim=-1).indices
    weights = probabilities.gather(1, chosen) * scale
    is_identity = chosen >= num_experts
    return chosen.int(), weights.masked_fill(is_identity, 0.0), (weights * is_identity).sum(dim=1), x


@triton.jit
def _choose(logits, bias, chosen, weights, identity, choices, num_experts, scale, K: tl.constexpr, ALL: tl.constexpr):
    """The best K of one token: pointers are at its row."""
    every = tl.arange(0, ALL)
    lowest = -float("inf")
    # Other programs wrote these: they are in the second cache, and the first may not be asked.
    scores = tl.load(logits + every, mask=every < choices, other=lowest, cache_modifier=".cg")
    powers = tl.exp(scores - tl.max(scores, axis=0))
    probabilities = powers / tl.sum(powers, axis=0)
    steering = tl.load(bias + every, mask=every < choices, other=0.0)
    merit = tl.where(every < choices, probabilities + steering, lowest)
    kept = 0.0
    for place in tl.static_range(K):
        best = tl.argmax(merit, axis=0)
        share = tl.sum(tl.where(every == best, probabilities, 0.0), axis=0) * scale
        is_real = best < num_experts
        tl.store(chosen + place, best)
        tl.store(weights + place, tl.where(is_real, share, 0.0))
        kept += tl.where(is_real, 0.0, share)
        merit = tl.where(every == best, lowest, merit)
    tl.store(identity, kept)


@triton.jit
def _kernel(
    x,
    norm,
    weight,
    bias,
    logits,
    counters,
    chosen,
    weights,
    identity,
    normed,
    choices,
    num_experts,
    scale,
    eps,
    SIZE: tl.constexpr,
    K: tl.constexpr,
    ALL: tl.constexpr,
    BLOCK: tl.constexpr,
    INNER: tl.constexpr,
):
    token = tl.program_id(0)
    rows = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < choices
    tiles = tiles_of(weight, rows, inside, SIZE, INNER)
    factors = row_of(norm, SIZE, INNER, 1, 0)
    tl.debug_barrier()
    values = normed_row(row_of(x + token * SIZE, SIZE, INNER, 1, 0), factors, eps, SIZE)
    tl.store(logits + token * choices + rows, times(tiles, tiles, values, 1, 0), mask=inside)
    if tl.program_id(1) == 0:
        columns = tl.arange(0, INNER)
        for chunk in tl.static_range(len(values)):
            place = chunk * INNER + columns
            tl.store(normed + token * SIZE + place, values[chunk], mask=place < SIZE)
    tl.debug_barrier()
    arrived = tl.atomic_add(counters + token, 1, sem="acq_rel")
    if arrived == tl.num_programs(1) - 1:
        at = token * K
        _choose(
            logits + token * choices,
            bias,
            chosen + at,
            weights + at,
            identity + token,
            choices,
            num_experts,
            scale,
            K,
            ALL,
        )
        tl.store(counters + token, 0)


class Routing:
    """Buffers for steps of up to `max_tokens`; a step's result is overwritten by the next."""

    def __init__(
        self,
        max_tokens: int,
        choices: int,
        k: int,
        hidden: int,
        device: torch.device,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        """`dtype`: of the hidden states."""
        self.logits = torch.empty(max_tokens, choices, device=device)
        self.counters = torch.zeros(max_tokens, dtype=torch.int32, device=device)
        self.chosen = torch.empty(max_tokens, k, dtype=torch.int32, device=device)
        self.weights = torch.empty(max_tokens, k, device=device)
        self.identity = torch.empty(max_tokens, device=device)
        self.normed = torch.empty(max_tokens, hidden, dtype=dtype, device=device)


def route(
    x: Tensor, norm: Tensor, eps: float, weight: Tensor, bias: Tensor, scale: float, num_experts: int, to: Routing
) -> None:
    """See `reference`; into `to.chosen`, `to.weights`, `to.identity` and `to.normed`."""
    tokens, hidden = x.shape
    choices, k = len(weight), to.chosen.shape[1]
    grid: Any = (tokens, triton.cdiv(choices, BLOCK_CHOICES))
    _kernel[grid](
        x,
        norm,
        weight,
        bias,
        to.logits,
        to.counters,
        to.chosen,
        to.weights,
        to.identity,
        to.normed,
        choices,
        num_experts,
        scale,
        eps,
        SIZE=hidden,
        K=k,
        ALL=triton.next_power_of_2(choices),
        BLOCK=BLOCK_CHOICES,
        INNER=inner_of(hidden),
        num_warps=NUM_WARPS,
    )
