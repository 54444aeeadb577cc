"""Pieces that the output-centric kernels share: rows of a matrix and of an input as tuples of tiles in registers.

All loads of a tuple are issued before the first tile is used, which is what keeps the memory busy.
"""

from __future__ import annotations

import triton
import triton.language as tl

MAX_INNER = 1024
"""Columns of a tile: 128 threads with eight values of two bytes each."""

TILE_VALUES = 16_384
"""Weights a program holds at a time; 32 KiB in bf16, 64 registers a thread."""


def inner_of(size: int) -> int:
    """Columns of a tile: a power of two that divides the row, or one that covers it with a masked end."""
    divisor = min(MAX_INNER, size & -size)
    return divisor if divisor >= 128 else min(MAX_INNER, int(triton.next_power_of_2(size)))


def rows_for(size: int) -> int:
    """Outputs of a program: the power of two whose weights are at most `TILE_VALUES`, at most eight."""
    return max(1, min(8, 1 << (max(1, TILE_VALUES // size).bit_length() - 1)))


@triton.jit
def tiles_of(weight, rows, inside, SIZE: tl.constexpr, INNER: tl.constexpr):
    """Rows of a matrix [.., SIZE] as tiles [rows, INNER], in its own dtype; 0 where not inside."""
    columns = tl.arange(0, INNER)
    tiles = ()
    for start in tl.static_range(0, SIZE, INNER):
        at = weight + rows[:, None] * SIZE + (start + columns)[None, :]
        mask = inside[:, None]
        if SIZE % INNER != 0:
            mask = mask & (start + columns < SIZE)[None, :]
        tiles = tiles + (tl.load(at, mask=mask, other=0.0),)  # noqa: RUF005 - tuples do not unpack here
    return tiles


@triton.jit
def row_of(x, SIZE: tl.constexpr, INNER: tl.constexpr):
    """One row [SIZE] as tiles [INNER] in fp32."""
    columns = tl.arange(0, INNER)
    tiles = ()
    for start in tl.static_range(0, SIZE, INNER):
        tile = tl.load(x + start + columns, mask=start + columns < SIZE, other=0.0)
        tiles = tiles + (tile.to(tl.float32),)  # noqa: RUF005
    return tiles


@triton.jit
def unit_rows(values, norm, eps, dtype: tl.constexpr, SIZE: tl.constexpr, INNER: tl.constexpr):
    """A row of `row_of` normalised as the module does: rounded to `dtype` before it meets the weight and after."""
    columns = tl.arange(0, INNER)
    squares = tl.zeros([INNER], dtype=tl.float32)
    for chunk in tl.static_range(len(values)):
        squares += values[chunk] * values[chunk]
    factor = 1.0 / tl.sqrt(tl.sum(squares, axis=0) / SIZE + eps)
    tiles = ()
    for chunk in tl.static_range(len(values)):
        inside = chunk * INNER + columns < SIZE
        weights = tl.load(norm + chunk * INNER + columns, mask=inside, other=0.0).to(tl.float32)
        unit = (values[chunk] * factor).to(dtype).to(tl.float32) * weights
        tiles = tiles + (unit.to(dtype).to(tl.float32),)  # noqa: RUF005
    return tiles
