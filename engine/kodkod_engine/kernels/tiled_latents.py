"""Absorbed latent attention of a few tokens, in tiles.

The plain kernel (`latent_attention`) reads a sequence's latents twice for every sixteen heads of every token, and its
products wait for the second level cache. Here threads share the context out among them, each for all heads of all
tokens of a sequence: a block of latents is read once, rounded to bf16 where the processor multiplies that in vectors,
and brought into the order that mixing wants while it lies in the second level cache. The softmax runs along with it.
Chunks of the context, which begin at the same places whatever the step holds and however many threads there are, are
joined at the end: so a token's result is the same in any company.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import get_num_threads, njit
from torch import Tensor

from kodkod_engine.kernels import latent_attention
from kodkod_engine.kernels.bf16 import SERIAL_OPTIONS, float_or_bits, lock
from kodkod_engine.kernels.in_parts import in_parts
from kodkod_engine.kernels.inside import inside
from kodkod_engine.kernels.latent_attention import _absorb, _leave
from kodkod_engine.kernels.latent_blocks import (
    BLOCK_BYTES,
    LINE_BYTES,
    LOWEST,
    NUM_SUMS,
    aligned,
    bring,
    for_mixing,
    mix,
    rounded,
    score,
    weigh,
)
from kodkod_engine.kernels.silu import LOG2_E, power_of_two
from kodkod_engine.kernels.tile_products import MAX_TILES, TOKENS_PER_TILE, has_tile_products, turn_tiles

SHORT_CHUNK, MIDDLE_CHUNK, LONG_CHUNK = 256, 512, 1024
"""Places that one thread mixes before they are joined with others: so many that joining costs little, and so few that
many threads get their share.
"""

NUM_CHUNKS = 16
"""Of the short ones, and of the middle ones behind them; all others are long."""

FIRST_MIDDLE = NUM_CHUNKS * SHORT_CHUNK
FIRST_LONG = FIRST_MIDDLE + NUM_CHUNKS * MIDDLE_CHUNK

reference = latent_attention.reference


def takes_tiled_latents(kv_weight: Tensor, rope: int) -> bool:
    """Whether this kernel has code for a weight [heads, nope + value, rank]."""
    heads, _, rank = kv_weight.shape
    return all(size % (MAX_TILES * TOKENS_PER_TILE) == 0 for size in (heads, rank, rank + rope))


def numbers_of(kv_weight: Tensor) -> Any:
    """What is multiplied, as an empty array: bf16 bits or fp32. Kernels are compiled for its type."""
    is_bf16 = has_tile_products() and kv_weight.dtype == torch.bfloat16
    return np.empty(0, np.uint16 if is_bf16 else np.float32)


@njit(inline="always", **SERIAL_OPTIONS)
def _chunk_start(chunk: int) -> int:
    """Its first place."""
    short, middle = min(chunk, NUM_CHUNKS), min(max(0, chunk - NUM_CHUNKS), NUM_CHUNKS)
    return short * SHORT_CHUNK + middle * MIDDLE_CHUNK + max(0, chunk - 2 * NUM_CHUNKS) * LONG_CHUNK


@njit(inline="always", **SERIAL_OPTIONS)
def _num_chunks(num_places: int) -> int:
    """That so many places of a context take."""
    short = min(num_places, FIRST_MIDDLE)
    middle, long = min(max(0, num_places - FIRST_MIDDLE), FIRST_LONG - FIRST_MIDDLE), max(0, num_places - FIRST_LONG)
    return -(-short // SHORT_CHUNK) - (-middle // MIDDLE_CHUNK) - (-long // LONG_CHUNK)


@njit(inline="always", **SERIAL_OPTIONS)
def _chunk_of(part: int, parts: int, turn: int, chunks: int) -> int:
    """That a thread takes in a turn; negative where none is left for it.

    The long ones, which come last, are taken first, and every other turn goes round the other way: who had the longest
    before has the shortest now.
    """
    place = parts * turn + (part if turn % 2 == 0 else parts - 1 - part)
    return chunks - 1 - place


@in_parts
def _chunks(wide: Any, latents: Any, slots: Any, seen: Any, found: Any, numbers: Any, parts: int, part: int) -> None:
    """All chunks of the context, for all rows.

    Args:
        wide: int32 [rows / 16, words, 16]: queries in the latent space, scaled for powers of two.
        seen: int64 [rows]: how many places of the context a row sees.
        found: of each chunk and row, filled: the highest score, the sum of weights, fp32 [chunks, rows], and what they
            mix, fp32 [chunks, rows, rank].
        numbers: see `numbers_of`.
    """
    best, total, mixed = found
    num_rows, rank = mixed.shape[1:]
    num_places = np.max(seen)
    block = BLOCK_BYTES // numbers.itemsize
    words = aligned(1, block * latents.shape[1] * numbers.itemsize // LINE_BYTES)
    rows = words.view(numbers.dtype).reshape(block, latents.shape[1])
    paired = aligned(rank // TOKENS_PER_TILE, block // 2)
    scores = np.empty((num_rows, block), np.float32)
    weights = np.empty((num_rows, block), numbers.dtype)
    sums, counts = np.empty(NUM_SUMS, np.float32), np.empty(num_rows, np.int64)
    for turn in range((len(mixed) + parts - 1) // parts):
        chunk = _chunk_of(part, parts, turn, len(mixed))
        if chunk < 0:
            continue
        best[chunk], total[chunk], mixed[chunk] = LOWEST, np.float32(0), np.float32(0)
        for start in range(_chunk_start(chunk), min(num_places, _chunk_start(chunk + 1)), block):
            for row in range(num_rows):
                counts[row] = min(block, max(0, seen[row] - start))
            bring(latents, slots, start, num_places, rows)
            score(wide, rows, sums, scores)
            weigh(scores, counts, best[chunk], total[chunk], mixed[chunk], weights)
            mix(weights, for_mixing(rows, paired), sums, mixed[chunk])


@inside
def _join(found: Any, row: int, num_places: int, out: Any) -> None:
    """What the chunks found for a row that sees so many places, as one mixture [rank]."""
    best, total, mixed = found
    chunks = _num_chunks(num_places)
    highest, whole = np.max(best[:chunks, row]), np.float32(0)
    for chunk in range(chunks):
        share = power_of_two(best[chunk, row] - highest)
        whole += total[chunk, row] * share
        for r in range(len(out)):
            out[r] += mixed[chunk, row, r] * share
    for r in range(len(out)):
        out[r] /= whole


@in_parts
def _widen(query: Any, kv_weight: Any, nope: int, factor: Any, out: Any, parts: int, part: int) -> None:
    """Tokens' heads in the latent space, scaled, as bf16 bits or fp32 [tokens * heads, rank + rope]."""
    heads, own = query.shape[1], np.empty((1, out.shape[1]), np.float32)
    for row in range(len(out) * part // parts, len(out) * (part + 1) // parts):
        token, head = row // heads, row % heads
        own[:] = np.float32(0)
        _absorb(query[token, head : head + 1], kv_weight[head : head + 1], nope, own)
        for r in range(out.shape[1]):
            out[row, r] = rounded(own[0, r] * factor * LOG2_E, out)


@in_parts
def _leave_joined(found: Any, seen: Any, kv_weight: Any, nope: int, out: Any, parts: int, part: int) -> None:
    """What the chunks found, as values of tokens and heads."""
    heads, own = out.shape[1], np.empty((1, kv_weight.shape[2]), np.float32)
    for row in range(len(seen) * part // parts, len(seen) * (part + 1) // parts):
        token, head = row // heads, row % heads
        own[:] = np.float32(0)
        _join(found, row, seen[row], own[0])
        _leave(own, kv_weight[head : head + 1], nope, out[token, head : head + 1])


@inside
def _together(
    query: Any, latents: Any, slots: Any, positions: Any, kv_weight: Any, scale: float, nope: int, out: Any, parts: int,
    numbers: Any,
) -> None:  # fmt: skip
    """Tokens of one sequence, whose places up to the last one's position are the same."""
    (tokens, heads, _), size, rank = query.shape, latents.shape[1], kv_weight.shape[2]
    narrowed = np.empty((tokens * heads, size), numbers.dtype)
    seen = np.empty(tokens * heads, np.int64)
    for row in range(len(seen)):
        seen[row] = positions[row // heads] + 1
    _widen(query, kv_weight, nope, np.float32(scale), narrowed, parts)
    words = narrowed.view(np.int32)
    wide = aligned(len(seen) // TOKENS_PER_TILE, words.shape[1])
    turn_tiles(words, np.arange(len(seen)), wide)
    chunks = _num_chunks(np.max(seen))
    best, total = np.empty((chunks, len(seen)), np.float32), np.empty((chunks, len(seen)), np.float32)
    found = best, total, np.empty((chunks, len(seen), rank), np.float32)
    _chunks(wide, latents, slots, seen, found, numbers, parts)
    _leave_joined(found, seen, kv_weight, nope, out, parts)


@njit(inline="always", **SERIAL_OPTIONS)
def _shared(slots: Any, positions: Any, first: int) -> int:
    """How many tokens from the first one on lie in the same slots, as far as any of them sees."""
    token = first + 1
    while token < len(positions):
        count = max(np.max(positions[first:token]), positions[token]) + 1
        if not np.array_equal(slots[first, :count], slots[token, :count]):
            break
        token += 1
    return token - first


@inside
def attend(
    query: Any, latents: Any, slots: Any, positions: Any, kv_weight: Any, scale: float, nope: int, out: Any, parts: int,
    numbers: Any,
) -> None:  # fmt: skip
    """As the kernel of `latent_attention`, of sizes that `takes_tiled_latents`; numbers as `numbers_of`."""
    first = 0
    while first < len(query):
        last = first + _shared(slots, positions, first)
        own = slots[first], positions[first:last], kv_weight
        _together(query[first:last], latents, *own, scale, nope, out[first:last], parts, numbers)
        first = last


@njit(**SERIAL_OPTIONS)
def _kernel(
    query: Any, latents: Any, slots: Any, positions: Any, kv_weight: Any, scale: float, nope: int, out: Any, parts: int,
    numbers: Any,
) -> None:  # fmt: skip
    attend(query, latents, slots, positions, kv_weight, scale, nope, out, parts, numbers)


def tiled_latents(
    query: Tensor, latents: Tensor, slots: Tensor, positions: Tensor, kv_weight: Tensor, scale: float, value_dim: int
) -> Tensor:
    """See `reference`; a weight of sizes that `takes_tiled_latents`, `scale` positive.

    With a weight in bf16, where the processor multiplies that in vectors, query and latents are rounded to it where
    they meet, and so are the weights of places.
    """
    out = torch.empty(*query.shape[:2], value_dim)
    nope = kv_weight.shape[1] - value_dim
    arrays = (tensor.detach().numpy() for tensor in (query.contiguous(), latents, slots, positions))
    with lock:
        own = float_or_bits(kv_weight), np.float32(scale), nope, out.numpy(), get_num_threads(), numbers_of(kv_weight)
        _kernel(*arrays, *own)
    return out
