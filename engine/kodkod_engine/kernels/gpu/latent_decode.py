"""Absorbed latent attention with the context cut into splits, a sequence's new tokens folded into the tile of heads.

A verified draft of t tokens makes t * heads rows that share every latent: the cache is read once for all of them. Each
program attends over one split and leaves a partial result; a second kernel joins them.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_ROWS = 32
BLOCK_PLACES = 32
MIN_TILE = 16
"""Tensor cores take no smaller side."""


def reference(query: Tensor, latents: Tensor, slots: Tensor, positions: Tensor, rank: int, scale: float) -> Tensor:
    """Attention over latents in fp32.

    Args:
        query: [sequences, new, heads, rank + rope]: absorbed into the latent space, rotated.
        latents: [all slots, rank + rope], one cache layer.
        slots: int64 [sequences, context]: where each sequence's tokens lie.
        positions: int64 [sequences, new]: a token sees places up to its own.
        rank: of the latent; what follows is the rope key.
        scale: factor on the scores.

    Returns:
        [sequences, new, heads, rank], query's dtype.
    """
    seen = latents[slots].float()
    scores = torch.einsum("snhr,scr->snhc", query.float(), seen) * scale
    places = torch.arange(slots.shape[1], device=slots.device)
    scores = scores.masked_fill(places > positions[:, :, None, None], float("-inf"))
    return torch.einsum("snhc,scr->snhr", scores.softmax(dim=-1), seen[..., :rank]).to(query.dtype)


@triton.jit
def _split(
    query,
    latents,
    slots,
    positions,
    partial,
    highest,
    sums,
    rows,
    heads,
    context,
    scale,
    RANK: tl.constexpr,
    ROPE: tl.constexpr,
    ROWS: tl.constexpr,
    PLACES: tl.constexpr,
    PER_SPLIT: tl.constexpr,
):
    sequence, tile, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    own = tile * ROWS + tl.arange(0, ROWS)
    inside = own < rows
    low, high = tl.arange(0, RANK), tl.arange(0, ROPE)
    at = query + (sequence * rows + own[:, None]) * (RANK + ROPE)
    nope = tl.load(at + low[None, :], mask=inside[:, None], other=0.0)
    rope = tl.load(at + RANK + high[None, :], mask=inside[:, None], other=0.0)
    reach = tl.load(positions + sequence * (rows // heads) + own // heads, mask=inside, other=-1)
    best = tl.full([ROWS], -1.0e30, dtype=tl.float32)
    total = tl.zeros([ROWS], dtype=tl.float32)
    mixed = tl.zeros([ROWS, RANK], dtype=tl.float32)
    first = split * PER_SPLIT
    last = tl.minimum(tl.minimum(first + PER_SPLIT, context), tl.max(reach, axis=0) + 1)
    for step in range(0, PER_SPLIT, PLACES):
        places = first + step + tl.arange(0, PLACES)
        there = places < last
        slot = tl.load(slots + sequence * context + places, mask=there, other=0)
        key = latents + slot[:, None] * (RANK + ROPE)
        latent = tl.load(key + low[None, :], mask=there[:, None], other=0.0)
        turned = tl.load(key + RANK + high[None, :], mask=there[:, None], other=0.0)
        scores = tl.dot(nope, tl.trans(latent), input_precision="ieee")
        scores += tl.dot(rope, tl.trans(turned), input_precision="ieee")
        visible = there[None, :] & (places[None, :] <= reach[:, None])
        scores = tl.where(visible, scores * scale, -1.0e30)
        higher = tl.maximum(best, tl.max(scores, axis=1))
        weights = tl.where(visible, tl.exp(scores - higher[:, None]), 0.0)
        shrink = tl.exp(best - higher)
        total = total * shrink + tl.sum(weights, axis=1)
        mixed = mixed * shrink[:, None] + tl.dot(weights.to(latent.dtype), latent, input_precision="ieee")
        best = higher
    place = (sequence * tl.num_programs(2) + split) * rows + own
    tl.store(partial + place[:, None] * RANK + low[None, :], mixed, mask=inside[:, None])
    tl.store(highest + place, best, mask=inside)
    tl.store(sums + place, total, mask=inside)


@triton.jit
def _join(
    partial,
    highest,
    sums,
    out,
    rows,
    splits: tl.constexpr,
    RANK: tl.constexpr,
):
    sequence, row = tl.program_id(0), tl.program_id(1)
    columns = tl.arange(0, RANK)
    best = -1.0e30
    total = 0.0
    mixed = tl.zeros([RANK], dtype=tl.float32)
    for split in range(splits):
        place = (sequence * splits + split) * rows + row
        own = tl.load(highest + place)
        higher = tl.maximum(best, own)
        shrink, share = tl.exp(best - higher), tl.exp(own - higher)
        total = total * shrink + tl.load(sums + place) * share
        mixed = mixed * shrink + tl.load(partial + place * RANK + columns) * share
        best = higher
    tl.store(out + (sequence * rows + row) * RANK + columns, mixed / total)


def latent_decode(
    query: Tensor, latents: Tensor, slots: Tensor, positions: Tensor, rank: int, scale: float, num_splits: int
) -> Tensor:
    """See `reference`; all contiguous, rank and rope powers of two of at least 16."""
    sequences, new, heads, width = query.shape
    rows, context = new * heads, slots.shape[1]
    partial = query.new_empty(sequences, num_splits, rows, rank, dtype=torch.float32)
    highest, sums = (query.new_empty(sequences, num_splits, rows, dtype=torch.float32) for _ in range(2))
    out = query.new_empty(sequences, new, heads, rank)
    grid: Any = (sequences, triton.cdiv(rows, BLOCK_ROWS), num_splits)
    _split[grid](
        query,
        latents,
        slots,
        positions,
        partial,
        highest,
        sums,
        rows,
        heads,
        context,
        scale,
        RANK=rank,
        ROPE=width - rank,
        ROWS=BLOCK_ROWS,
        PLACES=BLOCK_PLACES,
        PER_SPLIT=triton.cdiv(context, num_splits),
        num_warps=8,
    )
    join: Any = (sequences, rows)
    _join[join](partial, highest, sums, out, rows, splits=num_splits, RANK=rank)
    return out
