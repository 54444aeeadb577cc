"""A block of latents and the queries of all heads that attend over it: brought, scored, weighed and mixed.

In bf16 where the processor multiplies that in vectors, in fp32 elsewhere: as the type of the arrays says.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding
from numba import njit, types
from numba.extending import overload

from kodkod_engine.kernels.bf16 import INFINITY, MAGNITUDE, SERIAL_OPTIONS
from kodkod_engine.kernels.inside import inside
from kodkod_engine.kernels.silu import power_of_two
from kodkod_engine.kernels.tile_products import (
    FEW_REGISTERS,
    MAX_TILES,
    ROWS,
    TOKENS_PER_TILE,
    products_by_row,
    products_by_token,
)
from kodkod_engine.kernels.unpack_bf16 import narrow

BLOCK_BYTES = 256
"""Of a block of latents, by one of their values: at the published width 147 KB, in bf16 131 more in the other order."""

_WORD_BYTES, LINE_BYTES = 4, 64

LOWEST = np.float32(-1e30)
"""A score that weighs nothing, and from which no infinity comes."""

_HAS_MANY_REGISTERS = bool(binding.get_host_cpu_features().get("avx512f"))
_ROWS, _TILES = (ROWS, MAX_TILES) if _HAS_MANY_REGISTERS else FEW_REGISTERS
_BY_ROW, _BY_QUERY = products_by_row[_ROWS, _TILES], products_by_token[_ROWS, _TILES]
_COLUMNS = _TILES * TOKENS_PER_TILE

NUM_SUMS = _ROWS * _COLUMNS
"""Room that `score` and `mix` want."""


@njit(inline="always", **SERIAL_OPTIONS)
def aligned(tiles: int, pairs: int) -> Any:
    """int32 [tiles, pairs, 16] that starts at a multiple of 64 bytes."""
    size = tiles * pairs * TOKENS_PER_TILE
    flat = np.empty(size + TOKENS_PER_TILE, np.int32)
    first = (-flat.ctypes.data // _WORD_BYTES) % TOKENS_PER_TILE
    return flat[first : first + size].reshape(tiles, pairs, TOKENS_PER_TILE)


def rounded(value: Any, numbers: Any) -> Any:
    """An fp32 value as such an array holds it."""
    raise NotImplementedError("for compiled code alone")


# Here and below implementations take what is dispatched on, though they need none of it: numba compares signatures.
@overload(rounded, jit_options=SERIAL_OPTIONS)
def _rounded_of(value: Any, numbers: Any) -> Any:
    del value
    return _as_it_is if numbers.dtype == types.float32 else _narrowed


def _as_it_is(value: Any, numbers: Any) -> Any:
    return value


def _narrowed(value: Any, numbers: Any) -> Any:
    return narrow(value)


def for_mixing(rows: Any, paired: Any) -> Any:
    """A block of places as tiles of `products_by_row`, [rank / 16 and more, words, 16].

    Args:
        rows: bf16 bits or fp32 [places, rank + rope].
        paired: int32 [rank / 16, places / 2, 16]: room for pairs of places, which bf16 wants side by side.
    """
    raise NotImplementedError("for compiled code alone")


@overload(for_mixing, jit_options=SERIAL_OPTIONS)
def _for_mixing_of(rows: Any, paired: Any) -> Any:
    del paired
    return _tiles_of_floats if rows.dtype == types.float32 else _pairs_of_bits


def _tiles_of_floats(rows: Any, paired: Any) -> Any:
    places, size = rows.shape
    return rows.reshape(places, size // TOKENS_PER_TILE, TOKENS_PER_TILE).transpose(1, 0, 2)


def _pairs_of_bits(rows: Any, paired: Any) -> Any:
    for tile in range(len(paired)):
        start = tile * TOKENS_PER_TILE
        for pair in range(paired.shape[1]):
            own, first, second = paired[tile, pair], rows[2 * pair, start:], rows[2 * pair + 1, start:]
            for lane in range(TOKENS_PER_TILE):
                own[lane] = np.int32(first[lane]) | np.int32(second[lane]) << np.int32(16)
    return paired


@inside
def bring(latents: Any, slots: Any, begin: int, end: int, rows: Any) -> None:
    """A block of latents as bf16 bits or fp32 [places, rank + rope]; zeros where the context ends before it does."""
    for place in range(len(rows)):
        target = rows[place]
        if begin + place < end:
            source = latents[slots[begin + place]]
            for r in range(len(target)):
                target[r] = rounded(source[r], rows)
        else:
            target[:] = 0


@inside
def score(wide: Any, rows: Any, sums: Any, scores: Any) -> None:
    """Queries in words [rows / 16, words, 16] with bf16 bits or fp32 [places, in]: fp32 [rows, places]."""
    for place in range(0, len(rows), _ROWS):
        for tile in range(0, len(wide), _TILES):
            _BY_QUERY(rows, place, _ROWS // 2, rows, place, _ROWS // 2, wide, tile, sums)
            for row in range(_COLUMNS):
                own = scores[tile * TOKENS_PER_TILE + row]
                for i in range(_ROWS):
                    own[place + i] = sums[row * _ROWS + i]


@inside
def mix(weights: Any, places: Any, sums: Any, mixed: Any) -> None:
    """Bf16 bits or fp32 [rows, places] with tiles of places, see `for_mixing`, added to fp32 [rows, rank]."""
    for tile in range(0, mixed.shape[1] // TOKENS_PER_TILE, _TILES):
        start = tile * TOKENS_PER_TILE
        for row in range(0, len(weights), _ROWS):
            _BY_ROW(weights, row, _ROWS // 2, weights, row, _ROWS // 2, places, tile, sums)
            for r in range(_ROWS):
                own, found = mixed[row + r], sums[r * _COLUMNS : (r + 1) * _COLUMNS]
                for i in range(_COLUMNS):
                    own[start + i] += found[i]


@inside
def weigh(scores: Any, counts: Any, best: Any, total: Any, mixed: Any, weights: Any) -> None:
    """One block more in each row's running softmax.

    Args:
        scores: fp32 [rows, places]: logarithms to base two.
        counts: int64 [rows]: how many of these places a row sees.
        best: fp32 [rows]: the highest score so far.
        total: fp32 [rows]: the sum of weights against it; no number for a row with a score that is none.
        mixed: fp32 [rows, rank]: scaled down where the highest has grown.
        weights: bf16 bits or fp32 [rows, places], filled.
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
            weights[row, place] = rounded(own[place], weights)
