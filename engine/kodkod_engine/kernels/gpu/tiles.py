"""Pieces that the output-centric kernels share: rows of a matrix and of an input as tuples of tiles in registers.

All loads of a tuple are issued before the first tile is used, which is what keeps the memory busy. A matrix is plain or
packed (`kernels/packing.py`); the kernels read either as it lies, as `Stored` describes it. Its rows are cut into tiles
of INNER codes; a code is a value, or two values of 4 bits, half a group apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.layers.packed import PackedMatrix, Slot

MAX_INNER = 1024
"""Codes of a tile: 128 threads with eight values of two bytes each."""

TILE_CODES = 16_384
"""Codes a program holds at a time; in bf16 32 KiB, 64 registers a thread."""


INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@dataclass(frozen=True, slots=True)
class Stored:
    """A matrix [outputs, size], or a stack of them, as a kernel takes it."""

    codes: Tensor
    """[..., outputs, length]: values themselves, or what they are packed into."""
    scales: Tensor
    """[..., blocks, groups]; of a plain matrix not read."""
    size: int
    halves: int = 1
    """Values of a code."""
    per_group: int = 0
    """Codes that share a scale; 0 for a plain matrix."""
    row_block: int = 1
    """Outputs that share a scale."""

    @classmethod
    def of(cls, home: Slot) -> Stored:
        """A plain or packed matrix where it lies."""
        if isinstance(home, PackedMatrix):
            codes = home.codes.view(torch.int8) if home.codes.dtype == torch.uint8 else home.codes
            halves = 8 // home.bits
            return cls(codes, home.scales, home.shape[-1], halves, home.group_size // halves, home.row_block)
        return cls(home, home, home.shape[-1])

    @property
    def outputs(self) -> int:
        """Rows of a matrix."""
        return self.codes.shape[-2]

    @property
    def tile_rows(self) -> int:
        """Outputs of a program: the power of two whose codes are at most `TILE_CODES`, at most eight."""
        return max(1, min(8, 1 << (max(1, TILE_CODES // self._length).bit_length() - 1)))

    @property
    def row_bytes(self) -> int:
        """Of an output's codes."""
        return self._length * self.codes.itemsize

    @property
    def _length(self) -> int:
        return self.codes.shape[-1]

    def meta(self) -> dict[str, Any]:
        """What a kernel is compiled for."""
        return {
            "LENGTH": self._length,
            "INNER": inner_of(self._length),
            "HALVES": self.halves,
            "PER": self.per_group,
            "ROW_BLOCK": self.row_block,
        }

    @property
    def stack_strides(self) -> tuple[int, int]:
        """Codes and scales of one matrix of a stack."""
        return self.codes.stride(0), self.scales.stride(0)


def inner_of(length: int) -> int:
    """Columns of a tile: a power of two that divides the row, or one that covers it with a masked end."""
    divisor = min(MAX_INNER, length & -length)
    return divisor if divisor >= 128 else min(MAX_INNER, int(triton.next_power_of_2(length)))


@triton.jit
def tiles_of(codes, rows, inside, LENGTH: tl.constexpr, INNER: tl.constexpr):
    """Rows of a matrix [.., LENGTH] as tiles [rows, INNER], as they are stored; 0 where not inside."""
    columns = tl.arange(0, INNER)
    tiles = ()
    for start in tl.static_range(0, LENGTH, INNER):
        at = codes + rows[:, None] * LENGTH + (start + columns)[None, :]
        mask = inside[:, None]
        if LENGTH % INNER != 0:
            mask = mask & (start + columns < LENGTH)[None, :]
        tiles = tiles + (tl.load(at, mask=mask, other=0.0),)  # type: ignore[assignment]  # noqa: RUF005  # Triton grows tuples by + alone
    return tiles


@triton.jit
def scales_of(
    scales, rows, inside, LENGTH: tl.constexpr, INNER: tl.constexpr, PER: tl.constexpr, ROW_BLOCK: tl.constexpr
):
    """The scales of `tiles_of`, [rows, groups of a tile] each; of a plain matrix something that nobody reads."""
    tiles = ()
    if PER > 0:
        groups: tl.constexpr = LENGTH // PER
        for start in tl.static_range(0, LENGTH, INNER):
            group = start // PER + tl.arange(0, INNER // PER)
            at = scales + (rows // ROW_BLOCK)[:, None] * groups + group[None, :]
            mask = inside[:, None]
            if LENGTH % INNER != 0:
                mask = mask & (group < groups)[None, :]
            tiles = tiles + (tl.load(at, mask=mask, other=0.0),)  # type: ignore[assignment]  # noqa: RUF005  # Triton grows tuples by + alone
    return tiles


@triton.jit
def row_of(x, LENGTH: tl.constexpr, INNER: tl.constexpr, HALVES: tl.constexpr, PER: tl.constexpr):
    """One row of an input as tiles [INNER], in its own dtype: the values that meet each code's first half, then its
    second's."""
    columns = tl.arange(0, INNER)
    is_whole: tl.constexpr = LENGTH % INNER == 0
    tiles = ()
    for half in tl.static_range(HALVES):
        for start in tl.static_range(0, LENGTH, INNER):
            code = start + columns
            place = code
            if HALVES > 1:
                place = code // PER * (HALVES * PER) + half * PER + code % PER
            tile = tl.load(x + place) if is_whole else tl.load(x + place, mask=code < LENGTH, other=0.0)
            tiles = tiles + (tile,)  # type: ignore[assignment]  # noqa: RUF005  # Triton grows tuples by + alone
    return tiles


@triton.jit
def normed_row(values, norm, eps, SIZE: tl.constexpr):
    """A row normalised as the module does, rounded to its dtype before it meets the norm's factors and after.

    Args:
        values: tiles of `row_of`.
        norm: tiles of the factors.
        SIZE: values in all.
    """
    squares = tl.zeros(values[0].shape, dtype=tl.float32)
    for chunk in tl.static_range(len(values)):
        wide = values[chunk].to(tl.float32)
        squares += wide * wide
    factor = 1.0 / tl.sqrt(tl.sum(squares) / SIZE + eps)
    tiles = ()
    for chunk in tl.static_range(len(values)):
        unit = (values[chunk].to(tl.float32) * factor).to(values[chunk].dtype).to(tl.float32)
        unit = (unit * norm[chunk].to(tl.float32)).to(values[chunk].dtype)
        tiles = tiles + (unit,)  # type: ignore[assignment]  # noqa: RUF005  # Triton grows tuples by + alone
    return tiles


# Devices convert integers at a quarter or an eighth of the pace of all else. A byte in the lowest place of 2^23's bits
# makes a number that is the byte larger; codes are shifted to be positive, and the sum is taken off again.


@triton.jit
def _numbers(tile):
    """Codes of one value each, in fp32."""
    if INTERPRETED or tile.dtype != tl.int8:
        return tile.to(tl.float32)
    return tl.inline_asm_elementwise(
        """{
            .reg .b32 codes, number;
            xor.b32 codes, $4, 0x80808080;
            prmt.b32 number, codes, 0x4B000000, 0x7440; mov.b32 $0, number; add.f32 $0, $0, 0fCB000080;
            prmt.b32 number, codes, 0x4B000000, 0x7441; mov.b32 $1, number; add.f32 $1, $1, 0fCB000080;
            prmt.b32 number, codes, 0x4B000000, 0x7442; mov.b32 $2, number; add.f32 $2, $2, 0fCB000080;
            prmt.b32 number, codes, 0x4B000000, 0x7443; mov.b32 $3, number; add.f32 $3, $3, 0fCB000080;
        }""",
        "=&f,=&f,=&f,=&f,r",
        [tile],
        dtype=tl.float32,
        is_pure=True,
        pack=4,
    )


@triton.jit
def _halves(tile):
    """Codes of two values of 4 bits: the lower ones and the higher ones, in fp32."""
    if INTERPRETED:
        wide = tile.to(tl.int32)
        return ((wide << 28) >> 28).to(tl.float32), (wide >> 4).to(tl.float32)
    return tl.inline_asm_elementwise(
        """{
            .reg .b32 codes, part, number;
            xor.b32 codes, $8, 0x88888888;
            and.b32 part, codes, 0x0F0F0F0F;
            prmt.b32 number, part, 0x4B000000, 0x7440; mov.b32 $0, number; add.f32 $0, $0, 0fCB000008;
            prmt.b32 number, part, 0x4B000000, 0x7441; mov.b32 $1, number; add.f32 $1, $1, 0fCB000008;
            prmt.b32 number, part, 0x4B000000, 0x7442; mov.b32 $2, number; add.f32 $2, $2, 0fCB000008;
            prmt.b32 number, part, 0x4B000000, 0x7443; mov.b32 $3, number; add.f32 $3, $3, 0fCB000008;
            shr.u32 part, codes, 4;
            and.b32 part, part, 0x0F0F0F0F;
            prmt.b32 number, part, 0x4B000000, 0x7440; mov.b32 $4, number; add.f32 $4, $4, 0fCB000008;
            prmt.b32 number, part, 0x4B000000, 0x7441; mov.b32 $5, number; add.f32 $5, $5, 0fCB000008;
            prmt.b32 number, part, 0x4B000000, 0x7442; mov.b32 $6, number; add.f32 $6, $6, 0fCB000008;
            prmt.b32 number, part, 0x4B000000, 0x7443; mov.b32 $7, number; add.f32 $7, $7, 0fCB000008;
        }""",
        "=&f,=&f,=&f,=&f,=&f,=&f,=&f,=&f,r",
        [tile],
        dtype=(tl.float32, tl.float32),
        is_pure=True,
        pack=4,
    )


@triton.jit
def part(tile, scale, low, high, HALVES: tl.constexpr, PER: tl.constexpr):
    """Products of a tile [rows, INNER] with values [INNER] of its first and second halves, in fp32: each on its own of
    a plain matrix, [rows, INNER], else summed within groups and scaled, [rows, groups]."""
    if HALVES == 1:
        product = _numbers(tile) * low.to(tl.float32)[None, :]
    else:
        first, second = _halves(tile)
        product = first * low.to(tl.float32)[None, :] + second * high.to(tl.float32)[None, :]
    if PER > 0:
        rows: tl.constexpr = product.shape[0]
        groups: tl.constexpr = product.shape[1] // PER
        product = tl.sum(tl.reshape(product, (rows, groups, PER)), axis=2) * scale.to(tl.float32)
    return product


@triton.jit
def times(tiles, scales, values, HALVES: tl.constexpr, PER: tl.constexpr):
    """Rows of a matrix, as tiles and their scales, times one row of an input: fp32 [rows]."""
    chunks: tl.constexpr = len(tiles)
    behind: tl.constexpr = chunks * (HALVES - 1)
    scaled: tl.constexpr = PER > 0
    total = part(tiles[0], scales[0] if scaled else tiles[0], values[0], values[behind], HALVES, PER)
    for chunk in tl.static_range(1, chunks):
        scale = scales[chunk] if scaled else tiles[chunk]
        total += part(tiles[chunk], scale, values[chunk], values[behind + chunk], HALVES, PER)
    return tl.sum(total, axis=1)
