"""Causal attention of many new tokens over keys and values rebuilt from the latents.

Keys and values are taken as the one product that rebuilds them leaves them, side by side per head, and the rope keys
out of the cache itself: nothing is copied, joined or padded, and no score is ever written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a program goes through the context."""

    rows: int = 128
    """New tokens of a program."""
    places: int = 64
    """Of a block of keys."""
    stages: int = 3
    """Blocks under way at a time."""
    warps: int = 8
    by_descriptor: bool = False
    """Whether the device copies blocks by itself (Hopper and later), or threads ask for each address."""


TILINGS = (
    Tiling(),
    Tiling(stages=2),
    Tiling(places=128, stages=2),
    Tiling(rows=64, stages=2, warps=4),
    Tiling(by_descriptor=True),
    Tiling(places=128, stages=2, by_descriptor=True),
)
"""The one of 64 rows lets two programs share a processor: one multiplies while the other weighs."""


def shape_class(new: int) -> int:
    """Steps of about equally many new tokens, up to where there are programs enough: what a tiling is chosen for."""
    return min(max(new.bit_length(), 7), 11)


LOG2_E = 1.4426950408889634


def reference(query: Tensor, per_head: Tensor, rope_keys: Tensor, scale: float) -> Tensor:
    """Attention in fp32; the new tokens are the last ones of the context.

    Args:
        query: [new, heads, nope + rope], rotated.
        per_head: [context, heads, nope + value]: keys first.
        rope_keys: [context, rope], shared by the heads.
        scale: factor on the scores.

    Returns:
        [new, heads, value], query's dtype.
    """
    new, context, nope = len(query), len(rope_keys), query.shape[2] - rope_keys.shape[1]
    keys, values = per_head.float().split([nope, per_head.shape[2] - nope], dim=-1)
    own = query.float() * scale
    scores = torch.einsum("nhd,chd->hnc", own[..., :nope], keys)
    scores += torch.einsum("nhd,cd->hnc", own[..., nope:], rope_keys.float())
    places = torch.arange(context, device=query.device)
    scores = scores.masked_fill(places > places[context - new :, None], float("-inf"))
    return torch.einsum("hnc,chv->nhv", scores.softmax(dim=-1), values).to(query.dtype)


@triton.jit
def _block(
    keys, rope_keys, places, context, key_stride, rope_stride,
    NOPE: tl.constexpr, ROPE: tl.constexpr, VALUE: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Keys, turned keys and values of some places, each address worked out by the threads."""
    low, high, wide = tl.arange(0, NOPE), tl.arange(0, ROPE), tl.arange(0, VALUE)
    at = keys + places[:, None].to(tl.int64) * key_stride
    turned_at = rope_keys + places[:, None].to(tl.int64) * rope_stride + high[None, :]
    if MASKED:
        there = places[:, None] < context
        key = tl.load(at + low[None, :], mask=there, other=0.0)
        turned = tl.load(turned_at, mask=there, other=0.0)
        value = tl.load(at + NOPE + wide[None, :], mask=there, other=0.0)
    else:
        key = tl.load(at + low[None, :])
        turned = tl.load(turned_at)
        value = tl.load(at + NOPE + wide[None, :])
    return key, turned, value


@triton.jit
def _weigh(
    nope, rope, best, total, mixed, key, turned, value, places, reach, scale, MASKED: tl.constexpr
):  # fmt: skip
    """One block of places more in the running softmax and the mixed values."""
    scores = tl.dot(nope, tl.trans(key), input_precision="ieee")
    scores = tl.dot(rope, tl.trans(turned), scores, input_precision="ieee") * scale
    if MASKED:
        scores = tl.where(places[None, :] <= reach[:, None], scores, -1.0e30)
    higher = tl.maximum(best, tl.max(scores, axis=1))
    weights = tl.exp2(scores - higher[:, None])
    shrink = tl.exp2(best - higher)
    total = total * shrink + tl.sum(weights, axis=1)
    mixed = tl.dot(weights.to(value.dtype), value, mixed * shrink[:, None], input_precision="ieee")
    return higher, total, mixed


@triton.jit
def _asking(query, rows, inside, heads, head, NOPE: tl.constexpr, ROPE: tl.constexpr):
    at = query + (rows[:, None].to(tl.int64) * heads + head) * (NOPE + ROPE)
    nope = tl.load(at + tl.arange(0, NOPE)[None, :], mask=inside[:, None], other=0.0)
    rope = tl.load(at + NOPE + tl.arange(0, ROPE)[None, :], mask=inside[:, None], other=0.0)
    return nope, rope


@triton.jit
def _kernel(
    query, keys, rope_keys, out, new, context, scale, heads, rope_stride,
    NOPE: tl.constexpr, ROPE: tl.constexpr, VALUE: tl.constexpr, ROWS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    # The last rows see most: they begin first.
    tile, head = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1)
    rows = tile * ROWS + tl.arange(0, ROWS)
    inside = rows < new
    nope, rope = _asking(query, rows, inside, heads, head, NOPE, ROPE)
    reach = tl.where(inside, context - new + rows, context - 1)
    keys += head.to(tl.int64) * (NOPE + VALUE)
    stride = heads * (NOPE + VALUE)
    best = tl.full([ROWS], -1.0e30, dtype=tl.float32)
    total = tl.zeros([ROWS], dtype=tl.float32)
    mixed = tl.zeros([ROWS, VALUE], dtype=tl.float32)
    # Up to the first bound every row of the tile sees every place, beyond the second none does.
    open_end = tl.min((reach + 1) // PLACES * PLACES, axis=0)
    end = tl.max(reach + 1, axis=0)
    for start in range(0, open_end, PLACES):
        places = start + tl.arange(0, PLACES)
        key, turned, value = _block(
            keys, rope_keys, places, context, stride, rope_stride, NOPE, ROPE, VALUE, False
        )  # fmt: skip
        best, total, mixed = _weigh(nope, rope, best, total, mixed, key, turned, value, places, reach, scale, False)
    for start in range(open_end, end, PLACES):
        places = start + tl.arange(0, PLACES)
        key, turned, value = _block(keys, rope_keys, places, context, stride, rope_stride, NOPE, ROPE, VALUE, True)
        best, total, mixed = _weigh(nope, rope, best, total, mixed, key, turned, value, places, reach, scale, True)
    to = out + (rows[:, None].to(tl.int64) * heads + head) * VALUE
    tl.store(to + tl.arange(0, VALUE)[None, :], mixed / total[:, None], mask=inside[:, None])


@triton.jit
def _described(
    query, keys, values, rope_keys, out, new, context, scale, heads,
    NOPE: tl.constexpr, ROPE: tl.constexpr, VALUE: tl.constexpr, ROWS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """As `_kernel`; keys, values and turned keys are descriptors, and the device copies blocks of them by itself."""
    tile, head = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1)
    rows = tile * ROWS + tl.arange(0, ROWS)
    inside = rows < new
    nope, rope = _asking(query, rows, inside, heads, head, NOPE, ROPE)
    reach = tl.where(inside, context - new + rows, context - 1)
    column = head * (NOPE + VALUE)
    best = tl.full([ROWS], -1.0e30, dtype=tl.float32)
    total = tl.zeros([ROWS], dtype=tl.float32)
    mixed = tl.zeros([ROWS, VALUE], dtype=tl.float32)
    open_end = tl.min((reach + 1) // PLACES * PLACES, axis=0)
    end = tl.max(reach + 1, axis=0)
    for start in range(0, open_end, PLACES):
        key, turned, value = keys.load([start, column]), rope_keys.load([start, 0]), values.load([start, column + NOPE])
        places = start + tl.arange(0, PLACES)
        best, total, mixed = _weigh(nope, rope, best, total, mixed, key, turned, value, places, reach, scale, False)
    for start in range(open_end, end, PLACES):
        # Beyond the context a descriptor gives zeros.
        key, turned, value = keys.load([start, column]), rope_keys.load([start, 0]), values.load([start, column + NOPE])
        places = start + tl.arange(0, PLACES)
        best, total, mixed = _weigh(nope, rope, best, total, mixed, key, turned, value, places, reach, scale, True)
    to = out + (rows[:, None].to(tl.int64) * heads + head) * VALUE
    tl.store(to + tl.arange(0, VALUE)[None, :], mixed / total[:, None], mask=inside[:, None])


def prefill_attention(
    query: Tensor, per_head: Tensor, rope_keys: Tensor, scale: float, tiling: Tiling = TILINGS[0]
) -> Tensor:
    """See `reference`; query and per_head contiguous, rope keys may be a part of wider rows; every size of a head a
    power of two of at least 16."""
    (new, heads, _), context, rope = query.shape, len(rope_keys), rope_keys.shape[1]
    nope = query.shape[2] - rope
    value = per_head.shape[2] - nope
    out = torch.empty(new, heads, value, dtype=query.dtype, device=query.device)
    grid: Any = (triton.cdiv(new, tiling.rows), heads)
    sizes = {"NOPE": nope, "ROPE": rope, "VALUE": value, "ROWS": tiling.rows, "PLACES": tiling.places}
    run = {"num_warps": tiling.warps, "num_stages": tiling.stages}
    numbers = new, context, scale * LOG2_E, heads
    if tiling.by_descriptor:
        wide = per_head.flatten(1)
        blocks = [(wide, nope), (wide, value), (rope_keys, rope)]
        described = [TensorDescriptor.from_tensor(x, [tiling.places, width]) for x, width in blocks]
        _described[grid](query, *described, out, *numbers, **sizes, **run)
    else:
        _kernel[grid](query, per_head, rope_keys, out, *numbers, rope_keys.stride(0), **sizes, **run)
    return out
