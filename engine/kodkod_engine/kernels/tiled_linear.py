"""A linear map of some dozen tokens, on processors that multiply bf16 in vectors.

torch's product copies the weight into another order before it multiplies, and a packed one would have to be unpacked to
memory first. For so few tokens either takes longer than multiplying. Here the tokens are brought into that order,
sixteen to a tile; every thread unpacks some rows of the weight at a time, which stay in its second level cache until
all tiles have met them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numba import get_num_threads, njit
from torch import Tensor

from kodkod_engine.kernels.bf16 import SERIAL_OPTIONS, bits_of, lock
from kodkod_engine.kernels.expert_rows import Weight
from kodkod_engine.kernels.in_parts import in_parts
from kodkod_engine.kernels.tile_products import (
    MANY_ROWS,
    MAX_TILES,
    ROWS,
    SHAPES,
    TOKENS_PER_TILE,
    TURNED_PAIRS,
    has_tile_products,
    products_by_token,
    turn_tiles,
)
from kodkod_engine.kernels.weight_rows import bring, by_kind, lies

CACHED_VALUES = 196_608
"""Of a weight at a time; in bf16 384 KiB, beside as much of the tokens."""

_16_BY_1, _8_BY_1, _8_BY_2 = (products_by_token[shape] for shape in SHAPES)


def reference(x: Tensor, weight: Tensor) -> Tensor:
    """x rounded to bf16 times weight transposed, summed in fp32: [tokens, in] and [out, in] -> [tokens, out]."""
    return (x.bfloat16().float() @ weight.float().t()).to(x.dtype)


def takes_tiled_linear(shape: Sequence[int]) -> bool:
    """Whether a matrix [out, in], contiguous, on the host, has sizes for this kernel, here."""
    out, size = shape
    return has_tile_products() and out % ROWS == 0 and size % (2 * TURNED_PAIRS) == 0


@in_parts
def _products(weight: Any, x: Any, out: Any, step: int, parts: int, part: int) -> None:
    """x in words [tiles, in / 2, 16] -> out fp32 [tokens, outputs], `step` outputs at a time."""
    num_tokens, outputs = out.shape
    eights = outputs // ROWS
    sums = np.empty(ROWS * MAX_TILES * TOKENS_PER_TILE, np.float32)
    room = np.empty((step, 2 * x.shape[1]), np.uint16)
    rows, later = by_kind(weight, weight, room), lies(weight)
    first, last = ROWS * (eights * part // parts), ROWS * (eights * (part + 1) // parts)
    for begin in range(first, last, step):
        end = min(last, begin + step)
        bring(weight, begin, end - begin, room, 0)
        tile = 0
        while tile < len(x):
            num_tiles = min(MAX_TILES, len(x) - tile)
            column = begin
            while column < end:
                own = by_kind(weight, column, column - begin)
                count = MANY_ROWS if num_tiles == 1 and end - column >= MANY_ROWS else ROWS
                ahead = min(by_kind(weight, column + count, column + step), outputs - count)
                if count == MANY_ROWS:
                    _16_BY_1(rows, own, count // 2, later, ahead, count // 2, x, tile, sums)
                elif num_tiles == 2:
                    _8_BY_2(rows, own, count // 2, later, ahead, count // 2, x, tile, sums)
                else:
                    _8_BY_1(rows, own, count // 2, later, ahead, count // 2, x, tile, sums)
                for i in range(min(num_tiles * TOKENS_PER_TILE, num_tokens - tile * TOKENS_PER_TILE)):
                    for r in range(count):
                        out[tile * TOKENS_PER_TILE + i, column + r] = sums[count * i + r]
                column += count
            tile += num_tiles


@njit(**SERIAL_OPTIONS)
def _kernel(weight: Any, x: Any, out: Any, step: int, parts: int) -> None:
    _products(weight, x, out, step, parts)


def tiled_linear(x: Tensor, weight: Weight, outputs: int) -> Tensor:
    """See `reference`; the weight contiguous, on the host, of a size that `takes_tiled_linear`.

    Args:
        x: fp32 or bf16 [tokens, in].
        weight: bf16 [outputs, in], or a packed matrix of as many rows.
        outputs: of the weight.
    """
    num_tokens, size = x.shape
    num_tiles = -(-num_tokens // TOKENS_PER_TILE)
    # A row more: what fills up the last tile reads zeros there.
    narrow = torch.zeros(num_tokens + 1, size, dtype=torch.bfloat16)
    narrow[:-1] = x
    tokens = np.minimum(np.arange(num_tiles * TOKENS_PER_TILE), num_tokens)
    turned = torch.empty(num_tiles, size // 2, TOKENS_PER_TILE, dtype=torch.int32)
    out = torch.empty(num_tokens, outputs)
    step = max(MANY_ROWS, CACHED_VALUES // size // MANY_ROWS * MANY_ROWS)
    with lock:
        parts = min(torch.get_num_threads(), get_num_threads())
        turn_tiles(narrow.view(torch.int32).numpy(), tokens, turned.numpy())
        own = bits_of(weight) if isinstance(weight, Tensor) else weight
        _kernel(own, turned.numpy(), out.numpy(), step, parts)
    return out.to(x.dtype)
