"""Absorbed latent attention with the context cut into splits, a sequence's new tokens folded into the tile of heads.

A verified draft of t tokens makes t * heads rows that share every latent: the cache is read once for all of them. Each
program attends over one split and leaves a partial result; a second kernel joins a head's partial results and takes
them through its value projection.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.kernels.gpu.latent_join import join_splits
from kodkod_engine.kernels.gpu.latent_plans import Plan
from kodkod_engine.kernels.gpu.overlap import early, inputs_are_there

GRAIN = tl.constexpr(16)
"""Splits differ by no fewer places than the products take at a time."""


def reference(
    query: Tensor,
    latents: Tensor,
    blocks: Tensor,
    positions: Tensor,
    kv_b: Tensor,
    value: int,
    scale: float,
    block_size: int = 1,
) -> Tensor:
    """Attention over latents and the value projection, in fp32.

    Args:
        query: [sequences, new, heads, rank + rope]: absorbed into the latent space, rotated.
        latents: [all slots, rank + rope], one cache layer.
        blocks: int64 [sequences, context / block size]: place p of a sequence lies at slot
            `blocks[p // block_size] * block_size + p % block_size`.
        positions: int64 [sequences, new]: a token sees places up to its own.
        kv_b: [heads * (nope + value), rank]; per head keys come first.
        value: of a head.
        scale: factor on the scores.
        block_size: places of a block.

    Returns:
        [sequences * new, heads * value], query's dtype.
    """
    sequences, new, heads, _ = query.shape
    weights = kv_b.view(heads, -1, kv_b.shape[1])[:, -value:].float()
    places = torch.arange(blocks.shape[1] * block_size, device=blocks.device)
    slots = blocks[:, places // block_size] * block_size + places % block_size
    seen = latents[slots].float()
    scores = torch.einsum("snhr,scr->snhc", query.float(), seen) * scale
    scores = scores.masked_fill(places > positions[:, :, None, None], float("-inf"))
    mixed = torch.einsum("snhc,scr->snhr", scores.softmax(dim=-1), seen[..., : kv_b.shape[1]])
    return torch.einsum("snhr,hvr->snhv", mixed, weights).reshape(sequences * new, -1).to(query.dtype)


@triton.jit
def _asking(query, before, own, inside, RANK: tl.constexpr, ROPE: tl.constexpr):
    """Rows of the query, behind those of the sequences before: what meets latents, and what was rotated."""
    low, high = tl.arange(0, RANK), tl.arange(0, ROPE)
    at = query + (before + own[:, None]) * (RANK + ROPE)
    nope = tl.load(at + low[None, :], mask=inside[:, None], other=0.0)
    rope = tl.load(at + RANK + high[None, :], mask=inside[:, None], other=0.0)
    return nope, rope


@triton.jit
def _leave(partial, highest, sums, place, inside, best, total, mixed, RANK: tl.constexpr):
    """Each split's own result, and what it weighs beside the others; of an empty one 0."""
    low = tl.arange(0, RANK)
    mixed = mixed / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(partial + place[:, None] * RANK + low[None, :], mixed, mask=inside[:, None])
    tl.store(highest + place, best, mask=inside)
    tl.store(sums + place, total, mask=inside)


@triton.jit
def _attend(
    nope,
    rope,
    reach,
    best,
    total,
    mixed,
    latents,
    blocks,
    start,
    last,
    scale,
    RANK: tl.constexpr,
    ROPE: tl.constexpr,
    PLACES: tl.constexpr,
    SIZE: tl.constexpr,
):
    """One tile of places joined to what was before."""
    low, high = tl.arange(0, RANK), tl.arange(0, ROPE)
    places = start + tl.arange(0, PLACES)
    there = places < last
    block = tl.load(blocks + places // SIZE, mask=there, other=0)
    key = latents + (block * SIZE + places % SIZE)[:, None] * (RANK + ROPE)
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
    return higher, total, mixed


@triton.jit
def _split(
    query,
    latents,
    blocks,
    positions,
    partial,
    highest,
    sums,
    rows,
    heads,
    table_width,
    scale,
    RANK: tl.constexpr,
    ROPE: tl.constexpr,
    ROWS: tl.constexpr,
    PLACES: tl.constexpr,
    SIZE: tl.constexpr,
    LONGEST: tl.constexpr,
    EARLY: tl.constexpr,
):
    inputs_are_there(EARLY)
    sequence, tile, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    own = tile * ROWS + tl.arange(0, ROWS)
    inside = own < rows
    nope, rope = _asking(query, sequence * rows, own, inside, RANK, ROPE)
    reach = tl.load(positions + sequence * (rows // heads) + own // heads, mask=inside, other=-1).to(tl.int32)
    best = tl.full([ROWS], -1.0e30, dtype=tl.float32)
    total = tl.zeros([ROWS], dtype=tl.float32)
    mixed = tl.zeros([ROWS, RANK], dtype=tl.float32)
    # What is seen is cut evenly; the last splits of a short context may be left without any.
    seen = tl.max(reach, axis=0) + 1
    share = tl.cdiv(tl.cdiv(seen, tl.num_programs(2)), GRAIN) * GRAIN
    first = split * share
    last = tl.minimum(first + share, seen)
    table = blocks + sequence * table_width
    if LONGEST > 0:
        for step in range(0, LONGEST, PLACES):
            start = first + step
            best, total, mixed = _attend(
                nope, rope, reach, best, total, mixed, latents, table, start, last, scale, RANK, ROPE, PLACES, SIZE
            )
    else:
        for start in range(first, last, PLACES):
            best, total, mixed = _attend(
                nope, rope, reach, best, total, mixed, latents, table, start, last, scale, RANK, ROPE, PLACES, SIZE
            )
    place = (sequence * tl.num_programs(2) + split) * rows + own
    _leave(partial, highest, sums, place, inside, best, total, mixed, RANK)


@triton.jit
def _split_whole(
    query,
    latents,
    blocks,
    positions,
    partial,
    highest,
    sums,
    rows,
    heads,
    table_width,
    scale,
    RANK: tl.constexpr,
    ROPE: tl.constexpr,
    ROWS: tl.constexpr,
    PLACES: tl.constexpr,
    SIZE: tl.constexpr,
    EARLY: tl.constexpr,
):
    """As `_split` for a split of one tile; one beyond all that is seen leaves nothing."""
    sequence, tile, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    places = split * PLACES + tl.arange(0, PLACES)
    block = tl.load(blocks + sequence * table_width + places // SIZE)
    own = tile * ROWS + tl.arange(0, ROWS)
    inside = own < rows
    reach = tl.load(positions + sequence * (rows // heads) + own // heads, mask=inside, other=-1).to(tl.int32)
    inputs_are_there(EARLY)
    if split * PLACES <= tl.max(reach, axis=0):
        low, high = tl.arange(0, RANK), tl.arange(0, ROPE)
        key = latents + (block * SIZE + places % SIZE)[:, None] * (RANK + ROPE)
        latent = tl.load(key + low[None, :])
        turned = tl.load(key + RANK + high[None, :])
        nope, rope = _asking(query, sequence * rows, own, inside, RANK, ROPE)
        scores = tl.dot(nope, tl.trans(latent), input_precision="ieee")
        scores += tl.dot(rope, tl.trans(turned), input_precision="ieee")
        visible = places[None, :] <= reach[:, None]
        scores = tl.where(visible, scores * scale, -1.0e30)
        best = tl.max(scores, axis=1)
        weights = tl.where(visible, tl.exp(scores - best[:, None]), 0.0)
        total = tl.sum(weights, axis=1)
        mixed = tl.dot(weights.to(latent.dtype), latent, input_precision="ieee")
        place = (sequence * tl.num_programs(2) + split) * rows + own
        _leave(partial, highest, sums, place, inside, best, total, mixed, RANK)


def _longest(context: int, plan: Plan) -> int:
    """Places of a split at most, for the interpreter, which runs no loop whose length is found on the way; else 0."""
    share = triton.cdiv(triton.cdiv(context, plan.splits), GRAIN.value) * GRAIN.value
    tiles = int(triton.cdiv(share, plan.tile.places))
    return tiles * plan.tile.places if triton.knobs.runtime.interpret else 0


def latent_decode(
    query: Tensor,
    latents: Tensor,
    blocks: Tensor,
    positions: Tensor,
    kv_b: Tensor,
    value: int,
    scale: float,
    block_size: int = 1,
    *,
    plan: Plan,
) -> Tensor:
    """See `reference`; all contiguous, rank and rope powers of two of at least 16.

    A plan of whole tiles reads every place of a tile whose first is seen: its blocks must be some of the cache, and
    what lies there finite, for what nobody sees is weighed with 0.
    """
    _, new, heads, _ = query.shape
    parts = _attended(query, latents, blocks, positions, kv_b.shape[1], scale, block_size, plan)
    places = plan.tile.places if plan.tile.is_whole else 0
    return join_splits(*parts, kv_b, positions, new, heads, value, places)


def _attended(
    query: Tensor,
    latents: Tensor,
    blocks: Tensor,
    positions: Tensor,
    rank: int,
    scale: float,
    block_size: int,
    plan: Plan,
) -> tuple[Tensor, Tensor, Tensor]:
    """The splits' results [sequences, splits, new * heads, rank], their highest scores and their sums, fp32.

    Of a plan of whole tiles only as far as something is seen.
    """
    sequences, new, heads, width = query.shape
    rows, tile, splits = new * heads, plan.tile, plan.splits
    partial = query.new_empty(sequences, splits, rows, rank)
    highest, sums = (query.new_empty(sequences, splits, rows, dtype=torch.float32) for _ in range(2))
    grid: Any = (sequences, triton.cdiv(rows, tile.rows), splits)
    kernel: Any = _split_whole if tile.is_whole else _split
    more = {} if tile.is_whole else {"LONGEST": _longest(blocks.shape[1] * block_size, plan)}
    sizes = {"RANK": rank, "ROPE": width - rank, "ROWS": tile.rows, "PLACES": tile.places, "SIZE": block_size}
    given = query, latents, blocks, positions, partial, highest, sums, rows, heads, blocks.shape[1], scale
    kernel[grid](*given, **sizes, **more, num_warps=tile.num_warps, num_stages=tile.num_stages, **early())
    return partial, highest, sums
