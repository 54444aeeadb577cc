"""Large matrices in 8 or 4 bits, in place of bf16 ones: what is packed, and how the layers hold it.

A packed matrix can be sliced by rows and filled piece by piece like the tensor it stands for, so a checkpoint streams
into it without a second copy. The formats are `kernels/packing.py`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import torch
from torch import Tensor, nn

from kodkod_engine.kernels.packing import GROUP_SIZE, group_size_for, pack, pack_fp8, refine, unpack, unpack_fp8


class Precision(StrEnum):
    """How the weights of a part are kept."""

    BF16 = "bf16"
    """As they are stored: bf16, fp16 or fp32."""
    FP8 = "fp8"
    """e4m3 numbers with a scale per block, as Meituan publishes them."""
    INT8 = "int8"
    INT4 = "int4"

    @property
    def bits(self) -> int:
        """Per weight, scales not counted."""
        return {Precision.BF16: 16, Precision.FP8: 8, Precision.INT8: 8, Precision.INT4: 4}[self]


@dataclass(frozen=True, slots=True)
class Precisions:
    """Of each part. Norms, router, words, N-gram tables and the latent key and value maps are never packed."""

    experts: Precision = Precision.BF16
    attention: Precision = Precision.BF16
    dense: Precision = Precision.BF16
    head: Precision = Precision.BF16

    @classmethod
    def of(cls, name: str) -> Precisions:
        """The usual set for a name: 4 bits leave the head, which chooses the token, at 8; FP8, as published, at 16."""
        whole = Precision(name)
        head = {Precision.INT4: Precision.INT8, Precision.FP8: Precision.BF16}.get(whole, whole)
        return cls(whole, whole, whole, head)

    @property
    def is_packed(self) -> bool:
        """Whether any part is."""
        return any(part is not Precision.BF16 for part in (self.experts, self.attention, self.dense, self.head))


class PackedMatrix:
    """A matrix [..., out, in] as codes and scales, or some of its rows; not a copy.

    The scale of value [row, column] is `scales[row // row_block, column // group_size]`.
    """

    __slots__ = ("bits", "codes", "row_block", "scales")

    def __init__(self, codes: Tensor, scales: Tensor, bits: int, row_block: int = 1) -> None:
        """See `kernels.packing`: `pack`, or `pack_fp8`, whose scales rows share."""
        self.codes, self.scales, self.bits, self.row_block = codes, scales, bits, row_block

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix it stands for."""
        return (*self.codes.shape[:-1], self.codes.shape[-1] * 8 // self.bits)

    @property
    def is_fp8(self) -> bool:
        """Whether codes are e4m3 numbers; else they are integers."""
        return self.codes.dtype == torch.float8_e4m3fn

    @property
    def is_meta(self) -> bool:
        """Whether it has no memory yet."""
        return self.codes.is_meta

    @property
    def nbytes(self) -> int:
        """Codes and scales."""
        return self.codes.nbytes + self.scales.nbytes

    @property
    def group_size(self) -> int:
        """Neighbours along the input that share a scale."""
        return self.shape[-1] // self.scales.shape[-1]

    def __getitem__(self, rows: int | slice) -> PackedMatrix:
        """One matrix of a stack, or rows of one; rows begin and end where blocks do, the matrix's end excepted."""
        if isinstance(rows, int):
            return PackedMatrix(self.codes[rows], self.scales[rows], self.bits, self.row_block)
        first, last, _ = rows.indices(self.codes.shape[0])
        is_whole = self.codes.dim() == 2 and not first % self.row_block
        if self.row_block > 1 and not (is_whole and (not last % self.row_block or last == self.codes.shape[0])):
            raise ValueError(f"rows {first} to {last} cut a block of {self.row_block}")
        blocks = slice(first // self.row_block, -(-last // self.row_block))
        return PackedMatrix(self.codes[first:last], self.scales[blocks], self.bits, self.row_block)

    def chunk(self, count: int) -> tuple[PackedMatrix, ...]:
        """Parts of equally many rows."""
        return self.split(-(-self.codes.shape[0] // count))

    def split(self, rows: int) -> tuple[PackedMatrix, ...]:
        """Parts of so many rows, the last perhaps of fewer."""
        return tuple(self[first : first + rows] for first in range(0, self.codes.shape[0], rows))

    def copy_(self, values: Tensor) -> None:
        """Pack values [..., out, in] into its memory."""
        if self.is_fp8:
            codes, scales = pack_fp8(values, self.row_block, self.group_size)
        else:
            codes, scales = pack(values, self.bits, self.group_size)
        self.codes.copy_(codes)
        self.scales.copy_(scales)

    def copy_scales(self, scales: Tensor) -> None:
        """Take over the scales of a published FP8 matrix.

        Args:
            scales: fp32 [out / 128, in / 128], rounded up.
        """
        self.scales.copy_(refine(scales, (self.shape[-2], self.shape[-1]), self.row_block, self.group_size))

    def unpacked(self) -> Tensor:
        """The matrix it stands for: fp32 [..., out, in]."""
        if self.is_fp8:
            return unpack_fp8(self.codes, self.scales, self.row_block)
        return unpack(self.codes, self.scales, self.bits)


Slot: TypeAlias = Tensor | PackedMatrix
"""A place for a checkpoint's tensor: a view of a weight."""


class PackedParameter(nn.Module):
    """A packed matrix as a module owns it."""

    def __init__(self, shape: tuple[int, ...], precision: Precision, part_rows: int = 0) -> None:
        """`part_rows`: where the second of two matrices begins that are kept as one; 0 for a single matrix."""
        super().__init__()
        *stack, rows, columns = shape
        self.bits = precision.bits
        self.row_block = math.gcd(part_rows, GROUP_SIZE) if precision is Precision.FP8 else 1
        codes = torch.empty(*stack, rows, columns * self.bits // 8, dtype=_CODE_DTYPES[precision])
        scale_dtype = torch.float32 if precision is Precision.FP8 else torch.bfloat16
        blocks = -(-rows // self.row_block), columns // group_size_for(columns)
        self.codes = nn.Parameter(codes, requires_grad=False)
        self.scales = nn.Parameter(torch.empty(*stack, *blocks, dtype=scale_dtype), requires_grad=False)

    @property
    def matrix(self) -> PackedMatrix:
        """All of it."""
        return PackedMatrix(self.codes.detach(), self.scales.detach(), self.bits, self.row_block)


_CODE_DTYPES = {
    Precision.FP8: torch.float8_e4m3fn,
    Precision.INT8: torch.int8,
    Precision.INT4: torch.uint8,
}


def map_rows(x: Tensor, matrix: PackedMatrix, tile_rows: int, multiply: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """x times a packed matrix transposed, unpacked tile by tile: for many rows.

    Args:
        x: [rows, in].
        matrix: [out, in].
        tile_rows: rows of the matrix unpacked at a time; whole blocks.
        multiply: of x and an unpacked tile.
    """
    return torch.cat([multiply(x, tile.unpacked()) for tile in matrix.split(tile_rows)], dim=1)
