"""What the experts made of a long step's rows, back at their tokens: weighted, summed in fp32, identity added."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


def reference(x: Tensor, rows: Tensor, places: Tensor, chosen: Tensor, weights: Tensor, num_experts: int) -> Tensor:
    """The weighted sum over a token's choices; an identity expert's row is the token itself.

    Args:
        x: [tokens, hidden].
        rows: [tokens * k, hidden], in any order; rows of identity experts are never read.
        places: int64 [tokens, k]: which row belongs to a choice.
        chosen: int64 [tokens, k]; ids from `num_experts` on are identity experts.
        weights: fp32 [tokens, k].

    Returns:
        [tokens, hidden], dtype of x.
    """
    is_real = chosen < num_experts
    own = torch.where(is_real[..., None], rows[places].float(), x[:, None].float())
    return (own * weights[..., None]).sum(dim=1).to(x.dtype)


@triton.jit
def _kernel(x, rows, places, chosen, weights, out, num_experts, hidden, K: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < hidden
    total = tl.zeros([BLOCK], dtype=tl.float32)
    kept = 0.0
    for choice in tl.static_range(K):
        weight = tl.load(weights + token * K + choice)
        is_real = tl.load(chosen + token * K + choice) < num_experts
        place = tl.load(places + token * K + choice)
        row = tl.load(rows + place * hidden + columns, mask=inside & is_real, other=0.0).to(tl.float32)
        total += weight * row
        kept += tl.where(is_real, 0.0, weight)
    own = tl.load(x + token * hidden + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + token * hidden + columns, total + kept * own, mask=inside)


def expert_sum(x: Tensor, rows: Tensor, places: Tensor, chosen: Tensor, weights: Tensor, num_experts: int) -> Tensor:
    """See `reference`; all contiguous."""
    tokens, hidden = x.shape
    out = torch.empty_like(x)
    block = min(BLOCK, triton.next_power_of_2(hidden))
    grid: Any = (tokens, triton.cdiv(hidden, block))
    _kernel[grid](x, rows, places, chosen, weights, out, num_experts, hidden, K=chosen.shape[1], BLOCK=block)
    return out
