"""The experts of many tokens, whole, on processors that multiply bf16 in vectors.

torch's product copies each expert's weights into another order before it multiplies them, which for the few dozen rows
of one expert takes about as long as multiplying. Here the tokens are brought into that order instead, sixteen to a
tile. Every thread owns some outputs of all experts: so it has the same work as the others, whoever chose what.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import get_num_threads, njit, prange
from torch import Tensor

from kodkod_engine.kernels import expert_mix
from kodkod_engine.kernels.bf16 import FAST_MATH, KERNEL_OPTIONS, bits_of, lock
from kodkod_engine.kernels.bf16_tiles import (
    MAX_TILES,
    ROWS,
    TOKENS_PER_TILE,
    float_of,
    has_tile_products,
    products_by_row,
    products_by_token,
    turn,
    word_of,
)

COLUMNS = ROWS // 2
"""Columns of an expert's inner values at a time, each a row of gate and one of up."""

COLUMNS_IN_CACHE = 64
"""Their weights stay in the second level cache while all tiles of an expert meet them."""

OUTPUTS_IN_CACHE = 768
"""Of all tokens at a time: the sums stay in the second level cache while all experts add to them."""

DOWN_TILES = 2
"""Tiles at a time in the down projection: of a width of 512 two stay in the first level cache, three do not."""

TURNED_PAIRS = 16
"""Pairs that `turn` brings over at a time; the hidden size is a multiple of twice as many."""

_1, _2, _3 = products_by_row.values()
_1_BY_TOKEN, _2_BY_TOKEN, _ = products_by_token.values()
_F = np.float32
_I = np.int32

reference = expert_mix.reference
"""Activations are rounded to bf16 where this kernel multiplies them."""


def takes_expert_rows(gate_up: Tensor) -> bool:
    """Whether bf16 experts [experts, 2 * width, hidden], contiguous, on the host, have sizes for this kernel, here."""
    width, hidden = gate_up.shape[1] // 2, gate_up.shape[2]
    return has_tile_products() and width % COLUMNS == 0 and hidden % (2 * TURNED_PAIRS) == 0


@njit(fastmath=FAST_MATH, inline="always", cache=True)
def _silu(x: Any) -> Any:
    """x / (1 + exp(-x)) without a call, so that it vectorises; the exponential is right to 2e-7 of itself."""
    power = min(max(x * _F(-1.44269504), _F(-126)), _F(126))
    whole = np.floor(power + _F(0.5))
    rest = _F(power - whole)
    # 2 ** rest by its Taylor series: rest is at most a half.
    two = rest * _F(1.5403530e-4) + _F(1.3333558e-3)
    two = rest * two + _F(9.6181291e-3)
    two = rest * two + _F(5.5504109e-2)
    two = rest * two + _F(2.4022651e-1)
    two = rest * two + _F(6.9314718e-1)
    two = rest * two + _F(1)
    return x / (_F(1) + two * float_of(_I((_I(whole) + _I(127)) << _I(23))))


@njit(fastmath=FAST_MATH, inline="always", cache=True)
def _pair_of(low: Any, high: Any) -> Any:
    """Two fp32 values as bf16 in one word, rounded to the nearest, ties to even."""
    first, second = word_of(low), word_of(high)
    first = (first + _I(0x7FFF) + ((first >> _I(16)) & _I(1))) >> _I(16)
    second = second + _I(0x7FFF) + ((second >> _I(16)) & _I(1))
    return (first & _I(0xFFFF)) | (second & _I(-65536))


@njit(cache=True)
def _tiles(chosen: Any, weights: Any, num_experts: int) -> tuple[Any, Any, Any, Any]:
    """Pairs (token, place) of real experts, sorted by expert, each expert's filled up to whole tiles.

    Returns:
        experts that somebody chose [n], first tile of each [n + 1], tokens int64 [tiles * 16] (what fills up is the
        token behind the last), their weights fp32 [tiles * 16].
    """
    counts = np.zeros(num_experts, np.int64)
    for expert in chosen.flat:
        if expert < num_experts:
            counts[expert] += 1
    hit = np.nonzero(counts)[0]
    starts = np.zeros(len(hit) + 1, np.int64)
    starts[1:] = np.cumsum((counts[hit] + TOKENS_PER_TILE - 1) // TOKENS_PER_TILE)
    fill = np.zeros(num_experts, np.int64)
    fill[hit] = starts[:-1] * TOKENS_PER_TILE
    tokens = np.full(starts[-1] * TOKENS_PER_TILE, len(chosen), np.int64)
    shares = np.zeros(len(tokens), np.float32)
    for token in range(chosen.shape[0]):
        for place in range(chosen.shape[1]):
            expert = chosen[token, place]
            if expert < num_experts:
                tokens[fill[expert]], shares[fill[expert]] = token, weights[token, place]
                fill[expert] += 1
    return hit, starts, tokens, shares


@njit(inline="always", cache=True)
def _tiles_at_once(left: Any) -> Any:
    """Of an expert's tiles that are left; four are two and two, for one alone keeps the units waiting."""
    return 2 if left == MAX_TILES + 1 else min(left, MAX_TILES)


@njit(**KERNEL_OPTIONS)
def _turn_tiles(x: Any, tokens: Any, out: Any) -> None:
    """x int32 [tokens + 1, hidden / 2] -> out int32 [tiles, hidden / 2, 16]."""
    for tile in prange(len(out)):
        for pair in range(0, out.shape[1], TURNED_PAIRS):
            turn(x, tokens, tile, pair, out)


@njit(fastmath=FAST_MATH, inline="always", cache=True)
def _activate(sums: Any, shares: Any, num_tiles: int, tile: int, column: int, inner: Any) -> None:
    """silu(gate) * up * share of four columns: fp32 [8, tiles * 16] -> two rows of pairs of each tile."""
    lanes = num_tiles * TOKENS_PER_TILE
    for half in range(COLUMNS // 2):
        gate, up = 2 * half * lanes, (2 * half + COLUMNS) * lanes
        for t in range(num_tiles):
            for lane in range(TOKENS_PER_TILE):
                i = t * TOKENS_PER_TILE + lane
                share = shares[tile * TOKENS_PER_TILE + i]
                low = _silu(sums[gate + i]) * sums[up + i] * share
                high = _silu(sums[gate + lanes + i]) * sums[up + lanes + i] * share
                inner[tile + t, column // 2 + half, lane] = _pair_of(low, high)


@njit(**KERNEL_OPTIONS)
def _gate_up(weight: Any, x: Any, groups: Any, inner: Any, parts: int) -> None:
    """What goes into the down projection: x [tiles, hidden / 2, 16] -> inner [tiles, width / 2, 16], both in words."""
    hit, starts, _, shares = groups
    width = 2 * inner.shape[1]
    fours = width // COLUMNS
    for part in prange(parts):
        sums = np.empty(ROWS * MAX_TILES * TOKENS_PER_TILE, np.float32)
        first, last = COLUMNS * (fours * part // parts), COLUMNS * (fours * (part + 1) // parts)
        for place in range(len(hit)):
            row = hit[place] * 2 * width
            following = hit[min(place + 1, len(hit) - 1)] * 2 * width
            for begin in range(first, last, COLUMNS_IN_CACHE):
                tile = starts[place]
                while tile < starts[place + 1]:
                    num_tiles = _tiles_at_once(starts[place + 1] - tile)
                    for column in range(begin, min(last, begin + COLUMNS_IN_CACHE), COLUMNS):
                        own = row + column
                        ahead = own + COLUMNS if column + COLUMNS < last else following + first
                        if num_tiles == 3:
                            _3(weight, own, width, ahead, x, tile, sums)
                        elif num_tiles == 2:
                            _2(weight, own, width, ahead, x, tile, sums)
                        else:
                            _1(weight, own, width, ahead, x, tile, sums)
                        _activate(sums, shares, num_tiles, tile, column, inner)
                    tile += num_tiles


@njit(**KERNEL_OPTIONS)
def _down(weight: Any, inner: Any, groups: Any, out: Any, parts: int) -> None:
    """Add each pair's share to its token's row of out; what fills up a tile lands in the last row."""
    hit, starts, tokens, _ = groups
    hidden = out.shape[1]
    eights = hidden // ROWS
    for part in prange(parts):
        sums = np.empty(ROWS * DOWN_TILES * TOKENS_PER_TILE, np.float32)
        first, last = ROWS * (eights * part // parts), ROWS * (eights * (part + 1) // parts)
        for begin in range(first, last, OUTPUTS_IN_CACHE):
            end = min(last, begin + OUTPUTS_IN_CACHE)
            for place in range(len(hit)):
                row, following = hit[place] * hidden, hit[min(place + 1, len(hit) - 1)] * hidden
                tile = starts[place]
                while tile < starts[place + 1]:
                    num_tiles = min(DOWN_TILES, starts[place + 1] - tile)
                    for column in range(begin, end, ROWS):
                        own = row + column
                        ahead = own + ROWS if column + ROWS < end else following + begin
                        if num_tiles == 2:
                            _2_BY_TOKEN(weight, own, COLUMNS, ahead, inner, tile, sums)
                        else:
                            _1_BY_TOKEN(weight, own, COLUMNS, ahead, inner, tile, sums)
                        for i in range(num_tiles * TOKENS_PER_TILE):
                            token = tokens[tile * TOKENS_PER_TILE + i]
                            for r in range(ROWS):
                                out[token, column + r] += sums[ROWS * i + r]
                    tile += num_tiles


def expert_rows(x: Tensor, gate_up: Tensor, down: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """See `reference`; the experts in bf16, contiguous, on the host, of sizes that `takes_expert_rows`.

    Args:
        x: fp32 or bf16.
    """
    num_experts, hidden, width = down.shape
    # A row more: what fills up tiles reads zeros there and adds there.
    narrow, out = torch.zeros(len(x) + 1, hidden, dtype=torch.bfloat16), torch.zeros(len(x) + 1, hidden)
    narrow[:-1] = x
    torch.mul(x, (weights * (chosen >= num_experts)).sum(dim=1, keepdim=True), out=out[:-1])
    groups = _tiles(chosen.numpy(), weights.numpy(), num_experts)
    num_tiles = int(groups[1][-1])
    turned, inner = (torch.empty(num_tiles, size // 2, TOKENS_PER_TILE, dtype=torch.int32) for size in (hidden, width))
    with lock:
        parts = min(torch.get_num_threads(), get_num_threads())
        _turn_tiles(narrow.view(torch.int32).numpy(), groups[2], turned.numpy())
        _gate_up(bits_of(gate_up.flatten(0, 1)), turned.numpy(), groups, inner.numpy(), parts)
        _down(bits_of(down.flatten(0, 1)), inner.numpy(), groups, out.numpy(), parts)
    return out[:-1].to(x.dtype)
