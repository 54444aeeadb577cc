"""Drawing ids where logits have 16 bits: of a row it matters only how many ids have each of the 65,536 values.

Counts are whole numbers, so however many programs add to them the sums are the same, and what a value weighs follows
from the value. Filters are borders between values. One kernel counts, one finds the borders by groups of values, one
walks through the ids by chunks; the program that finishes a row last does what needs all of them.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.layers.draws import Draws

VALUES = 1 << 16
GROUP = 1024
"""Values whose counts a program of the second kernel sums."""
CHUNK = 2048
"""Ids of a program of the first and the third kernel."""
NUM_WARPS = 8

FAR = tl.constexpr(-1.0e4)
"""Temperatures below the best number; e to that power is 0."""


@triton.jit
def _places(numbers):
    """Where 16-bit floating numbers stand among all, int32 in [0, 2^16); both zeros at one place."""
    bits = numbers.to(tl.int16, bitcast=True).to(tl.int32)
    bits = tl.where((bits & 0x7FFF) == 0, 0, bits)
    return tl.where(bits < 0, bits ^ 0x7FFF, bits) + 32768


@triton.jit
def _weights(places, best, temperature, dtype: tl.constexpr):
    """What the numbers at these places weigh against the best, which weighs 1: fp64. What is no number weighs 0."""
    infinity: tl.constexpr = 0x7F80 if dtype == tl.bfloat16 else 0x7C00
    bits = tl.minimum(tl.maximum(places - 32768, -infinity - 1), infinity)
    bits = tl.where(bits < 0, bits ^ 0x7FFF, bits)
    numbers = bits.to(tl.int16).to(dtype, bitcast=True).to(tl.float64)
    # Far down all weigh 0; the smallest temperatures would overflow on the way.
    below = tl.minimum(tl.maximum(numbers - best, FAR * temperature), 0.0)
    return tl.exp(below / temperature)


@triton.jit
def _is_last(counter, count):
    """Whether all other programs of the row have left what they found."""
    tl.debug_barrier()
    return tl.atomic_add(counter, 1, sem="acq_rel") == count - 1


@triton.jit
def _count(logits, temperatures, counts, vocab, CHUNK: tl.constexpr, VALUES: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    if tl.load(temperatures + row) > 0:
        ids = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
        places = _places(tl.load(logits + row * vocab + ids, mask=ids < vocab, other=0.0))
        tl.atomic_add(counts + row * VALUES + places, 1, mask=ids < vocab, sem="relaxed")


@triton.jit
def _of_group(counts, group, best, temperature, dtype: tl.constexpr, GROUP: tl.constexpr):
    """Places of a group, how many ids stand at each, and what those weigh together."""
    places = group * GROUP + tl.arange(0, GROUP)
    there = tl.load(counts + places)
    return places, there, there.to(tl.float64) * _weights(places, best, temperature, dtype)


@triton.jit
def _from_above(sums, wanted):
    """The highest index such that what stands from it on is `wanted` at least, 0 where there is none; and all above."""
    index = tl.arange(0, sums.shape[0])
    reached = tl.cumsum(sums, axis=0, reverse=True) >= wanted
    found = tl.max(tl.where(reached, index, 0), axis=0)
    return found, tl.sum(tl.where(index > found, sums, sums * 0), axis=0)


@triton.jit
def _kth(counts, group_counts, top_k, best, temperature, dtype: tl.constexpr, GROUP: tl.constexpr):
    """The place of the `top_k`-th number from above."""
    group, above = _from_above(group_counts, top_k)
    _, there, _ = _of_group(counts, group, best, temperature, dtype, GROUP)
    inner, _ = _from_above(there.to(tl.int64), top_k - above)
    return group * GROUP + inner


@triton.jit
def _nucleus(counts, group_masses, floor, top_p, best, temperature, dtype: tl.constexpr, GROUP: tl.constexpr):
    """The place from which on `top_p` of what stands at `floor` and higher is reached; what that is; and what stands
    above the place."""
    index = tl.arange(0, group_masses.shape[0])
    lowest = floor // GROUP
    places, _, masses = _of_group(counts, lowest, best, temperature, dtype, GROUP)
    partial = tl.sum(tl.where(places >= floor, masses, 0.0), axis=0)
    group_masses = tl.where(index > lowest, group_masses, tl.where(index == lowest, partial, 0.0))
    wanted = top_p * tl.sum(group_masses, axis=0)
    group, above = _from_above(group_masses, wanted)
    places, _, masses = _of_group(counts, group, best, temperature, dtype, GROUP)
    inner, higher = _from_above(tl.where(places >= floor, masses, 0.0), wanted - above)
    border = group * GROUP + inner
    # Rounded sums may end below the floor, where nothing weighs anything.
    return tl.maximum(border, floor), wanted, above + higher


@triton.jit
def _borders(
    logits,
    best_ids,
    temperatures,
    top_ks,
    top_ps,
    counts,
    group_counts,
    group_masses,
    counters,
    borders,
    limits,
    vocab,
    VALUES: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Of each row the place from which on ids are kept, and how many of those at it are."""
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    temperature = tl.load(temperatures + row)
    groups: tl.constexpr = VALUES // GROUP
    dtype: tl.constexpr = logits.dtype.element_ty
    if temperature > 0:
        counts += row * VALUES
        group_counts += row * groups
        group_masses += row * groups
        best = tl.load(logits + row * vocab + tl.load(best_ids + row)).to(tl.float64)
        _, there, masses = _of_group(counts, group, best, temperature, dtype, GROUP)
        tl.store(group_counts + group, tl.sum(there.to(tl.int64), axis=0))
        tl.store(group_masses + group, tl.sum(masses, axis=0))
        if _is_last(counters + row, groups):
            index = tl.arange(0, groups)
            top_k, top_p = tl.load(top_ks + row), tl.load(top_ps + row)
            floor = group * 0
            if (top_k > 0) & (top_k < vocab):
                # Other programs wrote these: the first cache may not be asked.
                every = tl.load(group_counts + index, cache_modifier=".cg")
                floor = _kth(counts, every, top_k, best, temperature, dtype, GROUP)
            border, limit = floor, top_k * 0 + vocab
            if top_p < 1:
                every_mass = tl.load(group_masses + index, cache_modifier=".cg")
                border, wanted, above = _nucleus(counts, every_mass, floor, top_p, best, temperature, dtype, GROUP)
                own = _weights(border, best, temperature, dtype)
                # Ids at the border are kept while those before them weigh less than what is wanted.
                missing = tl.where(own > 0, (wanted - above) / own, limit.to(tl.float64))
                limit = tl.maximum(tl.minimum(tl.ceil(missing), limit.to(tl.float64)), 0.0).to(tl.int64)
                limit -= (above + (limit - 1).to(tl.float64) * own >= wanted).to(tl.int64)
                limit += (above + limit.to(tl.float64) * own < wanted).to(tl.int64)
            tl.store(borders + row, border)
            tl.store(limits + row, limit)


@triton.jit
def _of_chunk(logits, start, vocab, border, least, best, temperature, dtype: tl.constexpr, CHUNK: tl.constexpr):
    """Ids of a chunk, what each weighs if it is kept, and whether it stands at the border."""
    ids = start + tl.arange(0, CHUNK)
    places = _places(tl.load(logits + ids, mask=ids < vocab, other=0.0))
    weights = _weights(places, best, temperature, dtype)
    weights = tl.where((ids < vocab) & (places >= border) & (weights >= least), weights, 0.0)
    return ids, weights, (ids < vocab) & (places == border)


@triton.jit
def _walk(
    logits,
    best_ids,
    temperatures,
    min_ps,
    points,
    steps,
    borders,
    limits,
    chunk_masses,
    chunk_ties,
    counters,
    out,
    vocab,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """The first id, in their order, at which what is kept weighs more than the point says."""
    row, chunk, num_chunks = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    temperature = tl.load(temperatures + row)
    chosen = tl.load(best_ids + row)
    dtype: tl.constexpr = logits.dtype.element_ty
    logits += row * vocab
    if temperature > 0:
        best = tl.load(logits + chosen).to(tl.float64)
        border, limit, least = tl.load(borders + row), tl.load(limits + row), tl.load(min_ps + row)
        _, weights, ties = _of_chunk(logits, chunk * CHUNK, vocab, border, least, best, temperature, dtype, CHUNK)
        chunk_masses += row * num_chunks
        chunk_ties += row * num_chunks
        tl.store(chunk_masses + chunk, tl.sum(tl.where(ties, 0.0, weights), axis=0))
        tl.store(chunk_ties + chunk, tl.sum(ties.to(tl.int64), axis=0))
        if _is_last(counters + row, num_chunks):
            index = tl.arange(0, CHUNKS)
            masses = tl.load(chunk_masses + index, mask=index < num_chunks, other=0.0, cache_modifier=".cg")
            at_border = tl.load(chunk_ties + index, mask=index < num_chunks, other=0, cache_modifier=".cg")
            earlier = tl.cumsum(at_border, axis=0) - at_border
            own = _weights(border, best, temperature, dtype)
            own = tl.where(own >= least, own, 0.0)
            masses += tl.minimum(tl.maximum(limit - earlier, 0), at_border).to(tl.float64) * own
            sums = tl.cumsum(masses, axis=0)
            num_rows = tl.num_programs(0)
            target = tl.load(points + tl.load(steps + row) * num_rows + row) * tl.max(sums, axis=0)
            passed = tl.min(tl.where(sums > target, index, CHUNKS), axis=0)
            if passed < CHUNKS:
                before = tl.sum(tl.where(index < passed, masses, 0.0), axis=0)
                ties_before = tl.sum(tl.where(index < passed, at_border, 0), axis=0)
                ids, weights, ties = _of_chunk(
                    logits, passed * CHUNK, vocab, border, least, best, temperature, dtype, CHUNK
                )
                rank = ties_before + tl.cumsum(ties.to(tl.int64), axis=0) - ties.to(tl.int64)
                weights = tl.where(ties & (rank >= limit), 0.0, weights)
                is_passed = (before + tl.cumsum(weights, axis=0) > target) & (weights > 0)
                # Sums in another order may differ in their last bit: then it is the last one kept.
                last = tl.max(tl.where(weights > 0, ids, -1), axis=0)
                first = tl.min(tl.where(is_passed, ids, vocab), axis=0)
                chosen = tl.where(first < vocab, first, last).to(tl.int64)
            tl.store(out + row, chosen)
    elif chunk == 0:
        tl.store(out + row, chosen)


def counted_draws(logits: Tensor, draws: Draws, step: Tensor) -> Tensor:
    """See `draw_ids.reference`; of bf16 or fp16 logits, contiguous."""
    rows, vocab = logits.shape
    groups, chunks = VALUES // GROUP, triton.cdiv(vocab, CHUNK)
    best, out = logits.argmax(dim=-1), torch.empty(rows, dtype=torch.int64, device=logits.device)
    zeros = torch.zeros(rows * (VALUES + 2), dtype=torch.int32, device=logits.device)
    counts, first, second = zeros.split([rows * VALUES, rows, rows])
    ints = torch.empty(rows, groups + chunks + 1, dtype=torch.int64, device=logits.device).flatten()
    group_counts, chunk_ties, limits = ints.split([rows * groups, rows * chunks, rows])
    sums = torch.empty(rows * (groups + chunks), dtype=torch.float64, device=logits.device)
    group_masses, chunk_masses = sums.split([rows * groups, rows * chunks])
    borders = torch.empty(rows, dtype=torch.int32, device=logits.device)
    by_chunks: Any = (rows, chunks)
    by_groups: Any = (rows, groups)
    how = draws.temperature, draws.top_k, draws.top_p
    _count[by_chunks](logits, draws.temperature, counts, vocab, CHUNK=CHUNK, VALUES=VALUES, num_warps=NUM_WARPS)
    found = counts, group_counts, group_masses, first, borders, limits
    _borders[by_groups](logits, best, *how, *found, vocab, VALUES=VALUES, GROUP=GROUP, num_warps=NUM_WARPS)
    point = draws.min_p, draws.points, step
    walked = borders, limits, chunk_masses, chunk_ties, second, out
    sizes = {"CHUNK": CHUNK, "CHUNKS": triton.next_power_of_2(chunks), "num_warps": NUM_WARPS}
    _walk[by_chunks](logits, best, draws.temperature, *point, *walked, vocab, **sizes)
    return out
