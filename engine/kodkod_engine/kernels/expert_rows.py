"""The experts of many tokens, whole, on processors that multiply bf16 in vectors.

torch's product copies each expert's weights into another order before it multiplies them, which for the few dozen rows
of one expert takes about as long as multiplying. Here the tokens are brought into that order instead, sixteen to a
tile. Every thread owns some outputs of all experts: so it has the same work as the others, whoever chose what. Packed
experts are unpacked a few rows at a time, which stay in cache until all tiles have met them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numba import get_num_threads, njit
from torch import Tensor

from kodkod_engine.kernels import expert_mix
from kodkod_engine.kernels.bf16 import FAST_MATH, SERIAL_OPTIONS, bits_of, lock
from kodkod_engine.kernels.in_parts import in_parts
from kodkod_engine.kernels.packed_linear import Packed
from kodkod_engine.kernels.silu import silu
from kodkod_engine.kernels.tile_products import (
    MANY_ROWS,
    MAX_TILES,
    ROWS,
    SHAPES,
    TOKENS_PER_TILE,
    TURNED_PAIRS,
    has_tile_products,
    products_by_row,
    products_by_token,
    turn_tiles,
    word_of,
)
from kodkod_engine.kernels.weight_rows import bring, by_kind, lies

COLUMNS = ROWS // 2
"""Columns of an expert's inner values at a time, each a row of gate and one of up."""

COLUMNS_IN_CACHE = 64
"""Their weights stay in the second level cache while all tiles of an expert meet them."""

UNPACKED_COLUMNS, UNPACKED_OUTPUTS = 32, 64
"""Of a packed expert at a time; unpacked, they stay in the second level cache while all its tiles meet them."""

OUTPUTS_IN_CACHE = 768
"""Of all tokens at a time: the sums stay in the second level cache while all experts add to them."""

_16_WITH_1, _8_WITH_1, _8_WITH_2 = (products_by_row[shape] for shape in SHAPES)
_16_BY_1, _8_BY_1, _8_BY_2 = (products_by_token[shape] for shape in SHAPES)
_I = np.int32

_group = expert_mix._group

Weight: TypeAlias = Tensor | Packed
"""bf16, or what `packed_arrays` makes of a packed matrix."""

reference = expert_mix.reference
"""Activations are rounded to bf16 where this kernel multiplies them."""


def takes_expert_rows(shape: Sequence[int]) -> bool:
    """Whether experts, contiguous, on the host, have sizes for this kernel, here.

    Args:
        shape: of gate and up, (experts, 2 * width, hidden).
    """
    width, hidden = shape[1] // 2, shape[2]
    return has_tile_products() and width % COLUMNS == 0 and hidden % (2 * TURNED_PAIRS) == 0


@njit(fastmath=FAST_MATH, inline="always", cache=True)
def _pair_of(low: Any, high: Any) -> Any:
    """Two fp32 values as bf16 in one word, rounded to the nearest, ties to even."""
    first, second = word_of(low), word_of(high)
    first = (first + _I(0x7FFF) + ((first >> _I(16)) & _I(1))) >> _I(16)
    second = second + _I(0x7FFF) + ((second >> _I(16)) & _I(1))
    return (first & _I(0xFFFF)) | (second & _I(-65536))


@njit(**SERIAL_OPTIONS)
def _tiles(chosen: Any, weights: Any, num_experts: int) -> tuple[Any, Any, Any, Any]:
    """Pairs (token, place) of real experts, sorted by expert, each expert's filled up to whole tiles.

    Returns:
        experts that somebody chose [n], first tile of each [n + 1], tokens int64 [tiles * 16] (what fills up is the
        token behind the last), their weights fp32 [tiles * 16].
    """
    hit, pair_starts, _ = _group(chosen, num_experts)
    starts, fill = np.zeros(len(hit) + 1, np.int64), np.zeros(num_experts, np.int64)
    for place in range(len(hit)):
        num_pairs = pair_starts[place + 1] - pair_starts[place]
        starts[place + 1] = starts[place] + (num_pairs + TOKENS_PER_TILE - 1) // TOKENS_PER_TILE
        fill[hit[place]] = starts[place] * TOKENS_PER_TILE
    tokens = np.full(starts[-1] * TOKENS_PER_TILE, len(chosen), np.int64)
    shares = np.zeros(len(tokens), np.float32)
    for token in range(chosen.shape[0]):
        for place in range(chosen.shape[1]):
            expert = chosen[token, place]
            if expert < num_experts:
                tokens[fill[expert]], shares[fill[expert]] = token, weights[token, place]
                fill[expert] += 1
    return hit, starts, tokens, shares


@njit(fastmath=FAST_MATH, inline="always", cache=True)
def _activate(sums: Any, shares: Any, num_tiles: int, tile: int, column: int, columns: int, inner: Any) -> None:
    """silu(gate) * up * share of some columns: fp32 [2 * columns, tiles * 16] -> columns / 2 rows of pairs a tile."""
    lanes = num_tiles * TOKENS_PER_TILE
    for half in range(columns // 2):
        gate, up = 2 * half * lanes, (2 * half + columns) * lanes
        for t in range(num_tiles):
            for lane in range(TOKENS_PER_TILE):
                i = t * TOKENS_PER_TILE + lane
                share = shares[tile * TOKENS_PER_TILE + i]
                low = silu(sums[gate + i]) * sums[up + i] * share
                high = silu(sums[gate + lanes + i]) * sums[up + lanes + i] * share
                inner[tile + t, column // 2 + half, lane] = _pair_of(low, high)


@in_parts
def _gate_up(weight: Any, x: Any, groups: Any, inner: Any, parts: int, part: int) -> None:
    """What goes into the down projection: x [tiles, hidden / 2, 16] -> inner [tiles, width / 2, 16], both in words."""
    hit, starts, _, shares = groups
    width = 2 * inner.shape[1]
    fours = width // COLUMNS
    sums = np.empty(ROWS * MAX_TILES * TOKENS_PER_TILE, np.float32)
    room = np.empty((2 * UNPACKED_COLUMNS, 2 * x.shape[1]), np.uint16)
    rows, later, step = (
        by_kind(weight, weight, room),
        lies(weight),
        by_kind(weight, COLUMNS_IN_CACHE, UNPACKED_COLUMNS),
    )
    first, last = COLUMNS * (fours * part // parts), COLUMNS * (fours * (part + 1) // parts)
    for place in range(len(hit)):
        row = hit[place] * 2 * width
        following = hit[min(place + 1, len(hit) - 1)] * 2 * width
        for begin in range(first, last, step):
            end = min(last, begin + step)
            bring(weight, row + begin, end - begin, room, 0)
            bring(weight, row + width + begin, end - begin, room, end - begin)
            gap, after = by_kind(weight, width, end - begin), row + end if end < last else following + first
            tile = starts[place]
            while tile < starts[place + 1]:
                num_tiles = min(MAX_TILES, starts[place + 1] - tile)
                column = begin
                while column < end:
                    own = by_kind(weight, row + column, column - begin)
                    columns = 2 * COLUMNS if num_tiles == 1 and end - column >= 2 * COLUMNS else COLUMNS
                    ahead = own + columns if column + columns < end else after
                    ahead = by_kind(weight, ahead, after + column - begin)
                    if columns > COLUMNS:
                        _16_WITH_1(rows, own, gap, later, ahead, width, x, tile, sums)
                    elif num_tiles == 2:
                        _8_WITH_2(rows, own, gap, later, ahead, width, x, tile, sums)
                    else:
                        _8_WITH_1(rows, own, gap, later, ahead, width, x, tile, sums)
                    _activate(sums, shares, num_tiles, tile, column, columns, inner)
                    column += columns
                tile += num_tiles


@in_parts
def _down(weight: Any, inner: Any, groups: Any, out: Any, parts: int, part: int) -> None:
    """Add each pair's share to its token's row of out; what fills up a tile lands in the last row."""
    hit, starts, tokens, _ = groups
    hidden = out.shape[1]
    eights = hidden // ROWS
    sums = np.empty(ROWS * MAX_TILES * TOKENS_PER_TILE, np.float32)
    first, last = ROWS * (eights * part // parts), ROWS * (eights * (part + 1) // parts)
    room = np.empty((UNPACKED_OUTPUTS, 2 * inner.shape[1]), np.uint16)
    rows, later, step = (
        by_kind(weight, weight, room),
        lies(weight),
        by_kind(weight, OUTPUTS_IN_CACHE, UNPACKED_OUTPUTS),
    )
    for begin in range(first, last, OUTPUTS_IN_CACHE):
        end = min(last, begin + OUTPUTS_IN_CACHE)
        for place in range(len(hit)):
            row, following = hit[place] * hidden, hit[min(place + 1, len(hit) - 1)] * hidden
            for block in range(begin, end, step):
                stop = min(end, block + step)
                bring(weight, row + block, stop - block, room, 0)
                after = row + stop if stop < end else following + begin
                tile = starts[place]
                while tile < starts[place + 1]:
                    num_tiles = min(MAX_TILES, starts[place + 1] - tile)
                    column = block
                    while column < stop:
                        own = by_kind(weight, row + column, column - block)
                        count = MANY_ROWS if num_tiles == 1 and stop - column >= MANY_ROWS else ROWS
                        ahead = own + count if column + count < stop else after
                        ahead = by_kind(weight, ahead, after + column - block)
                        if count == MANY_ROWS:
                            _16_BY_1(rows, own, count // 2, later, ahead, count // 2, inner, tile, sums)
                        elif num_tiles == 2:
                            _8_BY_2(rows, own, count // 2, later, ahead, count // 2, inner, tile, sums)
                        else:
                            _8_BY_1(rows, own, count // 2, later, ahead, count // 2, inner, tile, sums)
                        for i in range(num_tiles * TOKENS_PER_TILE):
                            token = tokens[tile * TOKENS_PER_TILE + i]
                            for r in range(count):
                                out[token, column + r] += sums[count * i + r]
                        column += count
                    tile += num_tiles


@njit(**SERIAL_OPTIONS)
def _kernel(x: Any, gate_up: Any, down: Any, groups: Any, inner: Any, out: Any, parts: int) -> None:
    _gate_up(gate_up, x, groups, inner, parts)
    _down(down, inner, groups, out, parts)


def expert_rows(x: Tensor, gate_up: Weight, down: Weight, chosen: Tensor, weights: Tensor) -> Tensor:
    """See `reference`; experts contiguous, on the host, of sizes that `takes_expert_rows`.

    Args:
        x: fp32 or bf16 [tokens, hidden].
        gate_up: bf16 [experts, 2 * width, hidden], or a packed matrix of all their rows.
        down: bf16 [experts, hidden, width], or a packed matrix of all their rows.
        chosen: int64 [tokens, k]; ids from `experts` on are identity experts.
        weights: fp32 [tokens, k].
    """
    up_rows, down_rows = as_rows(gate_up), as_rows(down)
    hidden = x.shape[1]
    num_experts = _num_rows(down_rows) // hidden
    width = _num_rows(up_rows) // (2 * num_experts)
    # A row more: what fills up tiles reads zeros there and adds there.
    narrow, out = torch.zeros(len(x) + 1, hidden, dtype=torch.bfloat16), torch.zeros(len(x) + 1, hidden)
    narrow[:-1] = x
    torch.mul(x, (weights * (chosen >= num_experts)).sum(dim=1, keepdim=True), out=out[:-1])
    groups = _tiles(chosen.numpy(), weights.numpy(), num_experts)
    num_tiles = int(groups[1][-1])
    turned, inner = (torch.empty(num_tiles, size // 2, TOKENS_PER_TILE, dtype=torch.int32) for size in (hidden, width))
    with lock:
        parts = min(torch.get_num_threads(), get_num_threads())
        turn_tiles(narrow.view(torch.int32).numpy(), groups[2], turned.numpy())
        _kernel(turned.numpy(), up_rows, down_rows, groups, inner.numpy(), out.numpy(), parts)
    return out[:-1].to(x.dtype)


def as_rows(weight: Weight) -> Any:
    """The rows of all experts: bf16 bits [rows, in], or the packed matrix that it is."""
    return bits_of(weight.flatten(0, 1)) if isinstance(weight, Tensor) else weight


def _num_rows(weight: Any) -> int:
    rows: int = len(weight if isinstance(weight, np.ndarray) else weight.codes)
    return rows
