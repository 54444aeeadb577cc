"""The second half of decoding over latents: the splits' results joined, and a head's value projection of them."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.kernels.gpu.overlap import early, inputs_are_there
from kodkod_engine.kernels.gpu.tiles import INTERPRETED

BLOCK_VALUES = 32
MANY_TOKENS, TOKENS_EACH = 8, 4
"""From so many on a program joins several, for each that does reads its part of the value projection anew."""

PART = 64
"""Results of splits that are multiplied at once: as many as leave room for a program of the kernel before."""

LEAST_SPLITS = 16
"""Tensor cores take no fewer; beyond those there are, 0 is read."""

JOINED_AT_ONCE = 128
"""Results of splits that a program asks for together: as many as its registers hold."""


def reference(
    partial: Tensor,
    highest: Tensor,
    sums: Tensor,
    kv_b: Tensor,
    positions: Tensor,
    new: int,
    heads: int,
    value: int,
    places: int,
) -> Tensor:
    """In fp32.

    Args:
        partial: [sequences, splits, new * heads, rank]: what each split saw, weighed and mixed.
        highest: fp32 [sequences, splits, new * heads]: of its scores.
        sums: the same, of its weights; 0 where it saw nothing.
        kv_b: [heads * (nope + value), rank]; per head keys come first.
        positions: int64 [sequences, new]: a token sees places up to its own.
        new: tokens of a sequence.
        heads: of the attention.
        value: of a head.
        places: of a split; those beyond a token's position are not read. 0 where every split left something.

    Returns:
        [sequences * new, heads * value], partial's dtype.
    """
    if places:
        starts = torch.arange(partial.shape[1], device=partial.device)[None, :, None] * places
        is_read = (starts <= positions[:, None]).repeat_interleave(heads, dim=2)
        partial, sums = (torch.where(mask, part, 0) for mask, part in ((is_read[..., None], partial), (is_read, sums)))
        highest = torch.where(is_read, highest, -1.0e30)
    shares = sums * torch.exp(highest - highest.amax(dim=1, keepdim=True))
    mixed = (partial.float() * (shares / shares.sum(dim=1, keepdim=True))[..., None]).sum(dim=1)
    weights = kv_b.view(heads, -1, kv_b.shape[1])[:, -value:].float()
    by_head = mixed.view(-1, heads, mixed.shape[-1])
    return torch.einsum("thr,hvr->thv", by_head, weights).flatten(1).to(partial.dtype)


@triton.jit
def _asked(partial, row, stride, start, used, PART: tl.constexpr, AT_ONCE: tl.constexpr, RANK: tl.constexpr):
    """Results of some splits, [PART, RANK] each; 0 of those that nobody used."""
    columns = tl.arange(0, RANK)
    values = ()
    for first in tl.static_range(0, AT_ONCE, PART):
        split = start + first + tl.arange(0, PART)
        place = partial + (row + split * stride)[:, None] * RANK + columns[None, :]
        values = values + (tl.load(place, mask=(split < used)[:, None], other=0.0),)  # type: ignore[assignment]  # noqa: RUF005  # Triton grows tuples by + alone
    return values


@triton.jit
def _weighed(values, highest, sums, row, stride, start, used, top, PART: tl.constexpr):
    """What `_asked` brought, weighed and added up by the tensor cores: fp32 [RANK].

    They take sixteen rows of weights: one has what a weight rounds to, and one the rest, so nothing is lost by it.
    """
    side = tl.arange(0, 16)[:, None]
    joined = tl.zeros([16, values[0].shape[1]], dtype=tl.float32)
    for index in tl.static_range(len(values)):
        split = start + index * PART + tl.arange(0, PART)
        at, there = row + split * stride, split < used
        high = tl.load(highest + at, mask=there, other=-1.0e30)
        share = tl.load(sums + at, mask=there, other=0.0) * tl.exp(high - top)
        rounded = share.to(values[index].dtype)
        rest = (share - rounded.to(tl.float32)).to(values[index].dtype)
        both = tl.where(side == 0, rounded[None, :], tl.where(side == 1, rest[None, :], 0.0)).to(values[index].dtype)
        joined += tl.dot(both, values[index], input_precision="ieee")
    return tl.sum(joined, axis=0)


@triton.jit
def _joined(
    partial,
    highest,
    sums,
    row,
    stride,
    used,
    SPLITS: tl.constexpr,
    PART: tl.constexpr,
    AT_ONCE: tl.constexpr,
    RANK: tl.constexpr,
):
    """One head's result of one token from its first `used` splits, which lie `stride` rows apart: fp32 [RANK]."""
    every = tl.arange(0, SPLITS)
    best = tl.load(highest + row + every * stride, mask=every < used, other=-1.0e30)
    total = tl.load(sums + row + every * stride, mask=every < used, other=0.0)
    # These results are on their way before the first number that must be waited for.
    values = _asked(partial, row, stride, 0, used, PART, AT_ONCE, RANK)
    tl.debug_barrier()
    top = tl.max(best, axis=0)
    joined = _weighed(values, highest, sums, row, stride, 0, used, top, PART)
    if SPLITS > AT_ONCE:
        # Triton's interpreter runs no loop whose length is found on the way.
        for start in range(AT_ONCE, SPLITS if INTERPRETED else used, PART):
            more = _asked(partial, row, stride, start, used, PART, PART, RANK)
            joined += _weighed(more, highest, sums, row, stride, start, used, top, PART)
    return joined / tl.sum(total * tl.exp(best - top), axis=0)


@triton.jit
def _values(
    partial,
    highest,
    sums,
    kv_b,
    positions,
    out,
    new,
    heads,
    tokens,
    PLACES: tl.constexpr,
    EACH: tl.constexpr,
    SPLITS: tl.constexpr,
    PART: tl.constexpr,
    AT_ONCE: tl.constexpr,
    RANK: tl.constexpr,
    NOPE: tl.constexpr,
    VALUE: tl.constexpr,
    BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):
    head = tl.program_id(0)
    own = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = own < VALUE
    at = kv_b + (head * (NOPE + VALUE) + NOPE + own[:, None]) * RANK + tl.arange(0, RANK)[None, :]
    weights = tl.load(at, mask=inside[:, None], other=0.0)
    # The last token comes again where there are no more.
    every = tl.minimum(tl.program_id(2) * EACH + tl.arange(0, EACH), tokens - 1)
    # Positions are older than the kernel before.
    splits = tl.load(positions + every) // PLACES + 1 if PLACES > 0 else every * 0 + SPLITS
    inputs_are_there(EARLY)
    for index in tl.static_range(EACH):
        token = tl.minimum(tl.program_id(2) * EACH + index, tokens - 1)
        used = tl.sum(tl.where(tl.arange(0, EACH) == index, splits, 0), axis=0)
        # Rows of the partial results: [sequence, split, new token, head].
        row = (token // new * SPLITS * new + token % new) * heads + head
        mixed = _joined(partial, highest, sums, row, new * heads, used, SPLITS, PART, AT_ONCE, RANK)
        result = tl.sum(weights.to(tl.float32) * mixed[None, :], axis=1)
        tl.store(out + (token * heads + head) * VALUE + own, result, mask=inside)


def join_splits(
    partial: Tensor,
    highest: Tensor,
    sums: Tensor,
    kv_b: Tensor,
    positions: Tensor,
    new: int,
    heads: int,
    value: int,
    places: int,
) -> Tensor:
    """See `reference`; a power of two of splits, a rank that is one."""
    tokens, splits, rank = len(partial) * new, partial.shape[1], kv_b.shape[1]
    out = partial.new_empty(tokens, heads * value)
    block = min(BLOCK_VALUES, triton.next_power_of_2(value))
    each = 1 if tokens < MANY_TOKENS else TOKENS_EACH
    grid: Any = (heads, triton.cdiv(value, block), triton.cdiv(tokens, each))
    sizes = {"RANK": rank, "NOPE": len(kv_b) // heads - value, "VALUE": value, "BLOCK": block, "EACH": each}
    sizes["PLACES"] = places
    held = max(splits, LEAST_SPLITS)
    parts = {"SPLITS": splits, "PART": min(held, PART), "AT_ONCE": min(held, JOINED_AT_ONCE)}
    _values[grid](
        partial, highest, sums, kv_b, positions, out, new, heads, tokens, **sizes, **parts, num_warps=8, **early()
    )
    return out
