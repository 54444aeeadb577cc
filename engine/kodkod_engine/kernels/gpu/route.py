"""The router in one kernel: fp32 logits, softmax over all choices, biased selection, weights, identity weight.

The logits of a token are spread over many programs, for one alone would read 4.7 MB by itself; the program that
finishes a token last chooses its experts.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_CHOICES = 8
BLOCK_HIDDEN = 512


def reference(
    x: Tensor, weight: Tensor, bias: Tensor, k: int, scale: float, num_experts: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Chosen experts, highest merit first, their weights, and the sum of identity experts' weights.

    Args:
        x: [tokens, hidden].
        weight: fp32 [choices, hidden]; choices from `num_experts` on are identity experts.
        bias: fp32 [choices]; steers the choice alone.
        k: choices per token.
        scale: factor on the weights.

    Returns:
        int32 [tokens, k], fp32 [tokens, k] (0 for identity experts), fp32 [tokens].
    """
    probabilities = (x.float() @ weight.t()).softmax(dim=-1)
    chosen = torch.topk(probabilities + bias, k, dim=-1).indices
    weights = probabilities.gather(1, chosen) * scale
    is_identity = chosen >= num_experts
    return chosen.int(), weights.masked_fill(is_identity, 0.0), (weights * is_identity).sum(dim=1)


@triton.jit
def _kernel(
    x,
    weight,
    bias,
    logits,
    counters,
    chosen,
    weights,
    identity,
    choices,
    num_experts,
    scale,
    hidden: tl.constexpr,
    K: tl.constexpr,
    ALL: tl.constexpr,
    BLOCK: tl.constexpr,
    INNER: tl.constexpr,
):
    token = tl.program_id(0)
    rows = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, hidden, INNER):
        columns = start + tl.arange(0, INNER)
        values = tl.load(x + token * hidden + columns, mask=columns < hidden, other=0.0).to(tl.float32)
        inside = (rows[:, None] < choices) & (columns[None, :] < hidden)
        factors = tl.load(weight + rows[:, None] * hidden + columns[None, :], mask=inside, other=0.0)
        total += tl.sum(factors * values[None, :], axis=1)
    tl.store(logits + token * choices + rows, total, mask=rows < choices)
    tl.debug_barrier()
    arrived = tl.atomic_add(counters + token, 1, sem="acq_rel")
    if arrived == tl.num_programs(1) - 1:
        every = tl.arange(0, ALL)
        lowest = -float("inf")
        scores = tl.load(logits + token * choices + every, mask=every < choices, other=lowest, cache_modifier=".cg")
        powers = tl.exp(scores - tl.max(scores, axis=0))
        probabilities = powers / tl.sum(powers, axis=0)
        steering = tl.load(bias + every, mask=every < choices, other=0.0)
        merit = tl.where(every < choices, probabilities + steering, lowest)
        kept = 0.0
        for place in tl.static_range(K):
            best = tl.argmax(merit, axis=0)
            share = tl.sum(tl.where(every == best, probabilities, 0.0), axis=0) * scale
            is_real = best < num_experts
            tl.store(chosen + token * K + place, best)
            tl.store(weights + token * K + place, tl.where(is_real, share, 0.0))
            kept += tl.where(is_real, 0.0, share)
            merit = tl.where(every == best, lowest, merit)
        tl.store(identity + token, kept)
        tl.store(counters + token, 0)


class Routing:
    """Buffers for steps of up to `max_tokens`; a step's result is overwritten by the next."""

    def __init__(self, max_tokens: int, choices: int, k: int, device: torch.device) -> None:
        self.logits = torch.empty(max_tokens, choices, device=device)
        self.counters = torch.zeros(max_tokens, dtype=torch.int32, device=device)
        self.chosen = torch.empty(max_tokens, k, dtype=torch.int32, device=device)
        self.weights = torch.empty(max_tokens, k, device=device)
        self.identity = torch.empty(max_tokens, device=device)


def route(x: Tensor, weight: Tensor, bias: Tensor, scale: float, num_experts: int, to: Routing) -> None:
    """See `reference`; into `to.chosen`, `to.weights` and `to.identity`."""
    tokens, hidden = x.shape
    choices, k = len(weight), to.chosen.shape[1]
    grid: Any = (tokens, triton.cdiv(choices, BLOCK_CHOICES))
    _kernel[grid](
        x,
        weight,
        bias,
        to.logits,
        to.counters,
        to.chosen,
        to.weights,
        to.identity,
        choices,
        num_experts,
        scale,
        hidden=hidden,
        K=k,
        ALL=triton.next_power_of_2(choices),
        BLOCK=BLOCK_CHOICES,
        INNER=BLOCK_HIDDEN,
    )
