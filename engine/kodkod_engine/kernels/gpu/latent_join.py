"""The second half of decoding over latents: the splits' results joined, and a head's value projection of them."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.kernels.gpu.overlap import early, inputs_are_there

BLOCK_VALUES = 32
MANY_TOKENS, TOKENS_EACH = 8, 4
"""From so many on a program joins several, for each that does reads its part of the value projection anew."""

PART = 16
"""Results of splits that are added to one another place by place, before the sum over all."""

MOST_AT_ONCE, AT_ONCE_OF_MORE = 128, 64
"""Results of splits that a program asks for together, as many as its registers hold: of more, there is more beside."""


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
    own, columns = tl.arange(0, PART), tl.arange(0, RANK)
    best, weights = (), ()
    for first in tl.static_range(0, SPLITS, PART):
        at, there = row + (first + own) * stride, first + own < used
        best = best + (tl.load(highest + at, mask=there, other=-1.0e30),)  # type: ignore[assignment]  # noqa: RUF005  # Triton grows tuples by + alone
        weights = weights + (tl.load(sums + at, mask=there, other=0.0),)  # type: ignore[assignment]  # noqa: RUF005  # as above
    joined = tl.zeros([PART, RANK], dtype=tl.float32)
    total = tl.zeros([PART], dtype=tl.float32)
    for start in tl.static_range(0, SPLITS, AT_ONCE):
        # All results are on their way before the first number that must be waited for.
        values = ()
        for first in tl.static_range(start, start + AT_ONCE, PART):
            at, there = row + (first + own) * stride, first + own < used
            place = partial + at[:, None] * RANK + columns[None, :]
            values = values + (tl.load(place, mask=there[:, None], other=0.0),)  # type: ignore[assignment]  # noqa: RUF005  # as above
        if start == 0:
            tl.debug_barrier()
            highs = best[0]  # type: ignore[misc]
            for index in tl.static_range(1, len(best)):
                highs = tl.maximum(highs, best[index])
            top = tl.max(highs, axis=0)
        for index in tl.static_range(len(values)):
            share = weights[start // PART + index] * tl.exp(best[start // PART + index] - top)
            total += share
            joined += values[index].to(tl.float32) * share[:, None]
    return tl.sum(joined, axis=0) / tl.sum(total, axis=0)


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
    parts = {
        "SPLITS": splits,
        "PART": min(splits, PART),
        "AT_ONCE": splits if splits <= MOST_AT_ONCE else AT_ONCE_OF_MORE,
    }
    _values[grid](
        partial, highest, sums, kv_b, positions, out, new, heads, tokens, **sizes, **parts, num_warps=8, **early()
    )
    return out
