"""Absorbed latent attention of a few tokens, in tiles, on processors that multiply bf16 in vectors.

The plain kernel (`latent_attention`) multiplies in fp32 and reads a sequence's latents twice for every sixteen heads of
every token. Here threads share the context out among them, each for all heads of all tokens of a sequence: a block of
latents is read once, rounded to bf16, and brought into the order that mixing wants while it lies in the second level
cache. The softmax runs along with it. Chunks of the context, which begin at the same places whatever the step holds and
however many threads there are, are joined at the end: so a token's result is the same in any company.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import get_num_threads, njit, prange
from torch import Tensor

from kodkod_engine.kernels import latent_attention
from kodkod_engine.kernels.bf16 import INFINITY, KERNEL_OPTIONS, MAGNITUDE, SERIAL_OPTIONS, bits_of, lock
from kodkod_engine.kernels.bf16_tiles import (
    MAX_TILES,
    ROWS,
    TOKENS_PER_TILE,
    TURNED_PAIRS,
    has_tile_products,
    products_by_row,
    products_by_token,
    turn_tiles,
)
from kodkod_engine.kernels.latent_attention import _absorb, _leave
from kodkod_engine.kernels.silu import LOG2_E, power_of_two
from kodkod_engine.kernels.unpack_bf16 import narrow

BLOCK_PLACES = 128
"""Latents of a block: in bf16 and both orders 280 KB at the published width."""

SHORT_CHUNK, LONG_CHUNK = 256, 1024
"""Places that one thread mixes before they are joined with others; long ones where there are enough of them."""

NUM_SHORT_CHUNKS = 16

_WORD_BYTES = 4

LOWEST = np.float32(-1e30)
"""A score that weighs nothing, and from which no infinity comes."""

_BY_ROW, _BY_QUERY = products_by_row[ROWS, MAX_TILES], products_by_token[ROWS, MAX_TILES]
_COLUMNS = MAX_TILES * TOKENS_PER_TILE

reference = latent_attention.reference


def takes_tiled_latents(kv_weight: Tensor, rope: int) -> bool:
    """Whether this kernel has code for a weight [heads, nope + value, rank], here."""
    heads, _, rank = kv_weight.shape
    fills_tiles = heads % _COLUMNS == 0 and rank % _COLUMNS == 0 and (rank + rope) % (2 * TURNED_PAIRS) == 0
    return has_tile_products() and kv_weight.dtype == torch.bfloat16 and fills_tiles


@njit(**SERIAL_OPTIONS)
def _bring(latents: Any, slots: Any, begin: int, end: int, rows: Any, paired: Any) -> None:
    """A block of latents rounded to bf16, in both orders; zeros where the context ends before the block does.

    Args:
        rows: uint16 [places, rank + rope]: as they lie, for scores.
        paired: int32 [rank / 16, places / 2, 16]: pairs of places, values side by side, for mixing.
    """
    for place in range(len(rows)):
        target = rows[place]
        if begin + place < end:
            source = latents[slots[begin + place]]
            for r in range(len(target)):
                target[r] = narrow(source[r])
        else:
            target[:] = np.uint16(0)
    for tile in range(len(paired)):
        start = tile * TOKENS_PER_TILE
        for pair in range(paired.shape[1]):
            own, first, second = paired[tile, pair], rows[2 * pair, start:], rows[2 * pair + 1, start:]
            for lane in range(TOKENS_PER_TILE):
                own[lane] = np.int32(first[lane]) | np.int32(second[lane]) << np.int32(16)


@njit(**SERIAL_OPTIONS)
def _score(wide: Any, rows: Any, sums: Any, scores: Any) -> None:
    """Queries in words [rows / 16, in / 2, 16] with bf16 bits [places, in]: fp32 [rows, places]."""
    for place in range(0, len(rows), ROWS):
        for tile in range(0, len(wide), MAX_TILES):
            _BY_QUERY(rows, place, ROWS // 2, rows, place, ROWS // 2, wide, tile, sums)
            for row in range(_COLUMNS):
                own = scores[tile * TOKENS_PER_TILE + row]
                for i in range(ROWS):
                    own[place + i] = sums[row * ROWS + i]


@njit(**SERIAL_OPTIONS)
def _mix(weights: Any, paired: Any, sums: Any, mixed: Any) -> None:
    """Bf16 bits [rows, places] with words [rank / 16, places / 2, 16] added to fp32 [rows, rank]."""
    for tile in range(0, len(paired), MAX_TILES):
        start = tile * TOKENS_PER_TILE
        for row in range(0, len(weights), ROWS):
            _BY_ROW(weights, row, ROWS // 2, weights, row, ROWS // 2, paired, tile, sums)
            for r in range(ROWS):
                own, found = mixed[row + r], sums[r * _COLUMNS : (r + 1) * _COLUMNS]
                for i in range(_COLUMNS):
                    own[start + i] += found[i]


@njit(**SERIAL_OPTIONS)
def _weigh(scores: Any, counts: Any, best: Any, total: Any, mixed: Any, weights: Any) -> None:
    """One block more in each row's running softmax.

    Args:
        scores: fp32 [rows, places]: logarithms to base two.
        counts: int64 [rows]: how many of these places a row sees.
        best: fp32 [rows]: the highest score so far.
        total: fp32 [rows]: the sum of weights against it; no number for a row with a score that is none.
        mixed: fp32 [rows, rank]: scaled down where the highest has grown.
        weights: bf16 bits [rows, places], filled.
    """
    patterns = scores.view(np.uint32)
    for row in range(len(scores)):
        own, count = scores[row], counts[row]
        highest, largest = best[row], np.uint32(0)
        for place in range(count):
            highest = max(highest, own[place])
            largest = max(largest, patterns[row, place] & MAGNITUDE)
        if highest > best[row]:
            shrink = power_of_two(best[row] - highest)
            best[row] = highest
            total[row] *= shrink
            for r in range(mixed.shape[1]):
                mixed[row, r] *= shrink
        added = np.float32(0)
        for place in range(count):
            own[place] = power_of_two(own[place] - highest)
            added += own[place]
        own[count:] = np.float32(0)
        total[row] += added if largest < INFINITY else np.float32(np.nan)
        for place in range(len(own)):
            weights[row, place] = narrow(own[place])


@njit(**SERIAL_OPTIONS)
def _aligned(tiles: int, pairs: int) -> Any:
    """int32 [tiles, pairs, 16] that starts at a multiple of 64 bytes."""
    size = tiles * pairs * TOKENS_PER_TILE
    flat = np.empty(size + TOKENS_PER_TILE, np.int32)
    first = (-flat.ctypes.data // _WORD_BYTES) % TOKENS_PER_TILE
    return flat[first : first + size].reshape(tiles, pairs, TOKENS_PER_TILE)


@njit(**SERIAL_OPTIONS)
def _chunk_start(chunk: int) -> int:
    """Its first place."""
    return min(chunk, NUM_SHORT_CHUNKS) * SHORT_CHUNK + max(0, chunk - NUM_SHORT_CHUNKS) * LONG_CHUNK


@njit(**SERIAL_OPTIONS)
def _num_chunks(num_places: int) -> int:
    """That so many places of a context take."""
    beyond = max(0, num_places - NUM_SHORT_CHUNKS * SHORT_CHUNK)
    short = (num_places - beyond + SHORT_CHUNK - 1) // SHORT_CHUNK
    return short + (beyond + LONG_CHUNK - 1) // LONG_CHUNK


@njit(**SERIAL_OPTIONS)
def _chunks(wide: Any, latents: Any, slots: Any, seen: Any, first: int, step: int, found: Any) -> None:
    """The chunks first, first + step, ... of the context, for all rows.

    Args:
        wide: int32 [rows / 16, (rank + rope) / 2, 16]: queries in the latent space, scaled for powers of two, in bf16.
        seen: int64 [rows]: how many places of the context a row sees.
        found: of each chunk and row, filled: the highest score, the sum of weights, fp32 [chunks, rows], and what they
            mix, fp32 [chunks, rows, rank].
    """
    best, total, mixed = found
    num_rows, rank = mixed.shape[1:]
    num_places = np.max(seen)
    rows = np.empty((BLOCK_PLACES, 2 * wide.shape[1]), np.uint16)
    paired = _aligned(rank // TOKENS_PER_TILE, BLOCK_PLACES // 2)
    scores = np.empty((num_rows, BLOCK_PLACES), np.float32)
    weights = np.empty((num_rows, BLOCK_PLACES), np.uint16)
    sums, counts = np.empty(ROWS * _COLUMNS, np.float32), np.empty(num_rows, np.int64)
    for chunk in range(first, len(mixed), step):
        best[chunk], total[chunk], mixed[chunk] = LOWEST, np.float32(0), np.float32(0)
        for start in range(_chunk_start(chunk), min(num_places, _chunk_start(chunk + 1)), BLOCK_PLACES):
            for row in range(num_rows):
                counts[row] = min(BLOCK_PLACES, max(0, seen[row] - start))
            _bring(latents, slots, start, num_places, rows, paired)
            _score(wide, rows, sums, scores)
            _weigh(scores, counts, best[chunk], total[chunk], mixed[chunk], weights)
            _mix(weights, paired, sums, mixed[chunk])


@njit(**SERIAL_OPTIONS)
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


@njit(**KERNEL_OPTIONS)
def _together(
    query: Any, latents: Any, slots: Any, positions: Any, kv_weight: Any, scale: float, nope: int, out: Any, parts: int
) -> None:
    """Tokens of one sequence, whose places up to the last one's position are the same."""
    (tokens, heads, _), size, rank = query.shape, latents.shape[1], kv_weight.shape[2]
    narrowed = np.empty((tokens * heads, size), np.uint16)
    seen = np.empty(tokens * heads, np.int64)
    for place in prange(tokens * heads):
        row = np.int64(place)  # or all it calls is compiled for two kinds of integers
        token, head = row // heads, row % heads
        own = np.zeros((1, size), np.float32)
        _absorb(query[token, head : head + 1], kv_weight[head : head + 1], nope, own)
        seen[row] = positions[token] + 1
        for r in range(size):
            narrowed[row, r] = narrow(own[0, r] * np.float32(scale) * LOG2_E)
    wide = _aligned(len(seen) // TOKENS_PER_TILE, size // 2)
    turn_tiles(narrowed.view(np.int32), np.arange(len(seen)), wide)
    chunks = _num_chunks(np.max(seen))
    best, total = np.empty((2, chunks, len(seen)), np.float32)
    found = best, total, np.empty((chunks, len(seen), rank), np.float32)
    for part in prange(parts):
        _chunks(wide, latents, slots, seen, np.int64(part), parts, found)
    for place in prange(tokens * heads):
        row = np.int64(place)  # or all it calls is compiled for two kinds of integers
        token, head = row // heads, row % heads
        own = np.zeros((1, rank), np.float32)
        _join(found, row, seen[row], own[0])
        _leave(own, kv_weight[head : head + 1], nope, out[token, head : head + 1])


@njit(**SERIAL_OPTIONS)
def _shared(slots: Any, positions: Any, first: int) -> int:
    """How many tokens from the first one on lie in the same slots, as far as any of them sees."""
    token = first + 1
    while token < len(positions):
        count = max(np.max(positions[first:token]), positions[token]) + 1
        if not np.array_equal(slots[first, :count], slots[token, :count]):
            break
        token += 1
    return token - first


@njit(**SERIAL_OPTIONS)
def attend(
    query: Any, latents: Any, slots: Any, positions: Any, kv_weight: Any, scale: float, nope: int, out: Any, parts: int
) -> None:
    """As the kernel of `latent_attention`, of sizes that `takes_tiled_latents`; the weight as bf16 bits."""
    first = 0
    while first < len(query):
        last = first + _shared(slots, positions, first)
        own = slots[first], positions[first:last], kv_weight
        _together(query[first:last], latents, *own, scale, nope, out[first:last], parts)
        first = last


def tiled_latents(
    query: Tensor, latents: Tensor, slots: Tensor, positions: Tensor, kv_weight: Tensor, scale: float, value_dim: int
) -> Tensor:
    """See `reference`; a weight in bf16 of sizes that `takes_tiled_latents`, `scale` positive.

    Query and latents are rounded to bf16 where they meet, and so are the weights of places.
    """
    out = torch.empty(*query.shape[:2], value_dim)
    nope = kv_weight.shape[1] - value_dim
    arrays = (tensor.detach().numpy() for tensor in (query.contiguous(), latents, slots, positions))
    with lock:
        attend(*arrays, bits_of(kv_weight), np.float32(scale), nope, out.numpy(), get_num_threads())
    return out
