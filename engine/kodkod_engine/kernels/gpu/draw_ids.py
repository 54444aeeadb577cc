"""Drawing the next id of every row on the device: temperature, top-k, top-p, min-p, and a point in the cumulative sum.

Nothing is sorted: every filter keeps the ids from some logit on, and that border is found by counting: of 16-bit
numbers each value for itself (`counted_draws`), of others here, two bits in each pass over the row. Sums are in fp64
and always in the same order, so a point draws the same id again.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.kernels.gpu.counted_draws import counted_draws
from kodkod_engine.layers.draws import Draws

NARROW_BYTES = 2
"""Of a logit that has 65,536 values at most."""

BLOCK, MIN_BLOCK = 4096, 512
NUM_WARPS = 16


def reference(logits: Tensor, draws: Draws, step: Tensor) -> Tensor:
    """Ids by sorting whole rows.

    Args:
        logits: [rows, vocab], any floating type; a row has a finite one at least.
        draws: on the same device.
        step: int64 [rows]: which of its points each row takes.

    Returns:
        int64 [rows]. Of equal logits the lower ids come first, where only some of them are kept.
    """
    best = logits.argmax(dim=-1)
    weights = weights_of(logits, draws.temperature)
    ordered, order = logits.float().sort(dim=-1, descending=True, stable=True)
    vocab = logits.shape[1]
    all_kept = (draws.top_k < 1) | (draws.top_k > vocab)
    kth = ordered.gather(1, torch.where(all_kept, vocab, draws.top_k)[:, None] - 1)
    kept = weights.gather(1, order).masked_fill(ordered < kth, 0.0)
    mass_before = kept.cumsum(dim=-1) - kept
    is_out = (mass_before >= draws.top_p[:, None] * kept.sum(dim=-1, keepdim=True)) & (draws.top_p < 1)[:, None]
    kept = kept.masked_fill(is_out | (kept < draws.min_p[:, None]), 0.0)
    cumulative = torch.zeros_like(kept).scatter_(1, order, kept).cumsum(dim=-1)
    points = draws.points.gather(0, step[None])[0]
    drawn = torch.searchsorted(cumulative, points[:, None] * cumulative[:, -1:], right=True)[:, 0]
    return torch.where(draws.temperature > 0, drawn, best)


def weights_of(logits: Tensor, temperature: Tensor) -> Tensor:
    """What each id weighs against the most probable one, which weighs 1: float64 [rows, vocab]."""
    best = logits.amax(dim=-1, keepdim=True).double()
    # From the maximum down: the smallest temperatures overflow to -inf, which weighs nothing.
    # (Filled, for a choice between a tensor and a number would copy the number to the device, which no graph may.)
    return ((logits.double() - best) / temperature.masked_fill(temperature == 0, 1.0)[:, None]).exp_()


@triton.jit
def _keys(logits, ids, inside):
    """int64 in [0, 2^32), in the order of the logits."""
    # Adding zero makes one of the two zeros.
    values = tl.load(logits + ids, mask=inside, other=-float("inf")).to(tl.float32) + 0.0
    bits = values.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64) + 2147483648


@triton.jit
def _border(logits, weights, vocab, floor, wanted, BY_MASS: tl.constexpr, SIZE: tl.constexpr):
    """The highest key such that the ids from it on, and from `floor` on, count or weigh `wanted` at least."""
    low = floor * 0
    step = low + (1 << 30)
    for _ in range(16):
        first = tl.zeros([SIZE], dtype=tl.float64)
        second = tl.zeros([SIZE], dtype=tl.float64)
        third = tl.zeros([SIZE], dtype=tl.float64)
        for start in range(0, vocab, SIZE):
            ids = start + tl.arange(0, SIZE)
            keys = _keys(logits, ids, ids < vocab)
            counts = (ids < vocab) & (keys >= floor) & (keys >= low + step)
            values = tl.load(weights + ids, mask=counts, other=0.0) if BY_MASS else counts.to(tl.float64)
            first += values
            second += tl.where(keys >= low + 2 * step, values, 0.0)
            third += tl.where(keys >= low + 3 * step, values, 0.0)
        reached = (tl.sum(first, axis=0) >= wanted).to(tl.int64)
        reached += (tl.sum(second, axis=0) >= wanted).to(tl.int64)
        reached += (tl.sum(third, axis=0) >= wanted).to(tl.int64)
        low += reached * step
        step = step >> 2
    return tl.maximum(low, floor)


@triton.jit
def _mass(logits, weights, vocab, floor, SIZE: tl.constexpr):
    """What the ids whose keys reach `floor` weigh."""
    total = tl.zeros([SIZE], dtype=tl.float64)
    for start in range(0, vocab, SIZE):
        ids = start + tl.arange(0, SIZE)
        keys = _keys(logits, ids, ids < vocab)
        total += tl.load(weights + ids, mask=(ids < vocab) & (keys >= floor), other=0.0)
    return tl.sum(total, axis=0)


@triton.jit
def _walk(logits, weights, vocab, border, above, wanted, least, target, otherwise, SIZE: tl.constexpr):
    """Through what is kept, in the order of ids: what it weighs, and the first id whose cumulative sum passes `target`.

    Ids at the border are kept for as long as those above it and the ones before weigh less than `wanted`.
    """
    mass = above * 0.0
    ties = border * 0
    found = border * 0 + vocab
    for start in range(0, vocab, SIZE):
        ids = start + tl.arange(0, SIZE)
        keys = _keys(logits, ids, ids < vocab)
        values = tl.load(weights + ids, mask=(ids < vocab) & (keys >= border), other=0.0)
        is_tie = ((ids < vocab) & (keys == border)).to(tl.int64)
        rank = ties + tl.cumsum(is_tie, axis=0) - is_tie
        is_kept = (keys > border) | (above + rank.to(tl.float64) * values < wanted)
        values = tl.where(is_kept & (values >= least), values, 0.0)
        passed = mass + tl.cumsum(values, axis=0) > target
        found = tl.minimum(found, tl.min(tl.where(passed & (values > 0), ids, vocab).to(tl.int64), axis=0))
        mass += tl.sum(values, axis=0)
        ties += tl.sum(is_tie, axis=0)
    return mass, tl.where(found < vocab, found, otherwise)


@triton.jit
def _kernel(
    logits,
    weights,
    best,
    temperatures,
    top_ks,
    top_ps,
    min_ps,
    points,
    steps,
    out,
    rows,
    vocab,
    SIZE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * vocab
    weights += row * vocab
    chosen = tl.load(best + row)
    if tl.load(temperatures + row) > 0:
        top_k = tl.load(top_ks + row)
        top_p = tl.load(top_ps + row)
        border = top_k * 0
        if (top_k > 0) & (top_k < vocab):
            border = _border(logits, weights, vocab, border, top_k.to(tl.float64), False, SIZE)
        above = top_p * 0.0
        wanted = top_p * float("inf")
        if top_p < 1:
            wanted = top_p * _mass(logits, weights, vocab, border, SIZE)
            border = _border(logits, weights, vocab, border, wanted, True, SIZE)
            above = _mass(logits, weights, vocab, border + 1, SIZE)
        least = tl.load(min_ps + row)
        # Twice the same way, so that the sums agree to the last bit.
        mass, _ = _walk(logits, weights, vocab, border, above, wanted, least, wanted, chosen, SIZE)
        target = tl.load(points + tl.load(steps + row) * rows + row) * mass
        _, chosen = _walk(logits, weights, vocab, border, above, wanted, least, target, chosen, SIZE)
    tl.store(out + row, chosen)


def draw_ids(logits: Tensor, draws: Draws, step: Tensor) -> Tensor:
    """See `reference`."""
    if logits.dtype.itemsize == NARROW_BYTES:
        return counted_draws(logits, draws, step)
    rows, vocab = logits.shape
    best = logits.argmax(dim=-1)
    out = torch.empty_like(best)
    grid: Any = (rows,)
    _kernel[grid](
        logits,
        weights_of(logits, draws.temperature),
        best,
        draws.temperature,
        draws.top_k,
        draws.top_p,
        draws.min_p,
        draws.points,
        step,
        out,
        rows,
        vocab,
        SIZE=min(BLOCK, max(MIN_BLOCK, triton.next_power_of_2(vocab))),
        num_warps=NUM_WARPS,
    )
    return out
