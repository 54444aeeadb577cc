"""What latent attention takes, from the two projections before it, in one kernel.

The query's plain part moves into the latent space and its other part is turned; the new tokens' latents are normalised,
scaled and written to the cache beside their turned rope keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.kernels.gpu.overlap import early, inputs_are_there

BLOCK_TOKENS = 16
"""Tensor cores take no smaller side; fewer tokens are padded."""

BLOCK_RANK = 128


@dataclass(frozen=True, slots=True)
class LatentShape:
    """Sizes and factors of an attention block."""

    heads: int
    nope: int
    rope: int
    rank: int
    value: int
    q_scale: float
    kv_scale: float
    eps: float


def reference(
    query: Tensor,
    down: Tensor,
    kv_b: Tensor,
    norm: Tensor,
    turns: Tensor,
    positions: Tensor,
    slots: Tensor,
    cache: Tensor,
    shape: LatentShape,
) -> Tensor:
    """The absorbed query; writes to the cache.

    Args:
        query: [tokens, heads * (nope + rope)].
        down: [tokens, rank + rope]: the latents and rope keys as they are projected; rows may lie apart.
        kv_b: [heads * (nope + value), rank].
        norm: [rank].
        turns: fp32 [positions, rope / 2, 2], cosine and sine.
        positions: int64 [tokens].
        slots: int64 [tokens].
        cache: [all slots, rank + rope], one layer.
        shape: of the block.

    Returns:
        [tokens, heads, rank + rope].
    """
    table = torch.view_as_complex(turns[positions])
    wide = down[:, : shape.rank].float()
    unit = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + shape.eps)).to(down.dtype) * norm
    rows = torch.cat([unit * shape.kv_scale, _turned(down[:, shape.rank :], table)], dim=-1)
    cache.index_copy_(0, slots, rows.to(cache.dtype))
    query = (query * shape.q_scale).unflatten(-1, (shape.heads, -1))
    nope, rope = query.split([shape.nope, shape.rope], dim=-1)
    keys = kv_b.view(shape.heads, -1, shape.rank)[:, : shape.nope]
    absorbed = torch.einsum("thn,hnr->thr", nope.float(), keys.float()).to(query.dtype)
    return torch.cat([absorbed, _turned(rope, table[:, None])], dim=-1)


def _turned(x: Tensor, table: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * table).flatten(-2).to(x.dtype)


@triton.jit
def _turn(x, out, turns, mask, scale, dtype: tl.constexpr, ROPE: tl.constexpr):
    """Rows of pairs at x [.., 1] turned by rows of `turns`, written at `out`; all are blocks of pointers [rows, 1]."""
    pairs = tl.arange(0, ROPE // 2)[None, :]
    cosine = tl.load(turns + 2 * pairs, mask=mask, other=0.0)
    sine = tl.load(turns + 2 * pairs + 1, mask=mask, other=0.0)
    even = (tl.load(x + 2 * pairs, mask=mask, other=0.0).to(tl.float32) * scale).to(dtype).to(tl.float32)
    odd = (tl.load(x + 2 * pairs + 1, mask=mask, other=0.0).to(tl.float32) * scale).to(dtype).to(tl.float32)
    tl.store(out + 2 * pairs, even * cosine - odd * sine, mask=mask)
    tl.store(out + 2 * pairs + 1, even * sine + odd * cosine, mask=mask)


@triton.jit
def _write(down, norm, turns, position, row, eps, kv_scale, RANK: tl.constexpr, ROPE: tl.constexpr):
    """One token's row of the cache, at `row`."""
    columns = tl.arange(0, RANK)
    own = tl.load(down + columns)
    wide = own.to(tl.float32)
    factor = 1.0 / tl.sqrt(tl.sum(wide * wide, axis=0) / RANK + eps)
    weights = tl.load(norm + columns).to(tl.float32)
    unit = ((wide * factor).to(own.dtype).to(tl.float32) * weights).to(own.dtype).to(tl.float32)
    tl.store(row + columns, unit * kv_scale)
    nothing = tl.zeros([1, 1], dtype=tl.int32)
    turn = turns + position * ROPE + nothing
    _turn(down + RANK + nothing, row + RANK + nothing, turn, nothing == 0, 1.0, own.dtype, ROPE)


@triton.jit
def _kernel(
    query,
    down,
    kv_b,
    norm,
    turns,
    positions,
    slots,
    cache,
    wide,
    tokens,
    stride,
    q_scale,
    kv_scale,
    eps,
    HEADS: tl.constexpr,
    NOPE: tl.constexpr,
    ROPE: tl.constexpr,
    RANK: tl.constexpr,
    VALUE: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):
    head, block = tl.program_id(0), tl.program_id(1)
    first = tl.program_id(2) * TOKENS
    dtype = query.dtype.element_ty
    if head < HEADS:
        own = first + tl.arange(0, TOKENS)
        inside = (own < tokens)[:, None]
        low, high = tl.arange(0, NOPE), block * BLOCK + tl.arange(0, BLOCK)
        keys = tl.load(kv_b + (head * (NOPE + VALUE) + low[:, None]) * RANK + high[None, :])
        inputs_are_there(EARLY)
        at = query + own[:, None] * (HEADS * (NOPE + ROPE)) + head * (NOPE + ROPE)
        nope = tl.load(at + low[None, :], mask=inside, other=0.0)
        nope = (nope.to(tl.float32) * q_scale).to(dtype)
        to = wide + (own[:, None] * HEADS + head) * (RANK + ROPE)
        tl.store(to + high[None, :], tl.dot(nope, keys.to(dtype), input_precision="ieee"), mask=inside)
        if block == 0:
            place = tl.load(positions + own, mask=own < tokens, other=0)
            _turn(at + NOPE, to + RANK, turns + place[:, None] * ROPE, inside, q_scale, dtype, ROPE)
    else:
        inputs_are_there(EARLY)
        token = first + head - HEADS
        if (block == 0) & (token < tokens):
            row = cache + tl.load(slots + token) * (RANK + ROPE)
            place = tl.load(positions + token)
            _write(down + token * stride, norm, turns, place, row, eps, kv_scale, RANK, ROPE)


def latent_inputs(
    query: Tensor,
    down: Tensor,
    kv_b: Tensor,
    norm: Tensor,
    turns: Tensor,
    positions: Tensor,
    slots: Tensor,
    cache: Tensor,
    shape: LatentShape,
) -> Tensor:
    """See `reference`; all but `down` contiguous; nope and rank powers of two of at least 16."""
    tokens = len(query)
    wide = query.new_empty(tokens, shape.heads, shape.rank + shape.rope)
    block = min(BLOCK_RANK, shape.rank)
    # Behind the heads come programs that write one token each.
    programs = shape.heads + min(tokens, BLOCK_TOKENS)
    grid: Any = (programs, shape.rank // block, triton.cdiv(tokens, BLOCK_TOKENS))
    _kernel[grid](
        query,
        down,
        kv_b,
        norm,
        turns,
        positions,
        slots,
        cache,
        wide,
        tokens,
        down.stride(0),
        shape.q_scale,
        shape.kv_scale,
        shape.eps,
        HEADS=shape.heads,
        NOPE=shape.nope,
        ROPE=shape.rope,
        RANK=shape.rank,
        VALUE=shape.value,
        TOKENS=BLOCK_TOKENS,
        BLOCK=block,
        **early(),
    )
    return wide
