"""Residual and root-mean-square norm in one kernel: the sum is written once and normalised while it is at hand."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.kernels.gpu.overlap import early, inputs_are_there


def reference(x: Tensor, added: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The sum, and the sum normalised: statistics in fp32, cast back before it meets the weight.

    Args:
        x: [tokens, hidden].
        added: [tokens, hidden].
        weight: [hidden].

    Returns:
        x + added and its norm, x's dtype.
    """
    whole = x + added
    wide = whole.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return whole, (wide * scale).to(x.dtype) * weight


@triton.jit
def _kernel(
    x,
    added,
    weight,
    whole,
    normed,
    hidden,
    eps,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < hidden
    left = tl.load(x + token * hidden + columns, mask=inside, other=0.0)
    right = tl.load(added + token * hidden + columns, mask=inside, other=0.0)
    sum_ = (left.to(tl.float32) + right.to(tl.float32)).to(left.dtype)
    tl.store(whole + token * hidden + columns, sum_, mask=inside)
    wide = sum_.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(wide * wide, axis=0) / hidden + eps)
    factors = tl.load(weight + columns, mask=inside, other=0.0)
    tl.store(
        normed + token * hidden + columns,
        (wide * scale).to(left.dtype).to(tl.float32) * factors.to(tl.float32),
        mask=inside,
    )


def residual_norm(x: Tensor, added: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `reference`."""
    whole, normed = torch.empty_like(x), torch.empty_like(x)
    hidden = x.shape[-1]
    grid: Any = (len(x),)
    _kernel[grid](x, added, weight, whole, normed, hidden, eps, BLOCK=triton.next_power_of_2(hidden))
    return whole, normed


@triton.jit
def _normed(x, weight, out, stride, hidden, eps, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    inputs_are_there(EARLY)
    token = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < hidden
    own = tl.load(x + token * stride + columns, mask=inside, other=0.0)
    wide = own.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(wide * wide, axis=0) / hidden + eps)
    factors = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + token * hidden + columns, (wide * scale).to(own.dtype).to(tl.float32) * factors, mask=inside)


def normed(x: Tensor, weight: Tensor, eps: float, *, follows: bool = True) -> Tensor:
    """The norm alone: [tokens, hidden], rows perhaps apart; `follows` as `overlap.early` has it."""
    tokens, hidden = x.shape
    out = x.new_empty(tokens, hidden)
    grid: Any = (tokens,)
    size = triton.next_power_of_2(hidden)
    _normed[grid](x, weight, out, x.stride(0), hidden, eps, BLOCK=size, **early(follows))
    return out
