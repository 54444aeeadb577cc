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
        tiles = tiles + (tl.load(at, mask=mask, other=0.0),)  # type: ignore[assignment]  # noqa: RUF005
    return tiles


@triton.jit
def row_of(x, SIZE: tl.constexpr, INNER: tl.constexpr):
    """One row [SIZE] as tiles [INNER], in its own dtype."""
    columns = tl.arange(0, INNER)
    tiles = ()
    for start in tl.static_range(0, SIZE, INNER):
        if SIZE % INNER != 0:
            tile = tl.load(x + start + columns, mask=start + columns < SIZE, other=0.0)
        else:
            tile = tl.load(x + start + columns)
        tiles = tiles + (tile,)  # type: ignore[assignment]  # noqa: RUF005
    return tiles


@triton.jit
def normed_row(values, norm, eps, SIZE: tl.constexpr):
    """A row normalised as the module does, rounded to its dtype before it meets the norm's factors and after.

    Args:
        values: tiles of `row_of`.
        norm: tiles of the factors.
    """
    squares = tl.zeros(values[0].shape, dtype=tl.float32)
    for chunk in tl.static_range(len(values)):
        wide = values[chunk].to(tl.float32)
        squares += wide * wide
    factor = 1.0 / tl.sqrt(tl.sum(squares, axis=0) / SIZE + eps)
    tiles = ()
    for chunk in tl.static_range(len(values)):
        unit = (values[chunk].to(tl.float32) * factor).to(values[chunk].dtype).to(tl.float32)
        tiles = tiles + ((unit * norm[chunk].to(tl.float32)).to(values[chunk].dtype),)  # type: ignore[assignment]  # noqa: RUF005
    return tiles


@triton.jit
def times(tiles, values):
    """Sum over columns of a tuple of tiles [rows, INNER] with one of tiles [INNER]: fp32 [rows]."""
    total = tiles[0].to(tl.float32) * values[0].to(tl.float32)[None, :]
    for chunk in tl.static_range(1, len(tiles)):
        total += tiles[chunk].to(tl.float32) * values[chunk].to(tl.float32)[None, :]
    return tl.sum(total, axis=1)
