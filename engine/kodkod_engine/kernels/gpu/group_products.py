"""Packed weights times a few tokens on the tensor cores, a warp for each group of codes that share a scale.

One by one, codes cost more to turn into numbers than to read: five to eight instructions a value, where an H200 has
time for seven while it reads a byte. Here they stay nearly as they lie: 8-bit codes are multiplied as integers, 4-bit
ones as integers sixteen times as large, FP8 ones as halves. The token is scaled by a power of two; where codes are
integers it becomes two 8-bit digits, right to half a unit 13 bits below its largest value: less than rounding the token
to bf16 cost, unless that value is 32 times the root of the values' mean square.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from kodkod_engine.kernels.gpu.tiles import INTERPRETED, Stored

TOP = tl.constexpr(8192.0)
"""What the largest value of a token is scaled to at least; it stays below twice as much."""

LEAST_POWER = tl.constexpr(27 << 23)
"""The bits of 2 ** -100: a token of zeros is scaled by something."""

LEAST_PRODUCT = 32
"""Values of a group at least: the tensor cores multiply no fewer of 8 bits at a time."""

ROWS = 16
"""Outputs of a program, and as many more of a pair."""

HELD_CODES = 16_384
"""Bytes that a warp holds of a matrix; with twice as many registers run short."""


def fits_groups(stored: Stored, dtype: torch.dtype) -> bool:
    """Whether a packed matrix and inputs of this dtype are some for these products."""
    is_short = dtype.itemsize == 2  # two digits are as good as such a number, not as fp32
    return is_short and stored.per_group * stored.halves >= LEAST_PRODUCT


def group_meta(stored: Stored, held_rows: int = ROWS) -> dict[str, Any]:
    """What a kernel over a matrix of `fits_groups` is compiled for, warps included; a program holds so many rows."""
    groups = stored.codes.shape[-1] // stored.per_group
    warps = 4 if held_rows * stored.codes.shape[-1] <= 4 * HELD_CODES else 8
    return {
        "LENGTH": stored.codes.shape[-1],
        "PER": stored.per_group,
        "HALVES": stored.halves,
        "ROW_BLOCK": stored.row_block,
        "TOGETHER": min(warps, groups & -groups),
        "num_warps": warps,
    }


@triton.jit
def group_tiles(codes, rows, inside, LENGTH: tl.constexpr, PER: tl.constexpr, TOGETHER: tl.constexpr):
    """Rows of a matrix [.., LENGTH] as tiles [TOGETHER, rows, PER], as they are stored; 0 where not inside."""
    groups, columns = tl.arange(0, TOGETHER), tl.arange(0, PER)
    own = codes + rows[None, :, None] * LENGTH + groups[:, None, None] * PER + columns[None, None, :]
    tiles = ()
    for start in tl.static_range(0, LENGTH, TOGETHER * PER):
        tiles = tiles + (tl.load(own + start, mask=inside[None, :, None], other=0.0),)  # type: ignore[assignment]  # noqa: RUF005  # Triton grows tuples by + alone
    return tiles


@triton.jit
def group_scales(scales, rows, inside, GROUPS: tl.constexpr, ROW_BLOCK: tl.constexpr, TOGETHER: tl.constexpr):
    """The scales of `group_tiles`, [TOGETHER, rows] each."""
    own = scales + rows[None, :] // ROW_BLOCK * GROUPS + tl.arange(0, TOGETHER)[:, None]
    tiles = ()
    for start in tl.static_range(0, GROUPS, TOGETHER):
        tiles = tiles + (tl.load(own + start, mask=inside[None, :], other=0.0),)  # type: ignore[assignment]  # noqa: RUF005  # Triton grows tuples by + alone
    return tiles


@triton.jit
def power_of(most):
    """The power of two that is at most the largest of some magnitudes, a tensor of their bits; infinite where something
    is not finite."""
    return tl.maximum(tl.max(most) & 0x7F800000, LEAST_POWER).to(tl.float32, bitcast=True)


@triton.jit
def sixteenfold(tile):
    """Codes of 4 bits as 8-bit integers sixteen times as large: first halves, second halves."""
    if INTERPRETED:
        low, high = tile << 4, tile & -16
    else:
        # Four codes at a time; the compiler would take them one by one.
        low, high = tl.inline_asm_elementwise(
            "shl.b32 $0, $2, 4; and.b32 $0, $0, 0xF0F0F0F0; and.b32 $1, $2, 0xF0F0F0F0;",
            "=&r,=r,r",
            [tile],
            dtype=(tl.int8, tl.int8),
            is_pure=True,
            pack=4,
        )
    return low, high


@triton.jit
def integers(tile, HALVES: tl.constexpr):
    """Codes as 8-bit integers [TOGETHER, rows, PER * HALVES]; 4-bit ones sixteen times as large."""
    if HALVES == 2:
        low, high = sixteenfold(tile)
        sides = tl.permute(tl.join(low, high), (0, 1, 3, 2))
        tile = tl.reshape(sides, (tile.shape[0], tile.shape[1], 2 * tile.shape[2]))
    return tile


@triton.jit
def digits(scaled):
    """Values of less than twice `TOP` as two digits of 8 bits each, rounded: 256 times the first and the second."""
    whole = tl.floor(scaled + 0.5).to(tl.int32)
    high = (whole + 128) >> 8
    return high.to(tl.int8), (whole - (high << 8)).to(tl.int8)


@triton.jit
def scale_down(power, HALVES: tl.constexpr):
    """What takes back the scales of tokens and codes."""
    both: tl.constexpr = 1.0 / (TOP * (16 if HALVES == 2 else 1))
    return power * both
